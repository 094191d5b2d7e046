"""Noise schedulers where diffusers' own are not enough: solvers over flow-matching schedules, and two discrete ones.

diffusers' solvers that know flows each make noise levels of their own: they take no `sigmas` (which LTX, HunyuanVideo and Mochi
pass), round timesteps to whole numbers, and DEIS ends above zero. Here every solver runs over the noise levels of the checkpoint's own
scheduler, so that shift, dynamic shifting, stretching, Karras levels and whatever a pipeline passes hold for all of them.
"""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler

_OF_THE_CHECKPOINT = (
    "num_train_timesteps",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
)
"""Settings that pipelines read from their scheduler, to work out what to pass to it."""


class OverFlow:
    """Runs a solver over the noise levels of a flow-matching checkpoint's own scheduler."""

    settings: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}  # noqa: RUF012
    #: Solvers of logarithms cannot start where the data's share is zero.
    highest_level = 1 - 1e-6
    draws_noise = False

    #: The checkpoint's own kind of scheduler, which makes the noise levels.
    levels: Any
    step_index: Any

    @classmethod
    def over(cls, checkpoint: Any) -> Any:
        """Make one for a request; `checkpoint` is the scheduler that the model came with."""
        solver: Any = cls(**cls.settings)
        config = dict(checkpoint.config)
        shared = {key: value for key, value in config.items() if key in _OF_THE_CHECKPOINT}
        solver.register_to_config(**shared)
        # diffusers' Heun makes each level twice and takes none from outside
        is_heun = isinstance(checkpoint, diffusers.FlowMatchHeunDiscreteScheduler)
        levels_class = diffusers.FlowMatchEulerDiscreteScheduler if is_heun else type(checkpoint)
        solver.levels = levels_class.from_config(checkpoint.config)
        return solver

    @property
    def runs_backwards(self) -> bool:
        """Whether times count from noise to data and the model predicts the velocity in that direction (Mochi)."""
        return bool(self.levels.config.get("invert_sigmas", False))

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Lay the solver over the levels that the checkpoint's scheduler makes of the same arguments."""
        base: Any = super()
        self._set_levels(num_inference_steps, device, sigmas, mu, timesteps)
        own = self.levels.sigmas.to(device="cpu", dtype=torch.float32)
        times = own[:-1] * self.levels.config.num_train_timesteps
        if timesteps is not None:
            times = self.levels.timesteps.to(device="cpu", dtype=torch.float32)
        noise = 1 - own if self.runs_backwards else own.clone()
        noise[-1] = 0  # a checkpoint may end at its last level: a step of no length, which solvers divide by
        base.set_timesteps(len(times), device=device)
        self.num_inference_steps = len(times)
        # nearer to one only where the next level leaves no room: equal levels are steps of no length too
        noise[0] = min(float(noise[0]), max(self.highest_level, (1 + float(noise[1])) / 2))
        self._lay_out(noise, times.to(device))

    def _set_levels(
        self, num_inference_steps: int | None, device: Any, sigmas: Any, mu: float | None, timesteps: Any
    ) -> None:
        config = self.levels.config
        if sigmas is None and timesteps is None and type(self.levels).__name__.startswith("FlowMatch"):
            # Left to itself this class spends its last step on a level next to zero; these are UniPC's
            assert num_inference_steps is not None
            sigmas = np.linspace(1, 1 / config.num_train_timesteps, num_inference_steps + 1)[:-1]
        if mu is None and config.get("use_dynamic_shifting", False):
            mu = 1.0  # what EasyAnimate passes to the one class that it knows
        given = {"sigmas": sigmas, "mu": mu, "timesteps": timesteps}
        given = {name: value for name, value in given.items() if value is not None}
        if "sigmas" not in given and "timesteps" not in given:
            given["num_inference_steps"] = num_inference_steps
        self.levels.set_timesteps(device=device, **given)

    def _lay_out(self, noise: torch.Tensor, times: torch.Tensor) -> None:
        self.sigmas, self.timesteps = noise, times

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Step in float32, whatever the model's dtype."""
        velocity = -model_output if self.runs_backwards else model_output
        previous = self._step(velocity.float(), timestep, sample.float(), generator).to(sample.dtype)
        return diffusers.schedulers.scheduling_utils.SchedulerOutput(previous) if return_dict else (previous,)

    def _step(
        self, velocity: torch.Tensor, timestep: Any, sample: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        base: Any = super()
        extra = {"generator": generator} if self.draws_noise else {}
        previous: torch.Tensor = base.step(
            velocity, self._first(timestep), sample, return_dict=False, **extra
        )[0]
        return previous

    def _first(self, timestep: Any) -> float:
        """Only the first one is read, to find the position: reading each would wait for the device."""
        return float(timestep) if self.step_index is None else 0.0

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Any = None) -> int:
        """Find the nearest level: SkyReels-V2's diffusion forcing cuts the fractions off. Of two equal ones, the last.

        The first of them is where a method of two passes ends a step, and the last is where it begins one.
        """
        times = self.timesteps if schedule_timesteps is None else schedule_timesteps
        nearest = times[(times - torch.as_tensor(timestep).to(times)).abs().argmin()]
        return int((times == nearest).nonzero()[-1])

    def add_noise(self, sample: torch.Tensor, noise: torch.Tensor, timestep: Any) -> torch.Tensor:
        """Mix `noise` into clean latents as of `timestep`, where a pipeline starts from a given video."""
        at = [self.index_for_timestep(each) for each in torch.as_tensor(timestep).reshape(-1)]
        level = self.sigmas[at].to(device=sample.device, dtype=sample.dtype)
        level = level.reshape(-1, *[1] * (sample.ndim - 1))
        return level * noise + (1 - level) * sample

    def scale_noise(self, sample: torch.Tensor, timestep: Any, noise: torch.Tensor) -> torch.Tensor:
        """Do the same under the name and in the order that flow-matching pipelines use."""
        return self.add_noise(sample, noise, timestep)


class FlowUniPC(OverFlow, diffusers.UniPCMultistepScheduler):  # type: ignore[misc]
    """UniPC, second order, predictor and corrector."""


class FlowDPMSolverMultistep(OverFlow, diffusers.DPMSolverMultistepScheduler):  # type: ignore[misc]
    """DPM-Solver++ (2M)."""


class FlowDPMSolverSinglestep(OverFlow, diffusers.DPMSolverSinglestepScheduler):  # type: ignore[misc]
    """DPM-Solver++ (2S)."""

    settings = {**OverFlow.settings, "lower_order_final": True}  # noqa: RUF012


class FlowDEIS(OverFlow, diffusers.DEISMultistepScheduler):  # type: ignore[misc]
    """DEIS in log rho, second order; its last step is of first order and reaches zero."""

    highest_level = 0.999  # it divides by the data's share, where diffusers' own starts too

    def _step(
        self, velocity: torch.Tensor, timestep: Any, sample: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        if self.step_index is None:
            self._init_step_index(timestep)
        if self.sigmas[self.step_index + 1] > 0:
            return super()._step(velocity, timestep, sample, generator)
        level = self.sigmas[self.step_index]
        self._step_index += 1
        return sample - level * velocity


class FlowEuler(OverFlow, diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Euler's method."""

    settings = {}  # noqa: RUF012


class FlowHeun(OverFlow, diffusers.FlowMatchHeunDiscreteScheduler):  # type: ignore[misc]
    """Heun's method: two passes of the model a step, one in the last."""

    settings = {}  # noqa: RUF012

    def _lay_out(self, noise: torch.Tensor, times: torch.Tensor) -> None:
        self.timesteps = torch.cat([times[:1], times[1:].repeat_interleave(2)])
        self.sigmas = torch.cat([noise[:1], noise[1:-1].repeat_interleave(2), noise[-1:]])


class FlowEulerAncestral(OverFlow, diffusers.LTXEulerAncestralRFScheduler):  # type: ignore[misc]
    """Euler's method that goes a little too far and draws noise to come back."""

    settings = {}  # noqa: RUF012
    draws_noise = True


class FlowLCM(OverFlow, diffusers.FlowMatchLCMScheduler):  # type: ignore[misc]
    """Jump to the clean video and draw noise down to the next level: for few-step distilled checkpoints."""

    settings = {}  # noqa: RUF012
    draws_noise = True


FLOW_SOLVERS: dict[str, type[OverFlow]] = {
    "UniPCMultistepScheduler": FlowUniPC,
    "DPMSolverMultistepScheduler": FlowDPMSolverMultistep,
    "DPMSolverSinglestepScheduler": FlowDPMSolverSinglestep,
    "DEISMultistepScheduler": FlowDEIS,
    "FlowMatchEulerDiscreteScheduler": FlowEuler,
    "FlowMatchHeunDiscreteScheduler": FlowHeun,
    "LTXEulerAncestralRFScheduler": FlowEulerAncestral,
    "FlowMatchLCMScheduler": FlowLCM,
}
"""By the name of the diffusers class whose steps they take."""


class LMS(LMSDiscreteScheduler):  # type: ignore[misc]
    """diffusers' linear multistep scheduler without scipy: the integrals are of polynomials, and so exact."""

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        """Integrate the Lagrange polynomial that is 1 at one of the last levels and 0 at the others."""
        at = [float(self.sigmas[t - k]) for k in range(order)]
        basis = np.poly1d([1.0])
        for k in range(order):
            if k != current_order:
                basis = basis * np.poly1d([1.0, -at[k]]) / (at[current_order] - at[k])
        integral = basis.integ()
        return float(integral(float(self.sigmas[t + 1])) - integral(at[0]))

    def step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, return_dict: bool = True
    ) -> Any:
        """Step with as many of the last derivatives as there are, also where a request starts in the middle."""
        order = min(len(self.derivatives) + 1, 4)
        return super().step(model_output, timestep, sample, order=order, return_dict=return_dict)


class _Interpolating:
    """Hands numbers to numpy functions, where diffusers hands tensors, which numpy is about to stop taking."""

    def _sigma_to_t(self, sigma: Any, log_sigmas: Any) -> Any:
        base: Any = super()
        return base._sigma_to_t(np.float64(sigma), torch.as_tensor(log_sigmas).numpy())


class KDPM2(_Interpolating, diffusers.KDPM2DiscreteScheduler):  # type: ignore[misc]
    """The midpoint method of DPM-Solver-2: two passes a step."""


class KDPM2Ancestral(_Interpolating, diffusers.KDPM2AncestralDiscreteScheduler):  # type: ignore[misc]
    """The same, drawing fresh noise."""


class IPNDM(diffusers.DDIMScheduler):  # type: ignore[misc]
    """Improved PNDM over the checkpoint's schedule: Adams-Bashforth on noise predictions, moved as DDIM does.

    diffusers' class of that name has a schedule of its own and tells the model times from 0 to 1.
    """

    _WEIGHTS = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        self._noises: list[torch.Tensor] = []  # newest first

    def step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, return_dict: bool = True
    ) -> Any:
        """Move along the noise that the last predictions, extrapolated, give for the middle of the step."""
        data_share = self.alphas_cumprod[timestep]
        before = timestep - self.config.num_train_timesteps // self.num_inference_steps
        next_share = self.alphas_cumprod[before] if before >= 0 else self.final_alpha_cumprod
        noise = self._noise(model_output, sample, data_share)
        self._noises = [noise, *self._noises[:3]]
        weights = self._WEIGHTS[len(self._noises) - 1]
        noise = sum(weight * noise for weight, noise in zip(weights, self._noises, strict=True))
        clean = (sample - (1 - data_share) ** 0.5 * noise) / data_share**0.5
        previous = next_share**0.5 * clean + (1 - next_share) ** 0.5 * noise
        return diffusers.schedulers.scheduling_utils.SchedulerOutput(previous) if return_dict else (previous,)

    def _noise(self, output: torch.Tensor, sample: torch.Tensor, data_share: torch.Tensor) -> torch.Tensor:
        if self.config.prediction_type == "v_prediction":
            return data_share**0.5 * output + (1 - data_share) ** 0.5 * sample
        if self.config.prediction_type == "sample":
            return (sample - data_share**0.5 * output) / (1 - data_share) ** 0.5
        return output


DISCRETE_SOLVERS: dict[str, Any] = {
    "LMSDiscreteScheduler": LMS,
    "IPNDMScheduler": IPNDM,
    "KDPM2DiscreteScheduler": KDPM2,
    "KDPM2AncestralDiscreteScheduler": KDPM2Ancestral,
}
"""By the name of the diffusers class that they stand for; the others are used as they are."""

"""The noise schedulers by name: what each kind of model takes, what stands in for what it does not, and why.

Names are diffusers' class names. A name is native (this solver runs), mapped (another one, of which the job's metadata tells)
or refused. The eighteen names are those that the stablediffusionapi documentation lists; ours are the classes beside them that
video checkpoints come with.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .errors import InvalidParameter
from .model_spec import ModelSpec, SchedulerFamily

DDPM = "DDPMScheduler"
DDIM = "DDIMScheduler"
PNDM = "PNDMScheduler"
LMS = "LMSDiscreteScheduler"
EULER = "EulerDiscreteScheduler"
EULER_ANCESTRAL = "EulerAncestralDiscreteScheduler"
DPM_MULTISTEP = "DPMSolverMultistepScheduler"
HEUN = "HeunDiscreteScheduler"
KDPM2 = "KDPM2DiscreteScheduler"
DPM_SINGLESTEP = "DPMSolverSinglestepScheduler"
KDPM2_ANCESTRAL = "KDPM2AncestralDiscreteScheduler"
UNIPC = "UniPCMultistepScheduler"
DDIM_INVERSE = "DDIMInverseScheduler"
DEIS = "DEISMultistepScheduler"
IPNDM = "IPNDMScheduler"
KARRAS_VE = "KarrasVeScheduler"
SCORE_SDE_VE = "ScoreSdeVeScheduler"
LCM = "LCMScheduler"

EIGHTEEN = (
    DDPM, DDIM, PNDM, LMS, EULER, EULER_ANCESTRAL, DPM_MULTISTEP, HEUN, KDPM2, DPM_SINGLESTEP, KDPM2_ANCESTRAL, UNIPC,
    DDIM_INVERSE, DEIS, IPNDM, KARRAS_VE, SCORE_SDE_VE, LCM,
)  # fmt: skip
"""As the vendors' documentation lists them."""

SA_SOLVER = "SASolverScheduler"
FLOW_EULER = "FlowMatchEulerDiscreteScheduler"
FLOW_HEUN = "FlowMatchHeunDiscreteScheduler"
FLOW_EULER_ANCESTRAL = "LTXEulerAncestralRFScheduler"
FLOW_LCM = "FlowMatchLCMScheduler"
COGVIDEOX_DDIM = "CogVideoXDDIMScheduler"
COGVIDEOX_DPM = "CogVideoXDPMScheduler"
EDM_EULER = "EDMEulerScheduler"
EDM_DPM = "EDMDPMSolverMultistepScheduler"

NAMES = (
    *EIGHTEEN, SA_SOLVER, FLOW_EULER, FLOW_HEUN, FLOW_EULER_ANCESTRAL, FLOW_LCM, COGVIDEOX_DDIM, COGVIDEOX_DPM, EDM_EULER, EDM_DPM,
)  # fmt: skip
"""Every name that means something here."""

Standing = Literal["native", "mapped", "refused"]

OWN = "the checkpoint's own"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a name."""

    #: In diffusers' spelling.
    name: str
    standing: Standing
    #: The class whose steps run; None is the one that the checkpoint came with. Of a refused name, what to ask for instead.
    scheduler: str | None
    reason: str = ""
    #: Most steps that it can take; 0 is any number.
    max_steps: int = 0

    @property
    def value(self) -> str:
        """What runs, in words."""
        return self.scheduler or OWN

    def to_dict(self) -> dict[str, str | None]:
        """Plain values, for replies and `--json`."""
        return {
            "name": self.name,
            "standing": self.standing,
            "scheduler": self.scheduler,
            "reason": self.reason,
        }


_UNUSABLE: dict[str, tuple[str, str]] = {
    DDIM_INVERSE: (DDIM, "it runs from a video to noise, not from noise to a video"),
    KARRAS_VE: (HEUN, "it takes each step in two calls of its own, which no video pipeline makes"),
    SCORE_SDE_VE: (EULER_ANCESTRAL, "it predicts and corrects in calls of its own, which no video pipeline makes"),
}  # fmt: skip
"""Names that no pipeline can run: the nearest usable one, and the reason."""

_MULTISTEP = "a multistep method on noise predictions; DEIS is the one that is made for flows"
_NO_FLOW = "the model predicts noise, not a flow"
_NO_COGVIDEOX = "it is CogVideoX's form of the same method"

_FLOW: dict[str, tuple[str | None, str]] = {
    DDIM: (FLOW_EULER, "on a flow a step of DDIM is a step of Euler"),
    EULER: (FLOW_EULER, "Euler's method on a flow"),
    HEUN: (FLOW_HEUN, "Heun's method on a flow"),
    KDPM2: (DPM_SINGLESTEP, "the other second-order method that restarts every two steps; KDPM2 has no form for flows"),
    DDPM: (FLOW_EULER_ANCESTRAL, "draws fresh noise at each step, as ancestral steps on a flow do"),
    EULER_ANCESTRAL: (FLOW_EULER_ANCESTRAL, "Euler's ancestral method on a flow"),
    KDPM2_ANCESTRAL: (FLOW_EULER_ANCESTRAL, "the ancestral method that has a form for flows"),
    SA_SOLVER: (FLOW_EULER_ANCESTRAL, "the stochastic method that has a form for flows"),
    PNDM: (DEIS, _MULTISTEP),
    IPNDM: (DEIS, _MULTISTEP),
    LMS: (DEIS, _MULTISTEP),
    LCM: (FLOW_LCM, "the consistency steps on a flow"),
    COGVIDEOX_DDIM: (FLOW_EULER, "on a flow a step of DDIM is a step of Euler"),
    COGVIDEOX_DPM: (DPM_MULTISTEP, "the model is no CogVideoX"),
    EDM_EULER: (FLOW_EULER, "Euler's method on a flow"),
    EDM_DPM: (DPM_MULTISTEP, "the same method on a flow"),
}  # fmt: skip

_DISCRETE: dict[str, tuple[str | None, str]] = {
    FLOW_EULER: (EULER, _NO_FLOW),
    FLOW_HEUN: (HEUN, _NO_FLOW),
    FLOW_EULER_ANCESTRAL: (EULER_ANCESTRAL, _NO_FLOW),
    FLOW_LCM: (LCM, _NO_FLOW),
    COGVIDEOX_DDIM: (DDIM, _NO_COGVIDEOX),
    COGVIDEOX_DPM: (DPM_MULTISTEP, _NO_COGVIDEOX),
    EDM_EULER: (EULER, "the model counts noise in timesteps, not in levels"),
    EDM_DPM: (DPM_MULTISTEP, "the model counts noise in timesteps, not in levels"),
}

_COGVIDEOX: dict[str, tuple[str | None, str]] = {
    **{name: entry for name, entry in _DISCRETE.items() if name not in (COGVIDEOX_DDIM, COGVIDEOX_DPM)},
    DDIM: (COGVIDEOX_DDIM, "CogVideoX's form of the same step"),
}

_FIRST_ORDER = "the model is told continuous noise levels, for which there is a first-order method, its own"
_SECOND_ORDER = "the model is told continuous noise levels, for which this is the second-order method"

_EDM: dict[str, tuple[str | None, str]] = {
    **dict.fromkeys(
        (DPM_MULTISTEP, DPM_SINGLESTEP, UNIPC, DEIS, PNDM, IPNDM, LMS, HEUN, KDPM2, COGVIDEOX_DPM, FLOW_HEUN),
        (EDM_DPM, _SECOND_ORDER),
    ),
    **dict.fromkeys(
        (DDIM, EULER, DDPM, EULER_ANCESTRAL, KDPM2_ANCESTRAL, SA_SOLVER, LCM, COGVIDEOX_DDIM, FLOW_EULER,
         FLOW_EULER_ANCESTRAL, FLOW_LCM, EDM_EULER),
        (None, _FIRST_ORDER),
    ),
}  # fmt: skip

_STAND_INS: dict[SchedulerFamily, dict[str, tuple[str | None, str]]] = {
    "flow": _FLOW,
    "discrete": _DISCRETE,
    "cogvideox": _COGVIDEOX,
    "edm": _EDM,
}
"""By family: what runs instead of a name, and why. A name that is not here runs itself."""

OWN_ONLY = {
    "AnyFlowPipeline": "its pipeline tells the model where each step ends, which only its own scheduler knows",
    "SkyReelsV2DiffusionForcingPipeline": "its pipeline gives each latent frame a scheduler and steps of its own",
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": "its pipeline gives each latent frame a scheduler and steps of its own",
    "LTXConditionPipeline": "its pipeline steps each part of the video at a time of its own",
    "LTXI2VLongMultiPromptPipeline": "its pipeline gives levels in the form of its own scheduler",
    "CosmosTextToWorldPipeline": "its pipeline asks the scheduler for the clean video before each step",
    "CosmosVideoToWorldPipeline": "its pipeline asks the scheduler for the clean video before each step",
    "Cosmos2TextToImagePipeline": "its pipeline runs on noise levels above one, which flow solvers do not know",
    "Cosmos2VideoToWorldPipeline": "its pipeline runs on noise levels above one, which flow solvers do not know",
    "HeliosPipeline": "its pipeline calls its scheduler in a form of its own",
    "HeliosPyramidPipeline": "its pipeline calls its scheduler in a form of its own",
}
"""Pipeline classes that work with the scheduler they came with and no other (diffusers 0.42)."""

_MAX_STEPS = {LCM: 50}
"""LCM picks its steps out of fifty that the distillation used."""

_BY_LOWER_CASE = {name.lower(): name for name in NAMES}


def resolve(
    name: str, family: SchedulerFamily, *, pipeline: str | None = None, from_the_middle: bool = False
) -> Decision:
    """Tell what becomes of a scheduler's name; capitals do not count.

    Args:
        name: a diffusers class name.
        family: the kind of model.
        pipeline: diffusers pipeline class; some work with their own scheduler only.
        from_the_middle: the request runs the last part of the steps, over a given video.

    Raises:
        InvalidParameter: nothing has that name; says which is nearest.
    """
    known = _known(name)
    if known in _UNUSABLE:
        instead, reason = _UNUSABLE[known]
        return Decision(known, "refused", instead, reason)
    if pipeline in OWN_ONLY:
        return Decision(known, "mapped", None, OWN_ONLY[pipeline])
    if known in _STAND_INS[family]:
        scheduler, reason = _STAND_INS[family][known]
        return Decision(known, "mapped", scheduler, reason, _MAX_STEPS.get(scheduler or "", 0))
    if known == PNDM and from_the_middle:
        reason = "PNDM takes its first step twice, which it cannot in the middle of a schedule"
        return Decision(known, "mapped", IPNDM, reason)
    return Decision(known, "native", known, max_steps=_MAX_STEPS.get(known, 0))


def table(family: SchedulerFamily, pipeline: str | None = None) -> tuple[Decision, ...]:
    """Tell of every name what becomes of it."""
    return tuple(resolve(name, family, pipeline=pipeline) for name in NAMES)


def for_model(spec: ModelSpec) -> tuple[Decision, ...]:
    """Tell of every name what a request for this model gets: what a description of the model should show."""
    pipeline = next((each for each in spec.pipelines.values() if each in OWN_ONLY), None)
    refused = "the model's card does not allow it"
    return tuple(
        row if _is_offered(row, spec) else Decision(row.name, "refused", spec.schedulers[0], refused)
        for row in table(spec.scheduler_family, pipeline)
    )


def accepted(spec: ModelSpec) -> tuple[str, ...]:
    """Names that run as they are for this model: what a menu should offer."""
    return tuple(row.name for row in for_model(spec) if row.standing == "native")


def for_request(
    name: str, spec: ModelSpec, pipelines: Iterable[str], *, from_the_middle: bool = False
) -> Decision:
    """Tell what runs for a request of the native vocabulary, over the pipeline classes that it needs.

    Raises:
        InvalidParameter: the name is unknown, cannot be run, or is none of those that the model's card allows.
    """
    if _lowered(name) not in _BY_LOWER_CASE and spec.schedulers:
        raise _not_of_the_card(name, spec)
    pipeline = next((each for each in pipelines if each in OWN_ONLY), None)
    decision = resolve(name, spec.scheduler_family, pipeline=pipeline, from_the_middle=from_the_middle)
    if not _is_offered(decision, spec):
        raise _not_of_the_card(name, spec)
    if decision.standing == "refused":
        raise InvalidParameter("scheduler", name, decision.reason, nearest=decision.scheduler)
    return decision


def for_vendor(name: str, spec: ModelSpec) -> tuple[str | None, str | None]:
    """Tell which name a vendor's dialect asks us for, and what to tell the client if it is another one.

    Vendors' clients send any name that their documentation lists, and others: none of them is refused.

    Returns:
        the name for `GenerationRequest.scheduler` (None: the checkpoint's own), and a sentence or None.
    """
    known = _BY_LOWER_CASE.get(_lowered(name))
    if known is None:
        return None, f"scheduler {name!r} is not known: the model's own was used"
    wanted, reason = _UNUSABLE.get(known, (known, ""))
    decision = resolve(wanted, spec.scheduler_family, pipeline=next(iter(spec.pipelines.values()), None))
    if not _is_offered(decision, spec):
        return None, f"scheduler {known} is none that this model's card allows: the model's own was used"
    if wanted != known:
        return wanted, f"scheduler {known} cannot make videos ({reason}): {decision.value} was used"
    if decision.standing == "mapped":
        return wanted, f"scheduler {known} became {decision.value}: {decision.reason}"
    return wanted, None


def _known(name: str) -> str:
    known = _BY_LOWER_CASE.get(_lowered(name))
    if known is None:
        raise InvalidParameter("scheduler", name, "no noise scheduler has that name", nearest=_nearest(name))
    return known


def _nearest(name: str) -> str:
    """Of the names that can be run, the one that starts like it, else the one that is spelled most like it."""
    usable = [full for full in NAMES if full not in _UNUSABLE]
    start = _lowered(name).removesuffix("scheduler")
    starting = [full for full in usable if start and full.lower().startswith(start)]
    lowered = {full.lower(): full for full in starting or usable}
    return lowered[difflib.get_close_matches(start[:100] + "scheduler", lowered, n=1, cutoff=0.0)[0]]


def _lowered(name: str) -> str:
    return name.strip().lower()


def _is_offered(decision: Decision, spec: ModelSpec) -> bool:
    """Whether the card allows it: a card without a list allows all that its family takes, and the own one always is."""
    return not spec.schedulers or decision.scheduler is None or decision.scheduler in spec.schedulers


def _not_of_the_card(name: str, spec: ModelSpec) -> InvalidParameter:
    rule = f"model `{spec.id}` accepts {', '.join(spec.schedulers)}"
    near = difflib.get_close_matches(name, spec.schedulers, n=1, cutoff=0.0)[0]
    return InvalidParameter("scheduler", name, rule, nearest=near)

"""What `vitascope bench` measures, one after the other, all in one process and on the same weights."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from vitascope.domain.errors import ModelUnavailable, VitascopeError
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest
from vitascope.engine.contract import Locate
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.kernel_times import KERNELS
from vitascope.engine.meter import Meter
from vitascope.engine.placement import Wishes

from .arithmetic import matmul_peak
from .runs import Plain, Run, of_other_seed, run_alone, run_together, weights_on

Report = Callable[[str, int, int], None]
"""Told what is being measured, and how many steps of how many are done."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured.

    Args:
        request: complete; the plan of its first window is what plain diffusers makes too.
        num_repeats: pairs of runs whose medians count, after one that warms up.
        concurrency: how many requests at a time.
        with_plain: beside plain diffusers.
        with_options: each option of the engine alone, against none.
    """

    spec: ModelSpec
    request: GenerationRequest
    num_repeats: int = 3
    concurrency: tuple[int, ...] = (1, 2, 4, 8)
    with_plain: bool = True
    with_options: bool = False


class Bench:
    """Measures a model.

    Args:
        locate: tells where its files are.
        wanted: what is measured.
        wishes: how it is loaded.
        report: told how far it is.
        engine_arguments: further ones of the engine, such as its device.
    """

    def __init__(
        self, locate: Locate, wanted: Wanted, wishes: Wishes, report: Report, **engine_arguments: Any
    ) -> None:
        self._locate, self._wanted, self._wishes, self._report = locate, wanted, wishes, report
        self._arguments = {**engine_arguments, "slots": max(wanted.concurrency, default=1)}
        self._plan = plan(wanted.request, wanted.spec)
        #: Of the last run: uint8 (num_frames, height, width, 3).
        self.frames: Any = None

    def run(self) -> dict[str, Any]:
        """Measure; returns figures by name, as JSON has them: seconds, bytes, operations."""
        wanted, engine = self._wanted, self._open(self._wishes)
        try:
            self._report("load", 0, 1)
            engine.load(wanted.spec)
            model = engine._loaded
            assert model is not None
            device, dtype = engine._device, getattr(torch, model.placement.dtype)
            found = self._described(engine, model.placement.dtype)
            self._report("matmul", 0, 1)
            found["peak_flops"] = matmul_peak(device, dtype)
            plain = self._plain(device, dtype, found)
            if plain is not None and not self._warms_up(plain, engine, found):
                plain = None
            ours, theirs = self._pairs(engine, plain)
            self.frames = ours[-1].frames
            found["engine"] = _figures(ours, None if plain is None else plain.step_flops, found["peak_flops"])
            found["choices"] = [dataclasses.asdict(choice) for choice in ours[-1].choices]
            if plain is not None:
                found["plain"] = _figures(theirs, plain.step_flops, found["peak_flops"])
                found["ratio"] = _ratios(found["plain"], found["engine"])
                found["psnr_to_plain"] = psnr(ours[-1].frames, theirs[-1].frames)
            del plain, model
            found["together"] = list(self._together(engine))
        finally:
            engine.close()
        if wanted.with_options:
            found["options"] = list(self._options(found["dtype"]))
        return found

    def _open(self, wishes: Wishes) -> DiffusersEngine:
        return DiffusersEngine(self._locate, wishes=wishes, **self._arguments)

    def _described(self, engine: DiffusersEngine, dtype: str) -> dict[str, Any]:
        made, window = self._plan, self._plan.windows[0]
        return {
            "model": self._wanted.spec.id,
            "device": engine.device,
            "torch": torch.__version__,
            "dtype": dtype,
            "width": made.native_width,
            "height": made.native_height,
            "num_frames": window.num_frames,
            "num_inference_steps": made.num_inference_steps,
            "guidance_scale": made.guidance_scale,
            "num_repeats": self._wanted.num_repeats,
        }

    def _plain(self, device: torch.device, dtype: torch.dtype, found: dict[str, Any]) -> Plain | None:
        """Load plain diffusers beside; where that cannot be, the reason is among what was found."""
        if not self._wanted.with_plain:
            return None
        self._report("load plain", 0, 1)
        try:
            return Plain.load(self._wanted.spec, self._locate(self._wanted.spec), device, dtype)
        except (ModelUnavailable, torch.OutOfMemoryError, ValueError, OSError) as error:
            found["why_no_plain"] = str(error).split("\n", 1)[0][:300]
            return None

    def _warms_up(self, plain: Plain, engine: DiffusersEngine, found: dict[str, Any]) -> bool:
        """Make the first clip with plain diffusers, whose work may have too little memory beside the engine's."""
        report = self._reporting("warm up, plain")
        try:
            plain.run(self._plan, self._wanted.spec, Meter(engine._device), report)
        except (torch.OutOfMemoryError, MemoryError) as error:
            found["why_no_plain"] = str(error).split("\n", 1)[0][:300]
            return False
        return True

    def _pairs(self, engine: DiffusersEngine, plain: Plain | None) -> tuple[list[Run], list[Run]]:
        """One of each in turn, so that what else the machine does disturbs both alike."""
        device, spec = engine._device, self._wanted.spec
        meter = Meter(device)
        run_alone(engine, self._plan, spec, device, meter, self._reporting("warm up, engine"))
        ours: list[Run] = []
        theirs: list[Run] = []
        for number in range(1, self._wanted.num_repeats + 1):
            if plain is not None:
                run = plain.run(self._plan, spec, meter, self._reporting(f"run {number}, plain"))
                theirs.append(_without(_weights(engine), run))
            report = self._reporting(f"run {number}, engine")
            run = run_alone(engine, self._plan, spec, device, meter, report)
            ours.append(_without(0 if plain is None else weights_on(device, [plain.pipe]), run))
        return ours, theirs

    def _together(self, engine: DiffusersEngine) -> Iterator[dict[str, Any]]:
        for count in self._wanted.concurrency:
            plans = [of_other_seed(self._plan, number) for number in range(count)]
            report = self._reporting(f"{count} at a time")
            try:
                seconds, processor = run_together(engine, plans, self._wanted.spec, engine._device, report)
            except VitascopeError as error:
                yield {"requests": count, "error": error.message}
                continue
            yield {
                "requests": count,
                "seconds": seconds,
                "processor_seconds": processor,
                "jobs_per_hour": 3600 * count / seconds,
            }

    def _options(self, dtype: str) -> Iterator[dict[str, Any]]:
        """Each option alone, in turn with all as it is; what it costs or gains is told either way."""
        base = self._open(self._wishes)
        try:
            for name, value, wishes, asked in _alternatives(self._wishes, dtype, self._plan):
                try:
                    found = self._option(f"{name} {value}", base, wishes, asked)
                except (VitascopeError, RuntimeError, ValueError) as error:
                    said = (
                        error.message if isinstance(error, VitascopeError) else str(error).split("\n", 1)[0]
                    )
                    found = {"error": said[:300]}
                yield {"option": name, "value": value, **found}
        finally:
            base.close()

    def _option(
        self, said: str, base: DiffusersEngine, wishes: Wishes, asked: dict[str, Any]
    ) -> dict[str, Any]:
        spec, report = self._wanted.spec, self._reporting(said)
        planned = plan(replace(self._wanted.request, **asked), spec)
        engine = self._open(wishes)
        usual: list[Run] = []
        runs: list[Run] = []
        try:
            meter = Meter(engine._device)
            for _ in range(self._wanted.num_repeats + 1):
                usual.append(run_alone(base, self._plan, spec, base._device, meter, report))
                run = run_alone(engine, planned, spec, engine._device, meter, report)
                runs.append(_without(_weights(base), run))
        finally:
            engine.close()
        usual, runs = usual[1:], runs[1:]
        return {
            "step_seconds": _step(runs),
            "step_gain": _step(usual) / _step(runs),
            "seconds": _seconds(runs),
            "gain": _seconds(usual) / _seconds(runs),
            "processor_gain": _processor(usual) / _processor(runs),
            "peak_bytes": max(run.peak_bytes for run in runs),
            "psnr": psnr(runs[-1].frames, usual[-1].frames),
            "choices": [f"{choice.name}: {choice.value}" for choice in runs[-1].choices],
        }

    def _reporting(self, said: str) -> Callable[[int, int], None]:
        return lambda done, of: self._report(said, done, of)


def _alternatives(
    wishes: Wishes, dtype: str, planned: Plan
) -> Iterator[tuple[str, str, Wishes, dict[str, Any]]]:
    """What an operator or a request could choose otherwise."""
    known = {field.name for field in dataclasses.fields(wishes)}
    for name, values in {
        "compile": ("on", "off"),
        "attention": tuple(KERNELS),
        "quantization": ("int8", "fp8"),
        "vae_tiling": ("on",),
        "vae_channels_last": ("on", "off"),
        "dtype": tuple(value for value in ("bfloat16", "float32") if value != dtype),
    }.items():
        for value in values:
            if name in known and getattr(wishes, name) != value:
                yield name, value, replace(wishes, **{name: value}), {}
    if hasattr(planned, "speed"):
        for level in ("balanced", "fast"):
            yield "speed", level, wishes, {"speed": level}


def _weights(engine: DiffusersEngine) -> int:
    model = engine._loaded
    return 0 if model is None else weights_on(engine._device, model.pipelines.values())


def _without(num_bytes: int, run: Run) -> Run:
    """Take off the weights of what was loaded beside."""
    return replace(run, peak_bytes=run.peak_bytes - num_bytes)


def _step(runs: Sequence[Run]) -> float:
    return statistics.median(seconds for run in runs for seconds in run.step_seconds)


def _seconds(runs: Sequence[Run]) -> float:
    return statistics.median(run.seconds for run in runs)


def _processor(runs: Sequence[Run]) -> float:
    return statistics.median(run.processor_seconds for run in runs)


def _figures(runs: Sequence[Run], step_flops: float | None, peak_flops: float) -> dict[str, Any]:
    step = _step(runs)
    stages = {
        name: statistics.median(run.stage_seconds[name] for run in runs) for name in runs[0].stage_seconds
    }
    flops = None if step_flops is None else step_flops / step
    return {
        "step_seconds": step,
        "stage_seconds": stages,
        "seconds": _seconds(runs),
        "processor_seconds": _processor(runs),
        "jobs_per_hour": 3600 / _seconds(runs),
        "peak_bytes": max(run.peak_bytes for run in runs),
        "step_flops": step_flops,
        "flops": flops,
        "share_of_peak": None if flops is None else flops / peak_flops,
    }


def _ratios(plain: dict[str, Any], engine: dict[str, Any]) -> dict[str, float]:
    """How many times as fast as plain diffusers; on a CPU that others use too, processor time says it best."""
    return {
        "step": plain["step_seconds"] / engine["step_seconds"],
        "video": plain["seconds"] / engine["seconds"],
        "processor": plain["processor_seconds"] / engine["processor_seconds"],
    }


def psnr(frames: Any, others: Any) -> float | None:
    """Likeness of two clips in dB; None where they are the same."""
    if frames.shape != others.shape:
        return 0.0
    error = float(np.mean((frames.astype(np.float64) - others.astype(np.float64)) ** 2))
    return float(10 * np.log10(255**2 / error)) if error else None

"""Several models in memory, and what happens when it is not enough."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import os
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tiny import make_plan, run
from vitascope.catalog import locate
from vitascope.domain.errors import ModelUnavailable, OutOfMemory
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import Upscale
from vitascope.domain.step import Step
from vitascope.engine import Clip, DeviceLost, EngineBusy, Sharing, loading, shortage
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.families import generic
from vitascope.engine.placement import TILING, Wishes
from vitascope.engine.residence import GB
from vitascope.engine.rising import Rising
from vitascope.engine.slots import Slot

Models = dict[str, ModelSpec]

THREE = ("WanPipeline", "LTXPipeline", "TextToVideoSDPipeline")


@pytest.fixture
def sizes(models: Models) -> dict[str, int]:
    """What each of three tiny models weighs."""
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    for name in THREE:
        engine.load(models[name])
    found = {name: engine.residency.models[models[name].id].weights_bytes for name in THREE}
    engine.close()
    return found


def test_the_files_tell_what_a_model_will_weigh(models: Models, sizes: dict[str, int]) -> None:
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    for name in THREE:
        # tensors that are made anew (positions) are not in the files, others are not loaded
        assert engine._models.estimate(models[name]) == pytest.approx(sizes[name], rel=0.2)


def test_the_least_recently_used_model_makes_room(models: Models, sizes: dict[str, int]) -> None:
    wan, ltx, unet = (models[name] for name in THREE)
    total = sum(sizes.values())
    engine = DiffusersEngine(locate, device="cpu", threads=1, memory_gb=(total - 1) / GB)
    # work of tiny models is not what is looked at here
    engine._models.guess_work = lambda _spec, weights: weights // 5  # type: ignore[method-assign]
    for spec in (wan, ltx, wan):
        engine.load(spec)
        engine._residence.learn_work(spec, 0, 0)
    assert engine.residency.hits == 0
    run(engine, wan, make_plan(wan))
    engine._residence._known[wan.id].work_bytes = {0: 0}
    engine.load(unet)
    assert ltx.id not in engine.loaded_models
    assert engine.loaded_models == (wan.id, unet.id)
    state = engine.residency
    assert (state.loads, state.hits, state.evictions, state.out_of_memory) == (3, 1, 1, 0)
    assert state.load_seconds > 0
    assert state.budget_bytes == total - 1
    engine.close()


def test_generations_of_different_models_make_what_each_makes_alone(models: Models) -> None:
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    specs = [models[name] for name in THREE]
    alone = [run(engine, spec, make_plan(spec))[1].frames for spec in specs]
    running = {index: engine.generate(make_plan(spec), spec) for index, spec in enumerate(specs)}
    together: dict[int, Any] = {}
    while running:
        for index, generation in list(running.items()):
            event = next(generation, None)
            if event is None:
                del running[index]
            elif isinstance(event, Clip):
                together[index] = event.frames
    for index, frames in enumerate(alone):
        np.testing.assert_array_equal(together[index], frames)
    assert (engine.residency.loads, engine.residency.hits) == (3, 3)
    engine.close()


def test_a_model_without_room_beside_what_runs_has_no_capacity(models: Models, sizes: dict[str, int]) -> None:
    wan, ltx, _ = (models[name] for name in THREE)
    budget = sizes["WanPipeline"] + sizes["LTXPipeline"]
    engine = DiffusersEngine(locate, device="cpu", threads=1, memory_gb=budget / GB)
    running = engine.generate(make_plan(wan), wan)
    next(running)
    next(running)
    assert engine.capacity(ltx) == 0, "its work has no room"
    with pytest.raises(EngineBusy, match="does not fit beside"):
        next_but_one(engine.generate(make_plan(ltx), ltx))
    *_, clip = running
    assert isinstance(clip, Clip)
    assert engine.capacity(ltx) == 4
    run(engine, ltx, make_plan(ltx))
    engine.close()


def next_but_one(generation: Iterator[Any]) -> Any:
    next(generation)
    return next(generation)


def test_what_the_work_takes_is_measured(models: Models) -> None:
    spec = models["WanPipeline"]
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    run(engine, spec, make_plan(spec))
    assert engine.residency.models[spec.id].work_bytes is not None
    running = [engine.generate(make_plan(models["LTXPipeline"]), models["LTXPipeline"]) for _ in range(2)]
    for generation in running:
        next_but_one(generation)
    for generation in running:
        *_, _clip = generation
    assert engine.residency.models[models["LTXPipeline"].id].work_bytes is None, "nobody knows whose it was"
    engine.close()


class Failing:
    """Makes an allocation fail at the n-th call of a module of some slot, with what torch says."""

    def __init__(self, component: str, call: int, error: Callable[[], BaseException]) -> None:
        self.component = component
        self.call = call
        self.error = error
        self.calls = 0
        #: Of tensors that lived in the frames of the failing call.
        self.held: list[weakref.ref[torch.Tensor]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_slot = Slot.__init__

        def failing_slot(slot: Slot, *args: Any) -> None:
            make_slot(slot, *args)
            module = slot.modules()[self.component]

            def fail_in_time(*_: Any) -> None:
                self.calls += 1
                if self.calls == self.call:
                    work = torch.ones(8 * 2**20)  # 32 MB
                    module.kept_for_later = torch.ones(2**20)  # as a feature map is
                    self.held += [weakref.ref(work), weakref.ref(module.kept_for_later)]
                    raise self.error()

            if self.component != "vae":
                module.register_forward_pre_hook(fail_in_time)
                return
            decode = module.decode

            def call(*args: Any, **kwargs: Any) -> Any:
                fail_in_time()
                return decode(*args, **kwargs)

            module.decode = call

        monkeypatch.setattr(Slot, "__init__", failing_slot)


def cpu_error() -> RuntimeError:
    try:
        torch.empty(2**60)
    except RuntimeError as error:
        return RuntimeError(str(error))
    raise AssertionError


ERRORS: dict[str, Callable[[], BaseException]] = {
    "torch on a CPU": cpu_error,
    "numpy or Python": MemoryError,
    "torch on a GPU": lambda: torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.64 GiB"
    ),
    "cuBLAS": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "MPS": lambda: RuntimeError(
        "MPS backend out of memory (MPS allocated: 1.00 GB, other allocations: 2.00 GB)"
    ),
}


@pytest.mark.parametrize("error", sorted(ERRORS))
@pytest.mark.parametrize("component", ["transformer", "vae"])
def test_a_failing_allocation_fails_the_generation_and_leaves_nothing(
    models: Models,
    monkeypatch: pytest.MonkeyPatch,
    component: str,
    error: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = models["WanPipeline"]
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    before = run(engine, spec, make_plan(spec))[1].frames
    # the first step, where an autoencoder or a text encoder was heard of last
    failing = Failing(component, 1, ERRORS[error])
    failing.install(monkeypatch)
    engine.unload(spec.id)  # slots are made anew
    with pytest.raises(OutOfMemory) as raised:
        run(engine, spec, make_plan(spec))
    short = raised.value
    during = "while denoising" if component == "transformer" else "while decoding"
    assert f"model `{spec.id}` ran out of memory {during}: " in short.message
    assert short.peak_bytes > 32 * 2**20
    assert f"the peak was {short.peak_bytes / 2**30:.2f} GiB of " in short.message
    assert short.hint is not None
    assert "5 frames instead of 9" in short.hint
    assert ("engine.vae_tiling" in short.hint) == (component == "vae")
    if error == "torch on a GPU":
        assert "2.50 GiB more were asked for" in short.message
    assert short.__cause__ is None
    assert short.__context__ is None
    assert failing.held
    assert [found() for found in failing.held] == [None, None], "the error holds no tensor"
    assert engine.residency.out_of_memory == 1
    assert engine.loaded_models == (spec.id,), "the model stays"
    np.testing.assert_array_equal(run(engine, spec, make_plan(spec))[1].frames, before)
    assert "out of memory" in caplog.text
    engine.close()


def test_memory_is_back_to_the_level_before(models: Models) -> None:
    """In a process of its own: in this one other tests' blocks may lie between those that come free."""
    script = Path(__file__).with_name("memory_after_a_failure.py")
    folder = models["WanPipeline"].source.removeprefix("folder:")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    made = subprocess.run(
        [sys.executable, script, folder], env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert found["taken"] - found["level"] > 250 * 2**20
    # 48 of the 256 MB stay now and then, beneath something small that the C library has put above them
    assert found["after"] - found["level"] < 128 * 2**20, "most of them"
    assert found["peak"] >= found["taken"] - 2**20


def test_a_lack_while_loading_is_no_broken_file(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = models["WanPipeline"]
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    load = loading._components_of_others
    held: list[weakref.ref[torch.Tensor]] = []

    def fail(*_args: Any) -> Any:
        weights = torch.ones(2**20)
        held.append(weakref.ref(weights))
        raise cpu_error()

    monkeypatch.setattr(loading, "_components_of_others", fail)
    with pytest.raises(OutOfMemory, match="ran out of memory while it was loaded") as raised:
        engine.load(spec)
    assert "the weights take" in (raised.value.hint or "")
    with pytest.raises(OutOfMemory, match="while it was loaded"):
        run(engine, spec, make_plan(spec))
    gc.collect()
    assert [found() for found in held] == [None, None]
    assert engine.loaded_models == ()
    assert engine.residency.out_of_memory == 2
    monkeypatch.setattr(loading, "_components_of_others", load)
    run(engine, spec, make_plan(spec))
    engine.close()


def test_a_lack_on_the_way_to_the_device_is_one_while_loading(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it is raised in the denoiser, and in a pipeline's method."""
    spec = models["WanPipeline"]
    engine = DiffusersEngine(locate, device="cpu", threads=1)

    def fail(_module: Any, *_args: Any, **_kwargs: Any) -> Any:
        raise cpu_error()

    monkeypatch.setattr(type(_denoiser_of(engine, spec)), "to", fail)
    engine.unload(spec.id)
    with pytest.raises(OutOfMemory, match="while it was loaded"):
        run(engine, spec, make_plan(spec))
    engine.close()


def _denoiser_of(engine: DiffusersEngine, spec: ModelSpec) -> torch.nn.Module:
    engine.load(spec)
    assert engine._loaded is not None
    found: torch.nn.Module = engine._loaded.pipelines["text"].transformer
    return found


def test_other_errors_are_what_they_were(models: Models, tmp_path: Any) -> None:
    spec = models["WanPipeline"]
    engine = DiffusersEngine(lambda _spec: str(tmp_path), device="cpu", threads=1)
    with pytest.raises(ModelUnavailable):
        engine.load(spec)
    assert engine.residency.out_of_memory == 0
    assert shortage.is_shortage(RuntimeError("could not create a primitive"))
    assert not shortage.is_shortage(
        RuntimeError("could not create a primitive descriptor for a matmul primitive")
    )
    assert not shortage.is_shortage(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not shortage.is_shortage(ValueError("out of memory"))


def test_a_device_that_is_lost_is_told_from_a_job_that_fails(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models["WanPipeline"]
    engine = DiffusersEngine(locate, device="cpu", threads=1)

    def fail(*_all: Any, **_named: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(generic, "generate", fail)
    with pytest.raises(RuntimeError, match="illegal memory access") as failed:
        run(engine, spec, make_plan(spec))
    assert not isinstance(failed.value, DeviceLost), "it answers"
    monkeypatch.setattr(torch, "ones", fail)
    with pytest.raises(DeviceLost, match="illegal memory access"):
        run(engine, spec, make_plan(spec))
    engine.close()


def test_idle_models_go_before_a_video_fails(
    models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is only kept for others must not cost a job its video: it is made once more with their memory."""
    caplog.set_level(logging.INFO)
    wan, ltx, _ = (models[name] for name in THREE)
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    alone = run(engine, wan, make_plan(wan))[1].frames
    engine.load(ltx)
    Failing("transformer", 6, cpu_error).install(monkeypatch)  # in the last step
    engine.unload(wan.id)
    steps, clip = run(engine, wan, make_plan(wan))
    np.testing.assert_array_equal(clip.frames, alone)
    assert engine.loaded_models == (wan.id,)
    assert engine.residency.evictions == 1
    assert engine.residency.out_of_memory == 0
    done = [step.index for step in steps if step.stage == "denoise"]
    assert done[0] < 2 <= done.count(2), "the last step came twice"
    assert done == sorted(done), "progress does not fall although the beginning comes twice"
    assert steps.count(Step("load", 1)) == 1
    engine.close()


@pytest.mark.parametrize(("component", "call", "during"), [
    ("transformer", 7, "while denoising"), ("vae", 2, "while decoding"),
])  # fmt: skip
def test_what_would_help_the_second_pass_is_said_of_its_size(
    models: Models, monkeypatch: pytest.MonkeyPatch, component: str, call: int, during: str
) -> None:
    """In its first step, and where it is decoded: the steps that are done do not tell which pass it is."""
    spec = dataclasses.replace(models["WanPipeline"], max_pixels=64 * 64)
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    Failing(component, call, cpu_error).install(monkeypatch)
    with pytest.raises(OutOfMemory) as raised:
        run(engine, spec, make_plan(spec, upscale=Upscale(height=64, width=64, strength=0.7)))
    assert "instead of 64x64" in (raised.value.hint or "")
    assert during in raised.value.message
    engine.close()


@pytest.mark.parametrize("size", [2**33, 2**60])
def test_an_allocation_that_the_machine_refuses_is_one(size: int) -> None:
    """Real ones: beyond what this process may have, and beyond what there is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**30, hard))
    try:
        with pytest.raises(RuntimeError) as raised:
            torch.empty(size, dtype=torch.uint8)
        with pytest.raises(MemoryError) as raised_by_numpy:
            np.ones(size, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert shortage.is_shortage(raised.value)
    assert shortage.asked_bytes(raised.value) == size
    assert shortage.is_shortage(raised_by_numpy.value)


@pytest.mark.parametrize(
    ("sentence", "asked"),
    [
        ("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1234567 bytes. Error code 12 (Cannot allocate memory)", 1234567),
        ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.64 GiB", 20 * 2**20),
        ("CUDA error: out of memory", None),
        ("Unable to allocate 7.45 GiB for an array with shape (1000000000,) and data type float64", round(7.45 * 2**30)),
    ],
)  # fmt: skip
def test_errors_say_how_much_was_asked_for(sentence: str, asked: int | None) -> None:
    error = MemoryError(sentence) if sentence.startswith("Unable") else RuntimeError(sentence)
    assert shortage.is_shortage(error)
    assert shortage.asked_bytes(error) == asked


def test_another_try_at_a_job_is_made_as_the_first_one_was(models: Models) -> None:
    """Whatever would be chosen here and now: its pictures are to be the same."""
    wan = models["WanPipeline"]
    first = DiffusersEngine(
        locate, device="cpu", threads=1, wishes=Wishes(quantization="int8", vae_tiling="on")
    )
    request = make_plan(wan, upscale=Upscale(width=32, height=32))
    sharing = Sharing()
    expected = clip_of(first.generate(request, wan, sharing=sharing))
    first.close()
    assert sharing.settled["quantization"] == "int8"
    assert (sharing.settled[TILING], sharing.settled[f"upscale_{TILING}"]) == ("on", "on")

    second = DiffusersEngine(locate, device="cpu", threads=1)
    run(second, wan, request)
    again = dataclasses.replace(request, settled=tuple(sharing.settled.items()))
    made = clip_of(second.generate(again, wan, sharing=Sharing()))
    assert np.array_equal(made.frames, expected.frames)
    reasons = {choice.name: choice.reason for choice in made.choices if "earlier try" in choice.reason}
    assert set(reasons) == {"quantization", TILING, f"upscale_{TILING}"}
    plain = Sharing()
    clip_of(second.generate(request, wan, sharing=plain))
    assert plain.settled["quantization"] == "none", "others are made as ever"
    too_much = dataclasses.replace(request, settled=(("dtype", "float16"),))
    assert clip_of(second.generate(too_much, wan)).frames.shape == made.frames.shape, "what cannot be is not"
    second.close()


def clip_of(making: Iterator[Step | Clip]) -> Clip:
    *_, clip = making
    assert isinstance(clip, Clip)
    return clip


def test_what_was_made_is_free_where_another_device_was_short(models: Models) -> None:
    """The next try is made while the error is still held."""
    spec = models["WanPipeline"]
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    latents: list[weakref.ref[torch.Tensor]] = []

    def making() -> Generator[Step | None, None, Clip]:
        tensor = torch.zeros(1)
        latents.append(weakref.ref(tensor))
        yield Step("denoise", 1, 2)
        raise OutOfMemory("the other device ran out of memory")

    rising = Rising(engine._turn, None)
    attempt = engine._attempt(make_plan(spec), spec, making(), rising)
    with pytest.raises(StopIteration) as over:
        while next(attempt):
            pass
    assert isinstance(over.value.value, OutOfMemory)
    assert latents[0]() is None
    engine.close()

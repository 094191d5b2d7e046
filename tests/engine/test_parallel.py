"""Two devices make the video that one makes, and nothing that goes wrong on one of them keeps the other waiting."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from tiny import make_plan, run
from vitascope.catalog import locate
from vitascope.domain.errors import OutOfMemory
from vitascope.domain.model_spec import ModelSpec
from vitascope.engine import Clip, Devices, denoising, leading
from vitascope.engine.calls import Call
from vitascope.engine.engine import DiffusersEngine
from waiting import eventually

Models = dict[str, ModelSpec]

FAULTY_RANK = Path(__file__).with_name("faulty_rank.py")

STEPS = 4

UNSHARED = 2
"""Forwards of the first step: nobody knows yet what is asked for next."""

SHORTAGE = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."


@pytest.fixture(scope="module", autouse=True)
def _on_loopback() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield


@pytest.fixture(scope="module")
def spec(models: Models) -> ModelSpec:
    return dataclasses.replace(models["WanPipeline"], dtype="float32")


@pytest.fixture(scope="module")
def alone(spec: ModelSpec) -> Clip:
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    clip = run(engine, spec, make_plan(spec, num_inference_steps=STEPS, guidance_scale=4.0))[1]
    engine.close()
    return clip


class Pair(SimpleNamespace):
    """An engine of two devices, and what the second is to do."""

    engine: DiffusersEngine
    order: Path
    ended: list[str]

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.engine._leader._followers[0].process  # type: ignore[union-attr]


@pytest.fixture(scope="module", params=["guidance", "context"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp(request.param)
    order, ended = folder / "order", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leading, "COMMAND", (sys.executable, str(FAULTY_RANK), str(order)))
        engine = DiffusersEngine(
            locate, threads=1, notes=folder, devices=Devices(("cpu", "cpu"), request.param, hang_seconds=240)
        )
        assert engine._leader is not None
        engine._leader._end = ended.append
        yield Pair(engine=engine, order=order, ended=ended, kind=request.param)
        engine.close()
    assert not list((folder / "ranks").iterdir())


def test_two_devices_make_what_one_makes(
    pair: Pair, spec: ModelSpec, alone: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    forward = denoising._Denoiser._run

    def counted(self: denoising._Denoiser, asked: list[Call]) -> object:
        calls.append(len(asked))
        return forward(self, asked)

    monkeypatch.setattr(denoising._Denoiser, "_run", counted)
    plan = make_plan(spec, num_inference_steps=STEPS, guidance_scale=4.0)
    steps, clip = run(pair.engine, spec, plan)
    assert np.abs(clip.frames.astype(int) - alone.frames).max() <= 1
    assert [step.index for step in steps if step.stage == "denoise"][-1] == STEPS
    # in the first step nobody knows yet what is asked for next: both branches are computed by both
    assert calls == {"guidance": [1] * (STEPS + 1), "context": [1, 1] + [2] * (STEPS - 1)}[pair.kind]
    assert "parallel" in {choice.name for choice in clip.choices}

    # without guidance there are no two branches
    plain = run(pair.engine, spec, make_plan(spec, guidance_scale=1.0))[1]
    told = {choice.name: choice.value for choice in plain.choices}["parallel"]
    assert told == "2 devices, a part of the tokens each"


def test_both_branches_that_are_asked_for_in_one_call_are_shared(
    pair: Pair, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LTX's pipelines ask so: each device computes its branch, and not both of them."""
    if pair.kind == "context":
        pytest.skip("tokens of LTX are not split")
    ltx = dataclasses.replace(models["LTXPipeline"], dtype="float32")
    plan = make_plan(ltx, guidance_scale=4.0)
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    alone = run(engine, ltx, plan)[1]
    engine.close()
    samples: list[int] = []
    forward = denoising._Denoiser._run

    def counted(self: denoising._Denoiser, asked: list[Call]) -> object:
        samples.append(sum(call.num_samples for call in asked))
        return forward(self, asked)

    monkeypatch.setattr(denoising._Denoiser, "_run", counted)
    clip = run(pair.engine, ltx, plan)[1]
    assert np.abs(clip.frames.astype(int) - alone.frames).max() <= 1
    assert set(samples) == {1}
    assert pair.engine.unload(
        ltx.id
    )  # where memory is short, one that nobody uses makes way, and all is tried again


def test_cancelled_and_interleaved_requests_leave_the_devices_together(
    pair: Pair, spec: ModelSpec, alone: Clip
) -> None:
    plan = make_plan(spec, num_inference_steps=STEPS, guidance_scale=4.0)
    cancelled = pair.engine.generate(plan, spec)
    while next(cancelled).index < 2:  # type: ignore[union-attr]
        pass
    cancelled.close()
    at_once = pair.engine.generate(plan, spec)
    next(at_once)
    at_once.close()
    both = [pair.engine.generate(plan, spec), pair.engine.generate(plan, spec)]
    clips: list[Clip] = []
    while both:
        for each in tuple(both):
            if isinstance(step := next(each), Clip):
                clips.append(step)
                both.remove(each)
    assert all(np.abs(clip.frames.astype(int) - alone.frames).max() <= 1 for clip in clips)
    assert pair.engine.unload(spec.id)
    pair.engine.load(spec)
    pair.engine.clear_caches()
    assert np.abs(run(pair.engine, spec, plan)[1].frames.astype(int) - alone.frames).max() <= 1
    assert pair.ended == []


def test_what_fails_on_one_device_ends_the_request_and_nothing_else(
    pair: Pair, spec: ModelSpec, alone: Clip
) -> None:
    plan = make_plan(spec, num_inference_steps=STEPS, guidance_scale=4.0)
    pair.order.write_text(SHORTAGE)
    with pytest.raises(
        OutOfMemory, match=r"ran out of memory while denoising.*on device 1 of the engine, `cpu`"
    ):
        run(pair.engine, spec, plan)
    if pair.kind == "guidance":  # else the other device is started anew each time, which takes seconds
        pair.order.write_text("no such kernel")
        with pytest.raises(RuntimeError, match="no such kernel"):
            run(pair.engine, spec, plan)
    assert not pair.order.exists()
    assert np.abs(run(pair.engine, spec, plan)[1].frames.astype(int) - alone.frames).max() <= 1
    assert pair.ended == []


def test_what_fails_on_the_first_device_ends_the_request_and_nothing_else(
    pair: Pair, spec: ModelSpec, alone: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(spec, num_inference_steps=STEPS, guidance_scale=4.0)
    calls: list[int] = []
    forward = denoising._Denoiser._run

    def failing(self: denoising._Denoiser, asked: list[Call]) -> object:
        calls.append(len(asked))
        if len(calls) > UNSHARED:
            raise RuntimeError(SHORTAGE)
        return forward(self, asked)

    with monkeypatch.context() as patch:
        patch.setattr(denoising._Denoiser, "_run", failing)
        with pytest.raises(OutOfMemory, match="ran out of memory while denoising"):
            run(pair.engine, spec, plan)
    assert np.abs(run(pair.engine, spec, plan)[1].frames.astype(int) - alone.frames).max() <= 1
    assert pair.ended == []


def test_a_device_that_hangs_or_dies_ends_the_engine_process(
    pair: Pair, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Last: it takes the engine's other device."""
    leader = pair.engine._leader
    assert leader is not None

    def end(message: str) -> None:
        pair.ended.append(message)
        pair.process.kill()

    monkeypatch.setattr(leading, "TELL_SECONDS", 0.1)
    leader._end, leader._hang_seconds = end, 1.0
    pair.order.write_text("hang")
    with contextlib.suppress(Exception):  # in its place the process would be gone
        run(pair.engine, spec, make_plan(spec, num_inference_steps=STEPS, guidance_scale=4.0))
    assert re.search(" (for|within) 1 s$", pair.ended[0])
    eventually(lambda: any("was killed by signal 9" in message for message in pair.ended))


def test_no_device_outlives_the_engine_process(spec: ModelSpec, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from vitascope.catalog import locate\n"
        "from vitascope.engine import Devices, open_engine\n"
        "engine = open_engine('diffusers', locate, threads=1, devices=Devices(('cpu', 'cpu')))\n"
        "print(engine._leader._followers[0].process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as engine:
        assert engine.stdout is not None
        number = next(int(line) for line in engine.stdout if line.strip().isdigit())
        os.kill(number, 0)
        engine.kill()
    eventually(lambda: not psutil.pid_exists(number))

"""The written file is exactly what was asked for; a refusal names a value that is accepted."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitascope import media
from vitascope.catalog import Catalog
from vitascope.dialects._http import Fields
from vitascope.dialects.native.create import to_request
from vitascope.dialects.openai import create
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import Bounds, ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.step import Step
from vitascope.engine import Clip, Inputs
from vitascope.engine.contract import NO_INPUTS
from vitascope.engine.fake import FakeEngine
from vitascope.worker.produce import Product, produce

CATALOG = Catalog.open()
SPECS = [
    CATALOG.resolve("pocket"),
    # every mode, whatever its pipelines are: nothing is loaded here
    dataclasses.replace(
        CATALOG.resolve("ltx-video"),
        id="every",
        pipelines={mode: "X" for mode in ("text", "image", "last_image", "video", "reference")},
        strength=Bounds(0.7, 0.05, 0.95),
        clip_layers=12,
        overlap=9,
    ),
    dataclasses.replace(CATALOG.resolve("wan2.1-t2v-1.3b"), id="short"),
]


def by_name(name: str | None) -> ModelSpec:
    return next((spec for spec in SPECS if spec.id == name), SPECS[0])


def in_native(body: dict[str, Any]) -> Plan:
    request, _ = to_request(Fields(body), by_name)
    return plan(dataclasses.replace(request, seed=1), by_name(request.model))


def in_openai(body: dict[str, Any]) -> Plan:
    order = create.to_order(Fields(body), lambda name: (by_name(name), ()))
    try:
        return plan(dataclasses.replace(order.request, seed=1), by_name(order.request.model))
    except InvalidParameter as error:
        raise order.in_clients_words(error) from None


def native_body(rng: random.Random, *, is_wild: bool) -> dict[str, Any]:
    """A request; `is_wild`: that may break any rule of numbers."""
    side = (lambda: rng.randint(-5, 5000)) if is_wild else (lambda: 2 * rng.randint(8, 160))
    fps = rng.randint(-2, 80) if is_wild else rng.randint(1, 50)
    body: dict[str, Any] = {"prompt": "a", "model": rng.choice(SPECS).id, "fps": fps}
    body["format"] = rng.choice(["mp4", "mp4", "gif"]) if is_wild else "mp4"
    if rng.random() < 0.8:
        body |= {"width": side(), "height": side()}
    longest = 3 * max(fps, 1)
    if by_name(body["model"]).id == "short":
        longest = min(longest, max(1, 81 * max(fps, 1) // 16))
    body["num_frames"] = rng.randint(-3, 10_000) if is_wild else rng.randint(1, longest)
    if is_wild:
        body |= {"num_inference_steps": rng.randint(-5, 500), "guidance_scale": rng.uniform(-5, 50)}
        body |= {
            "priority": rng.randint(-20, 20),
            "preview_every": rng.randint(-5, 2000),
            "seed": rng.randint(-9, 9),
        }
        body |= {"clip_skip": rng.randint(-3, 30)} if rng.random() < 0.3 else {}
        if rng.random() < 0.3:
            body |= {"shots": ["a", {"prompt": "b", "num_frames": rng.randint(-1, 5000)}]}
    elif body["num_frames"] >= 3 and rng.random() < 0.4:
        ways = rng.choices(["cut", "continue"], k=3)
        body |= {"shots": [{"prompt": "a", "transition": way} for way in ways]}
    return body


def openai_body(rng: random.Random, *, is_wild: bool) -> dict[str, Any]:
    if is_wild:
        size, seconds = (
            f"{rng.randint(0, 9999)}x{rng.randint(0, 9999)}",
            rng.choice([rng.uniform(-3, 99), rng.randint(0, 99)]),
        )
        return {"prompt": "a", "size": size, "seconds": str(seconds), "model": rng.choice(SPECS).id}
    width, height = rng.choice([(128, 72), (72, 128), (180, 102), (320, 180), (256, 256), (102, 180)])
    return {
        "prompt": "a",
        "model": rng.choice(["pocket", "sora-2", "every"]),
        "size": f"{width}x{height}",
        "seconds": str(rng.choice([1, 2, 4])),
    }


@pytest.mark.parametrize(("make", "read"), [(native_body, in_native), (openai_body, in_openai)])
def test_size_rate_and_length_are_met_exactly(
    tmp_path: Path, make: Callable[..., dict[str, Any]], read: Callable[[dict[str, Any]], Plan]
) -> None:
    rng = random.Random(7)
    for number in range(50):
        body = make(rng, is_wild=False)
        planned = read(body)
        asked = body.get("size", f"{planned.width}x{planned.height}")
        path = tmp_path / f"{number}.mp4"
        *_, product = produce(FakeEngine(), planned, by_name(planned.model), path, between="repeat")
        assert isinstance(product, Product)
        found = media.probe(path)
        assert f"{found.width}x{found.height}" == asked, body
        if "seconds" in body:
            assert found.duration_seconds == float(body["seconds"]), body
        else:
            assert (found.num_frames, found.fps) == (body["num_frames"], body["fps"]), body
            assert (found.width, found.height) == (
                body.get("width", found.width),
                body.get("height", found.height),
            )
        path.unlink()


class Ramp(FakeEngine):
    """Makes frames that are each a little brighter than the one before."""

    def generate(
        self, plan: Plan, spec: ModelSpec, inputs: Inputs = NO_INPUTS, sharing: Any = None
    ) -> Iterator[Step | Clip]:
        greys = 5 * np.arange(plan.native_num_frames, dtype=np.uint8)
        size = (plan.native_height, plan.native_width, 3)
        yield Clip(np.broadcast_to(greys[:, None, None, None], (len(greys), *size)), ())


@pytest.mark.parametrize("lengths", [(36, 36), (35, 1, 36), (37, 20, 15)])
def test_nothing_is_held_or_left_out_where_a_shot_goes_on(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    shots = [{"prompt": "a", "num_frames": length, "transition": "continue"} for length in lengths]
    planned = in_native({"model": "pocket", "fps": 24, "shots": shots})
    *_, product = produce(Ramp(), planned, by_name("pocket"), tmp_path / "a.mp4", between="blend")
    assert isinstance(product, Product)
    greys = media.read_frames(tmp_path / "a.mp4").mean((1, 2, 3))
    assert len(greys) == 72
    # three frames of the file for each of the model's, whose grey rises by 5
    assert np.abs(greys - 5 / 3 * np.arange(72)).max() < 2.5


@pytest.mark.parametrize(("make", "read"), [(native_body, in_native), (openai_body, in_openai)])
def test_the_nearest_legal_value_is_accepted_when_it_is_sent(
    make: Callable[..., dict[str, Any]], read: Callable[[dict[str, Any]], Plan]
) -> None:
    rng = random.Random(11)
    refusals = 0
    for _ in range(400):
        body = make(rng, is_wild=True)
        mended: list[str] = []
        while True:
            try:
                read(body)
                break
            except InvalidParameter as error:
                refusals += 1
                assert error.nearest is not None, error.message
                again = mended.count(error.parameter)
                # a rule may depend on another parameter that was mended since, but never on its own nearest value
                assert again <= 1 or mended[-1] != error.parameter, (error.message, mended)
                assert len(mended) < 20, (error.message, mended)
                mended.append(error.parameter)
                _put(body, error.parameter, error.nearest)
    assert refusals > 400


def _put(body: dict[str, Any], name: str, value: Any) -> None:
    if name.startswith("shots["):
        index = int(name[6 : name.index("]")])
        body["shots"] = [dict(shot) if isinstance(shot, dict) else {"prompt": shot} for shot in body["shots"]]
        body["shots"][index]["num_frames"] = value
    else:
        body[name] = value

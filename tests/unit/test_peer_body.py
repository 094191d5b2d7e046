"""A job as a peer is asked for it: the same plan comes out at the other end."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from vitascope.dialects._http import Fields
from vitascope.dialects.native.answers import plan_object
from vitascope.dialects.native.create import PARAMETERS, to_request
from vitascope.domain.marks import MarkRules
from vitascope.domain.model_spec import Bounds, ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import (
    GenerationRequest,
    ImprovedSampling,
    Lora,
    Shot,
    Upscale,
    Watermark,
)
from vitascope.domain.upscaling import UpscaleRule
from vitascope.service import inputs
from vitascope.worker import peer_body
from vitascope.worker.peer_body import PLACEHOLDER, body_of, differences, same_plan, why_stays

SENT = ("image", "last_image", "video")


@pytest.fixture
def spec(small_spec: ModelSpec) -> ModelSpec:
    pipelines = {"text": "A", "image": "B", "last_image": "C", "video": "D", "reference": "E"}
    return dataclasses.replace(
        small_spec, pipelines=pipelines, clip_layers=12, strength=Bounds(0.6, 0.1, 0.9), upscale=UpscaleRule()
    )


def request(**asked: Any) -> GenerationRequest:
    return GenerationRequest(**{"prompt": "a dog", "model": "small", "seed": 5, **asked})


def at_the_peer(body: dict[str, Any], spec: ModelSpec, rules: MarkRules) -> tuple[GenerationRequest, Plan]:
    """What a server of these rules makes of it."""
    fields = Fields(json.loads(json.dumps(body)))
    fields.check_names(PARAMETERS)
    wanted, sent = to_request(fields, lambda _name: spec)
    wanted = inputs.named(wanted, sent, "theirs")
    if wanted.improved_sampling is not None:
        improved = dataclasses.replace(wanted.improved_sampling, iterations=3)
        wanted = dataclasses.replace(wanted, improved_sampling=improved)
    return wanted, plan(wanted, spec, rules)


CASES: dict[str, dict[str, Any]] = {
    "least": {},
    "numbers": {
        "negative_prompt": "cats", "height": 128, "width": 192, "num_frames": 20, "fps": 10, "num_inference_steps": 3,
        "guidance_scale": 2.5, "num_videos": 3, "format": "gif", "clip_skip": 2, "preview_every": 2, "priority": -3,
    },
    "scheduler": {"scheduler": "UniPCMultistepScheduler"},
    "image": {"image": "inputs/a.png"},
    "between": {"image": "inputs/a.png", "last_image": "inputs/b.png"},
    "video": {"video": "inputs/a.video", "strength": 0.5, "height": 64, "width": 96, "num_frames": 17, "fps": 8},
    "references": {"references": ("inputs/a.png", "inputs/b.png")},
    "shots": {"prompt": "", "shots": (Shot("a cat"), Shot("a cow", 9)), "num_frames": 30},
    "continued shots": {"prompt": "", "shots": (Shot("a cat", 10), Shot("a cow", 9, "continue"))},
    "loras": {"loras": (Lora("x"), Lora("y", 0.5))},
    "upscale": {"upscale": Upscale()},
    "larger": {"height": 64, "width": 96, "upscale": Upscale(height=192, width=288, strength=0.4, guidance_scale=3.0)},
    "improved": {"improved_sampling": ImprovedSampling(seed=8, iterations=3)},
    "lossless": {"speed": "lossless"},
    "fast": {"speed": "fast", "num_inference_steps": 20},
    "own mark": {"watermark": Watermark(text="mine", position="top", opacity=0.9)},
    "picture": {"watermark": Watermark(image="inputs/m.png")},
    "no mark": {"watermark": Watermark()},
    "unsigned": {"provenance": False},
    "long": {"num_frames": 60},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_same_plan_comes_out_at_the_peer(name: str, spec: ModelSpec) -> None:
    here = MarkRules(is_signing_optional=True, watermark=Watermark(text="ours"))
    asked = request(**CASES[name])
    ours = plan(asked, spec, here)
    assert why_stays(asked, ours) is None
    body = body_of(asked, ours, lambda _file: PLACEHOLDER)
    there = MarkRules(is_signing_optional=True, watermark=Watermark(text="theirs"))
    wanted, theirs = at_the_peer(body, spec, there)
    assert differences(ours, json.loads(json.dumps(plan_object(theirs, None)))) == []
    files = dict.fromkeys(("image", "last_image", "video", "references", "watermark", "choices"))
    assert dataclasses.replace(ours, **{**files, "references": (), "choices": ()}) == dataclasses.replace(
        theirs, **{**files, "references": (), "choices": ()}
    )
    assert [bool(getattr(ours, each)) for each in SENT] == [bool(getattr(theirs, each)) for each in SENT]
    assert len(theirs.references) == len(ours.references)
    marks = [mark and dataclasses.replace(mark, image=bool(mark.image)) for mark in (ours.watermark, theirs.watermark)]  # fmt: skip
    assert marks[0] == marks[1], "this server's mark is on it, and not the peer's"
    assert (wanted.may_hand_over, wanted.metadata, wanted.user, wanted.webhook) == (False, {}, None, None)


def test_each_field_of_a_request_is_thought_of() -> None:
    """A new field is sent, or keeps a job here, or is this server's own affair: none is forgotten."""
    known = (
        *peer_body.AS_IT_IS,
        *peer_body.IN_ANOTHER_FORM,
        *peer_body.STAYS_WITH,
        *peer_body.OUR_OWN,
    )
    assert sorted(known) == sorted(field.name for field in dataclasses.fields(GenerationRequest))


def test_what_the_native_api_shows_of_a_plan_is_compared(spec: ModelSpec) -> None:
    ours = plan(request(), spec)
    shown = plan_object(ours, None)
    left_out = {"duration_seconds", "expected_seconds", "choices"}
    assert shown.keys() - same_plan(ours).keys() == left_out
    assert differences(ours, {**shown, "num_inference_steps": 1, "windows": []}) == [
        "num_inference_steps",
        "windows",
    ]
    assert differences(ours, {}) == list(same_plan(ours)), "an older server that does not tell is another"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"enhance_prompt": True}, "this server writes its prompt out"),
        ({"flow_shift": 3.0}, "a peer cannot be asked for its flow_shift"),
        ({"continues": "inputs/a.continues", "continued_frames": 9}, "a peer cannot be asked for its continues"),
    ],
)  # fmt: skip
def test_what_a_peer_cannot_be_told_stays(asked: dict[str, Any], reason: str, spec: ModelSpec) -> None:
    wanted = request(**asked)
    flow = dataclasses.replace(spec, scheduler_family="flow")
    assert why_stays(wanted, plan(wanted, flow)) == reason

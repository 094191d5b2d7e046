"""Remixes, edits and extensions with the embedded model, measured: each is something else than a new video of the same prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitascope import media
from vitascope.catalog import Catalog
from vitascope.dialects.openai.derived_schema import EDIT_STRENGTH, REMIX_STRENGTH
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.engine import Engine
from vitascope.worker.produce import produce

SIZE = {"width": 192, "height": 192, "fps": 8, "num_inference_steps": 6}


def psnr(one: Any, other: Any) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other.astype(float)) ** 2)))


@pytest.mark.timeout(900)
def test_each_is_measurably_different_from_a_new_video(engine: Engine, tmp_path: Path) -> None:
    spec = Catalog.open().resolve("pocket")

    def made(name: str, prompt: str, seed: int, **asked: Any) -> Any:
        request = GenerationRequest(prompt=prompt, model="pocket", seed=seed, **SIZE, **asked)
        for _ in produce(engine, plan(request, spec), spec, tmp_path / f"{name}.mp4"):
            pass
        return media.read_frames(tmp_path / f"{name}.mp4")

    panda, fish = "a panda in the snow", "a fish swims in the sea"
    source = made("source", panda, 1, num_frames=17)
    given = str(tmp_path / "source.mp4")
    fresh = made("fresh", fish, 2, num_frames=17)
    remix = made("remix", fish, 2, num_frames=17, video=given, strength=REMIX_STRENGTH)
    edit = made("edit", fish, 2, num_frames=17, video=given, strength=EDIT_STRENGTH)
    longer = made("longer", panda, 3, num_frames=25, continues=given, continued_frames=17)
    found = {
        "fresh to source": psnr(fresh, source),
        "remix to source": psnr(remix, source),
        "remix to fresh": psnr(remix, fresh),
        "edit to source": psnr(edit, source),
        "extension's beginning to source": psnr(longer[:17], source),
        "across the seam": psnr(longer[16], longer[17]),
        "after it": psnr(longer[17], longer[18]),
    }
    print(found)
    assert found["remix to source"] > found["fresh to source"] + 2
    assert found["remix to fresh"] < 20
    assert found["edit to source"] > found["remix to source"]
    assert found["extension's beginning to source"] > 35
    assert found["across the seam"] > found["after it"] - 3, "no jump where the model goes on"

"""Which files are written with less search: those whose frames were made much smaller."""

from __future__ import annotations

import pytest

from vitascope.catalog import Catalog
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.worker.produce import is_enlarged


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, False),
        ({"width": 192, "height": 192}, False),
        ({"width": 224, "height": 224}, False),
        ({"width": 256, "height": 256}, True),
        ({"width": 1792, "height": 1024}, True),
        ({"width": 256, "height": 256, "continues": "a.mp4", "continued_frames": 9}, False),
    ],
)
def test_a_file_of_many_more_pixels_than_the_model_made_is_enlarged(asked, expected):
    spec = Catalog.open().resolve("pocket")
    request = GenerationRequest(model="pocket", prompt="a dog", seed=1, num_frames=33, **asked)
    assert is_enlarged(plan(request, spec)) is expected

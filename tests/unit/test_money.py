"""Prices: from a card, from the operator, and what they make of a plan."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from vitascope.catalog.cards import spec_from
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.money import quote
from vitascope.domain.plan import plan
from vitascope.domain.price import Price, StepClass, price_of_class
from vitascope.domain.request import GenerationRequest
from vitascope.service.credits import Credits

CARD: dict[str, Any] = {"id": "own", "source": "folder:/nowhere", "pipeline": "WanPipeline"}


def test_a_card_names_a_class_or_says_all() -> None:
    assert spec_from(CARD).price == price_of_class("standard")
    assert spec_from({**CARD, "price": "large"}).price.per_megapixel_second == 25.0
    own = spec_from({**CARD, "price": {"per_megapixel_second": 3, "steps": {"30": 1, "8": 0.5, "more": 2}}})
    assert own.price == Price(3.0, (StepClass(8, 0.5), StepClass(30, 1.0), StepClass(None, 2.0)))
    assert own.price_class == "standard"
    assert spec_from({**CARD, "price": {"steps": {"10": 0.5}}}).price.factor_of(99) == 0.5


@pytest.mark.parametrize(
    "price", [5, "", {"per": 1}, {"per_megapixel_second": -1}, {"per_megapixel_second": True}, {"steps": {"few": 1}}, {"steps": 3},
             {"per_megapixel_second": math.inf}, {"per_megapixel_second": math.nan}, {"steps": {"8": 1e300}}]
)  # fmt: skip
def test_a_card_that_is_not_right_is_refused(price: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="price"):
        spec_from({**CARD, "price": price})


def test_the_operators_price_wins_by_model_then_by_class() -> None:
    spec = spec_from({**CARD, "price": {"class": "large", "per_megapixel_second": 3, "steps": {"8": 0.5}}})
    price_of = lambda prices: Credits(None, prices).price_of(spec)  # type: ignore[arg-type] # noqa: E731
    assert price_of({}).per_megapixel_second == 3
    assert price_of({"large": 7.0}).per_megapixel_second == 7
    assert price_of({"large": 7.0, "own": 9.0}).per_megapixel_second == 9
    assert price_of({"own": 9.0}).step_classes == spec.price.step_classes


def test_another_autoencoder_does_not_change_the_operators_price() -> None:
    spec = dataclasses.replace(spec_from(CARD), id="own+vae=soft")
    assert Credits(None, {"own": 9.0}).price_of(spec).per_megapixel_second == 9  # type: ignore[arg-type]


def test_a_continued_video_costs_what_is_added(small_spec: ModelSpec) -> None:
    planned = plan(GenerationRequest(prompt="a", model="small", seed=1, num_frames=17), small_spec)
    whole = quote(planned, Price(1000.0))
    part = quote(dataclasses.replace(planned, continued_frames=8), Price(1000.0))
    assert part.megapixel_seconds == pytest.approx(whole.megapixel_seconds * 9 / 17)


def test_nothing_is_for_nothing_and_floats_are_no_money(small_spec: ModelSpec) -> None:
    planned = plan(GenerationRequest(prompt="a", model="small", seed=1), small_spec)
    assert quote(planned, Price(0.0)).credits == 1
    exact = 1e6 / (planned.height * planned.width) * planned.fps / planned.num_frames
    factor = Price().factor_of(planned.steps_per_window)
    assert quote(planned, Price(exact * 2 / factor * (1 + 1e-12))).credits == 2

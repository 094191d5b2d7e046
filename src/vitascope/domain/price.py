"""What a model's videos cost, as its card says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAX_PRICE = 1e6
"""Of a megapixel-second, and of a factor: the longest video's price is still a number that databases hold."""


@dataclass(frozen=True, slots=True)
class StepClass:
    """A price's factor for up to so many denoising steps."""

    #: None for any number.
    max_steps: int | None
    factor: float


DEFAULT_STEP_CLASSES = (StepClass(8, 0.4), StepClass(30, 1.0), StepClass(None, 1.6))
"""Few-step models and previews, the usual, and more; about in proportion to the steps in the middle of each class."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's videos cost."""

    #: Credits for a million pixels shown for a second.
    per_megapixel_second: float = 10.0
    #: By rising numbers of steps; the last one takes any number.
    step_classes: tuple[StepClass, ...] = DEFAULT_STEP_CLASSES

    def factor_of(self, num_steps: int) -> float:
        """Return the factor of the first class that takes so many steps."""
        found = (
            one.factor for one in self.step_classes if one.max_steps is None or num_steps <= one.max_steps
        )
        return next(found, self.step_classes[-1].factor)


PRICE_CLASSES: Mapping[str, float] = {"small": 4.0, "standard": 10.0, "medium": 10.0, "large": 25.0}
"""Credits for a megapixel-second by the name that a card gives for its price; about in proportion to what models of 1, 5 and 14
billion parameters take of a device. A name of the operator's own costs as the standard one does until the operator sets its price."""


def price_of_class(name: str) -> Price:
    """Return the price of a class."""
    return Price(PRICE_CLASSES.get(name, PRICE_CLASSES["standard"]))


STANDARD = price_of_class("standard")

"""Single values as this vendor's clients send them: numbers as text, yes and no, and what is above a documented maximum."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from vitascope.dialects._http import Fields, shown
from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidParameter

from .calls import Call

_SECONDS = re.compile(r"\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*s?(?:ec(?:onds?)?)?\s*", re.ASCII | re.IGNORECASE)


@dataclass(slots=True)
class Reader:
    """Reads a body by a call's documented ranges and notes what was taken instead of what was said."""

    fields: Fields
    call: Call
    choices: list[Choice] = field(default_factory=list)

    def given(self, *names: str) -> str | None:
        """Return the first of these names that has a value."""
        name = self.fields.first(*names)
        return None if self.fields.raw(name) in (None, "", "null") else name

    def with_value(self, name: str, value: float) -> Reader:
        """Return a reader that finds another value under a name."""
        return Reader(Fields({**self.fields.values(), name: value}), self.call, self.choices)

    def integer(self, name: str, alias: str | None = None) -> int | None:
        """Read a whole number within its range."""
        said = self.given(name, *([alias] if alias else [])) or name
        value = self._within(name, said, self.fields.integer(said))
        return None if value is None else int(value)

    def number(self, name: str) -> float | None:
        """Read a number within its range."""
        return self._within(name, name, self.fields.number(name))

    def _within(self, name: str, said: str, value: float | None) -> float | None:
        limits = self.call.range(name)
        if value is None:
            return limits.default
        if value < limits.minimum:
            nearest = limits.minimum
            rule = f"it must be at least {nearest:g}"
            raise InvalidParameter(
                said, value, rule, nearest=int(nearest) if nearest == int(nearest) else nearest
            )
        if limits.maximum is None or value <= limits.maximum:
            return value
        reason = f"{value:g} was asked for, and {self.call.name} takes at most {limits.maximum:g}"
        self.choices.append(Choice(said, f"{limits.maximum:g}", reason))
        return limits.maximum

    def side(self, name: str) -> int | None:
        """Read a height or width; video files have even ones."""
        value = self.integer(name)
        if value is None or value % 2 == 0:
            return value
        self.choices.append(Choice(name, str(value - 1), f"{value} is odd, which video files cannot be"))
        return value - 1

    def flag(self, name: str) -> bool | None:
        """Read yes or no, in whatever way."""
        value = self.fields.raw(name)
        if isinstance(value, int | float) and value in (0, 1):
            return bool(value)
        if isinstance(value, str) and value.strip().lower() in ("on", "off"):
            return value.strip().lower() == "on"
        try:
            return self.fields.boolean(name)
        except InvalidParameter:
            raise InvalidParameter(name, shown(value), "it must be yes or no") from None

    def word(self, name: str, allowed: Iterable[str]) -> str | None:
        """Read one of several words; capitals do not count."""
        text = (self.fields.text(name) or "").strip().lower()
        if not text or text == "null":
            return None
        known = tuple(allowed)
        if text not in known:
            raise InvalidParameter(name, text, f"it must be one of {', '.join(known)}", nearest=known[0])
        return text

    def seconds(self, name: str) -> float | None:
        """Read a duration: 8, "8" or "8s"."""
        value = self.fields.raw(name)
        if isinstance(value, str) and (match := _SECONDS.fullmatch(value)):
            value = float(match[1])
        seconds = Fields({name: value}).number(name)
        if seconds is not None and seconds <= 0:
            raise InvalidParameter(name, seconds, "it must be a number of seconds above 0", nearest=1)
        return seconds

"""Which models' files are anywhere, as workers tell and this machine shows."""

from __future__ import annotations

from vitascope.domain.errors import StoreUnavailable
from vitascope.domain.model_spec import ModelSpec
from vitascope.service.availability import FRESH_SECONDS, Availability
from vitascope.worker.available import LOOK_SECONDS, Available


def test_what_no_worker_has_and_is_not_here_is_nowhere(small_spec: ModelSpec) -> None:
    now, looks, here = [0.0], [], [False]
    told: list[frozenset[str] | None] = [frozenset({"big"})]

    def look() -> list[frozenset[str] | None]:
        looks.append(now[0])
        return list(told)

    availability = Availability(look, lambda _spec: here[0], lambda: now[0])
    assert not availability.has(small_spec)
    told.append(frozenset({"small"}))
    assert not availability.has(small_spec), "as of the last look"
    now[0] += FRESH_SECONDS + 0.1
    assert availability.has(small_spec)
    assert len(looks) == 2
    told[1] = None
    availability.forget()
    assert availability.has(small_spec), "one has not told"
    told.clear()
    here[0] = True
    availability.forget()
    assert availability.has(small_spec)


def test_a_store_that_is_away_takes_no_model_away(small_spec: ModelSpec) -> None:
    def look() -> list[frozenset[str] | None]:
        raise StoreUnavailable

    assert Availability(look, lambda _spec: False).has(small_spec)


def test_a_worker_tells_what_has_changed_only() -> None:
    now, there = [0.0], [frozenset({"small"})]
    available = Available(lambda: there[0], lambda: now[0])
    assert available.news() == {"small"}
    assert available.news() == {"small"}, "it was not told yet"
    available.was_told(frozenset({"small"}))
    assert available.news() is None
    there[0] = frozenset()
    assert available.news() is None
    now[0] += LOOK_SECONDS
    assert available.news() == frozenset()
    there[0] = frozenset({"big"})
    available.look_soon()
    assert available.news() == {"big"}

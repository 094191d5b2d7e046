"""Which models stay loaded, without an engine."""

from __future__ import annotations

import dataclasses
import random

import pytest

from vitascope.catalog import Catalog
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.residency import Residency
from vitascope.engine import EngineBusy
from vitascope.engine.residence import Residence


class Shelf:
    """An engine whose models are their names, each of the size that its name ends with."""

    def __init__(self, budget: int | None = None, free: int = 0) -> None:
        self.budget_bytes = budget
        self.total = free
        self.log: list[str] = []
        self.fails = False

    def free_bytes(self, weights_bytes: int) -> int:
        return self.total - weights_bytes

    def estimate(self, spec: ModelSpec) -> int:
        return int(spec.id.rpartition("-")[2])

    def guess_work(self, _spec: ModelSpec, _weights_bytes: int) -> int:
        return 1

    def load(self, spec: ModelSpec) -> str:
        if self.fails:
            raise MemoryError
        self.log.append(f"+{spec.id}")
        return spec.id

    def weigh(self, model: str) -> int:
        return int(model.rpartition("-")[2])

    def reclaim(self) -> None:
        self.log.append("reclaim")


POCKET = Catalog.open().resolve("pocket")


def spec(name: str, **other: object) -> ModelSpec:
    return dataclasses.replace(POCKET, id=name, **other)  # type: ignore[arg-type]


def use(residence: Residence[str], *names: str) -> None:
    for name in names:
        with residence.use(spec(name)) as model:
            assert model == name


@pytest.mark.parametrize("shelf", [Shelf(budget=21), Shelf(free=21)], ids=["budget", "measured"])
def test_what_was_not_used_for_longest_goes_first(shelf: Shelf) -> None:
    residence = Residence(shelf)
    use(residence, "a-10", "b-10")
    assert residence.ids == ("a-10", "b-10")
    use(residence, "a-10", "c-10")
    assert residence.ids == ("a-10", "c-10")
    assert shelf.log == ["+a-10", "+b-10", "reclaim", "+c-10"]
    state = residence.state()
    assert (state.loads, state.hits, state.evictions) == (3, 1, 1)


def test_as_many_go_as_the_new_one_needs() -> None:
    residence = Residence(Shelf(budget=31))
    use(residence, "a-10", "b-10", "c-5", "d-20")
    assert residence.ids == ("c-5", "d-20")


def test_one_that_is_in_use_stays_and_the_other_has_no_room() -> None:
    residence = Residence(Shelf(budget=22))
    with residence.use(spec("a-10")), residence.use(spec("b-10")):
        assert residence.room_for(spec("c-10"), 4) == 0
        with (
            pytest.raises(
                EngineBusy, match="cannot load model `c-10`: it does not fit beside `a-10`, `b-10`"
            ),
            residence.use(spec("c-10")),
        ):
            pass
        with pytest.raises(EngineBusy, match="cannot unload `a-10`: 1 of its generations are open"):
            residence.evict("a-10")
        assert residence.evict_idle() == []
    assert residence.ids == ("b-10", "a-10")
    assert residence.room_for(spec("c-10"), 4) == 4, "nothing is in use: it may have everything"


def test_room_is_counted_with_what_the_work_takes() -> None:
    residence = Residence(Shelf(budget=40))
    with residence.use(spec("a-10")):
        residence.learn_work(spec("a-10"), 100, 10)
        assert residence.room_for(spec("a-10"), 9) == 2, "30 beside the weights, of which one has 10"
        assert residence.room_for(spec("b-10"), 9) == 9, "40 - 20 - 10, and 1 is taken for unknown work"
        assert residence.room_for(spec("c-20"), 9) == 0
    assert residence.state().models["a-10"].work_bytes == 10


def test_what_was_measured_is_remembered_after_it_went() -> None:
    residence = Residence(Shelf(budget=40))
    use(residence, "a-10")
    residence.learn_work(spec("a-10"), 100, 25)
    residence.learn_work(spec("a-10"), 50, 5)
    assert residence.evict("a-10")
    use(residence, "b-10", "a-10")
    assert residence.ids == ("a-10",), "10 and 25 do not fit beside 10"


def test_what_is_larger_than_everything_is_tried_alone() -> None:
    shelf = Shelf(budget=21)
    residence = Residence(shelf)
    use(residence, "a-10", "b-100")
    assert residence.ids == ("b-100",)
    use(residence, "a-10")
    assert residence.ids == ("a-10",)


def test_a_card_that_was_changed_is_loaded_anew() -> None:
    shelf = Shelf(budget=50)
    residence = Residence(shelf)
    use(residence, "a-10")
    changed = spec("a-10", title="another")
    with residence.use(spec("a-10")):
        assert residence.room_for(changed, 4) == 0
        with pytest.raises(EngineBusy, match="cannot unload `a-10`"), residence.use(changed):
            pass
    with residence.use(changed):
        assert shelf.log == ["+a-10", "reclaim", "+a-10"]
    assert residence.state().evictions == 0, "it was replaced, not in the way"


def test_a_load_that_fails_leaves_nothing_behind() -> None:
    shelf = Shelf(budget=50)
    residence = Residence(shelf)
    shelf.fails = True
    with pytest.raises(MemoryError), residence.use(spec("a-10")):
        pass
    assert residence.ids == ()
    shelf.fails = False
    use(residence, "a-10")
    assert residence.state().loads == 1


def test_any_order_of_uses_stays_within_the_budget() -> None:
    for seed in range(20):
        order = random.Random(seed)
        residence = Residence(Shelf(budget=30))
        names = [f"{letter}-{order.randrange(1, 20)}" for letter in "abcdefg"]
        for _ in range(100):
            use(residence, name := order.choice(names))
            assert residence.ids[-1] == name
            assert sum(found.weights_bytes for found in residence.state().models.values()) <= 29
        state = residence.state()
        assert state.loads + state.hits == 100
        assert state.loads - state.evictions == len(residence.ids)


def test_its_state_is_json_and_back() -> None:
    residence = Residence(Shelf(budget=30))
    use(residence, "a-10")
    residence.learn_work(spec("a-10"), 1, 3)
    state = residence.state()
    assert Residency.from_dict(state.to_dict()) == state
    assert Residency.from_dict({}) == Residency()
    assert Residency.from_dict({"loads": 2, "of a newer version": 1}) == Residency(loads=2)

"""What a worker notices of an engine process that several lanes talk to. The process is a queue of what it says."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from vitascope.domain.cost import Run
from vitascope.worker.messages import Message
from vitascope.worker.patience import Patience
from vitascope.worker.shared_engine import EngineDied, MustWait, Seat, SharedEngine
from waiting import eventually


class Quiet:
    """Says what it is told to say, and counts how often it was listened to."""

    pid = 1

    def __init__(self) -> None:
        self.said: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.sent: list[Message] = []
        self.listened = 0
        self._is_killed = threading.Event()

    def is_alive(self) -> bool:
        return not self._is_killed.is_set()

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def receive(self, timeout_seconds: float) -> Message | None:
        self.listened += 1
        if self._is_killed.is_set():
            raise EOFError
        try:
            return self.said.get(timeout=timeout_seconds / 100)
        except queue.Empty:
            return None

    def kill(self) -> int:
        self._is_killed.set()
        return 0

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def process() -> Iterator[Quiet]:
    found = Quiet()
    yield found
    found.kill()


class SlowToSend(SharedEngine):
    """One whose lanes are held up before they have sent anything, as a busy machine may do it."""

    def send(self, order: Message) -> None:
        heard = process_of(self).listened
        eventually(lambda: process_of(self).listened > heard + 2)
        super().send(order)


def process_of(engine: SharedEngine) -> Quiet:
    found = engine._engine
    assert isinstance(found, Quiet)
    return found


def test_an_engine_that_had_nothing_to_do_for_long_does_not_count_as_hung_once_it_has(process: Quiet) -> None:
    engine = SlowToSend(process, 900.0, lambda: None)
    engine.silent_seconds = 5000.0
    seat = engine.begin({"do": "make", "making": "a.1"}, Patience([Run(10, 1)], None, 900.0))
    assert engine.is_alive
    assert process.sent
    assert seat.receive(0.01) is None
    engine.kill()


def test_nobody_is_begun_beside_who_is_made_alone_whoever_came_first(process: Quiet) -> None:
    engine = SharedEngine(process, 900.0, lambda: None)

    def begin(name: str, *, is_alone: bool = False) -> Seat:
        patience = Patience([Run(10, 1)], None, 900.0)
        return engine.begin({"do": "make", "making": name}, patience, is_alone=is_alone)

    both = [begin("a"), begin("b")]
    for seat in both:
        with pytest.raises(MustWait):
            begin("alone", is_alone=True)
        engine.leave(seat)
    alone = begin("alone", is_alone=True)
    with pytest.raises(MustWait):
        begin("c")
    engine.leave(alone)
    assert [message["making"] for message in process.sent] == ["a", "b", "alone"]
    assert begin("c").name == "c"
    engine.kill()


@pytest.mark.parametrize(("is_ours", "told"), [(True, "engine ended"), (False, "engine died")])
def test_the_log_tells_an_end_that_was_meant_from_a_death(
    process: Quiet, caplog: pytest.LogCaptureFixture, is_ours: bool, told: str
) -> None:
    caplog.set_level("INFO", "vitascope")
    engine = SharedEngine(process, 900.0, lambda: None)
    if is_ours:
        engine.kill()
    else:
        process.kill()
    eventually(lambda: engine.is_dead)
    eventually(lambda: caplog.messages == [told])


def test_nobody_is_to_blame_where_the_engine_refuses_its_settings(process: Quiet) -> None:
    process.said.put({"is": "refused", "message": "there is no device `cuda:9` here", "hint": "`auto`"})
    engine = SharedEngine(process, 900.0, lambda: None)
    seat = engine.begin({"do": "make", "making": "a.1"}, Patience([Run(10, 1)], None, 900.0))
    eventually(lambda: engine.refusal is not None)
    process.kill()
    with pytest.raises(EngineDied) as died:
        eventually(lambda: seat.receive(0.1))
    assert not died.value.is_to_blame
    assert engine.refusal is not None
    assert engine.refusal.hint == "`auto`"


def test_who_stands_still_is_known_to_do_so_before_it_says_so(
    process: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("vitascope.worker.shared_engine.time", SimpleNamespace(monotonic=lambda: now))
    engine = SharedEngine(process, 900.0, lambda: None)
    a, b = (
        engine.begin({"do": "make", "making": name}, Patience([Run(10, 1)], None, 900.0))
        for name in ("a", "b")
    )

    def hear(seat: Seat, **message: object) -> None:
        process.said.put({"is": "step", "making": seat.name, "stage": "denoise", "index": 1, **message})
        assert seat.receive(30.0) is not None

    def turn(name: str | None) -> None:
        process.said.put({"is": "turn", "making": name})
        process.said.put({"is": "obeyed"})
        engine.answers.get(timeout=30.0)

    turn("a")
    now += 10.0
    assert (a.stood_seconds, b.stood_seconds) == (0.0, 10.0)
    turn("b")
    now += 5.0
    assert (a.stood_seconds, b.stood_seconds) == (5.0, 10.0)
    hear(b, stood_seconds=9.5)
    now += 1.0
    assert (a.stood_seconds, b.stood_seconds) == (6.0, 9.5), "it knows better"
    hear(b, stood_seconds=9.5, needs_device=False)
    turn(None)
    now += 100.0
    assert (a.stood_seconds, b.stood_seconds) == (6.0, 109.5), "it is only written"
    process.said.put({"is": "made", "making": "a", "stood_seconds": 6.5})
    assert a.receive(30.0) is not None
    now += 7.0
    assert eventually(lambda: a.stood_seconds == 13.5), "it is only stored"
    engine.kill()


def test_a_step_that_another_one_ran_for_it_counts_as_long_as_it_took(process: Quiet) -> None:
    """Else the first one that it has to run itself, because the other has left, is taken for a hang."""
    engine = SharedEngine(process, 900.0, lambda: None)
    seat = engine.begin({"do": "make", "making": "a.1"}, Patience([Run(10, 1)], None, 900.0))
    step = {"is": "step", "making": "a.1", "stage": "denoise", "answered_seconds": 30.0}
    for index in (1, 2):
        process.said.put({**step, "index": index})
        assert seat.receive(30.0) is not None
    assert seat.patience.limit_seconds == pytest.approx(300.0)
    engine.kill()

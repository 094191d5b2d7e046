"""Who of several open jobs is advanced next, and what time each had. Makings whose work is a list of steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vitascope.catalog import Catalog
from vitascope.domain.errors import OutOfMemory
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.step import Step
from vitascope.domain.video import Video
from vitascope.engine import Sharing
from vitascope.worker.aside import Aside
from vitascope.worker.driver import Driver
from vitascope.worker.making import Events, Making
from vitascope.worker.messages import Message
from vitascope.worker.outputs import Failed
from vitascope.worker.produce import Product
from vitascope.worker.reins import Reins

Begin = Callable[[Reins], Events]


class Stage:
    """A driver, what it says, and the forwards that its makings have run."""

    def __init__(self) -> None:
        self.told: list[Message] = []
        self.driver = Driver(self.told.append)
        self.woken: list[str] = []
        #: Who ran a forward, and for whom.
        self.forwards: list[tuple[str, ...]] = []
        self.worked: list[str] = []
        self._standing: dict[str, Sharing] = {}

    def open(self, name: str, begin: Begin, *, seconds: float | None = None, is_drawn: bool = True) -> Making:
        request = GenerationRequest(prompt="a dog", model="pocket", seed=1, is_seed_drawn=is_drawn)
        planned = plan(request, Catalog.open().resolve("pocket")).to_dict()
        who = {"making": name, "job": name, "key": "", "model": "pocket", "priority": 0, "seconds": seconds}
        making = Making({**who, "plan": planned}, begin, lambda: self.woken.append(name))
        self.driver.open(making)
        return making

    def steps(self, name: str, count: int, seconds: float = 0.0) -> Begin:
        """Work that shares nothing."""

        def events(reins: Reins) -> Events:
            reins.is_generating = True
            yield Step("load", 1)
            for index in range(count):
                self.worked.append(name)
                time.sleep(seconds)
                yield Step("denoise", index + 1, count)
            reins.is_generating = False
            yield Failed(0, ValueError("nothing was made"))

        return events

    def sharing(self, name: str, count: int, seconds: float = 0.0) -> Begin:
        """Work whose forwards answer all that stand before one."""

        def events(reins: Reins) -> Events:
            sharing = reins.sharing = Sharing(is_allowed=True)
            yield Step("load", 1)
            for index in range(count):
                sharing.is_answered = False
                sharing.group = sharing.latest_group = "kind"
                self._standing[name] = sharing
                yield Step("denoise", index, count)
                self._run(name, seconds)
                sharing.group = None
                yield Step("denoise", index + 1, count)
            sharing.is_answered, sharing.latest_group = False, None
            yield Failed(0, ValueError("nothing was made"))

        return events

    def _run(self, name: str, seconds: float) -> None:
        if name not in self._standing:
            return
        time.sleep(seconds)
        self.forwards.append((name, *(other for other in self._standing if other != name)))
        for other, sharing in self._standing.items():
            sharing.is_answered, sharing.group = other != name, None
        self._standing.clear()

    def run(self) -> None:
        while not self.driver.is_idle:
            self.driver.step()

    def ended(self) -> list[str]:
        return [each["making"] for each in self.told if each["is"] == "failed"]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_equal_jobs_are_made_one_after_the_other(stage: Stage) -> None:
    for name in ("a", "b"):
        stage.open(name, stage.steps(name, 5), seconds=10.0)
    stage.run()
    assert stage.worked == ["a"] * 5 + ["b"] * 5


def with_a_long_one(stage: Stage) -> None:
    """Let a job of two seconds have made its first step."""
    stage.open("long", stage.steps("long", 100, 0.02), seconds=2.0)
    while not stage.worked:
        stage.driver.step()


def test_a_shorter_one_passes(stage: Stage) -> None:
    with_a_long_one(stage)
    stage.open("short", stage.steps("short", 3), seconds=0.1)
    while not stage.ended():
        stage.driver.step()
    assert stage.worked == ["long", "short", "short", "short"]
    stage.driver.step()
    turns = [each["making"] for each in stage.told if each["is"] == "turn"]
    assert turns == ["long", "short", "long"]


def test_who_can_share_forwards_comes_to_stand_before_them(stage: Stage) -> None:
    for name in ("a", "b", "c"):
        stage.open(name, stage.sharing(name, 4), seconds=10.0)
    stage.run()
    assert [len(forward) for forward in stage.forwards] == [3, 3, 3, 3]


def test_one_may_join_later(stage: Stage) -> None:
    stage.open("a", stage.sharing("a", 6), seconds=10.0)
    while len(stage.forwards) < 3:
        stage.driver.step()
    stage.open("b", stage.sharing("b", 6), seconds=10.0)
    stage.run()
    assert [len(forward) for forward in stage.forwards] == [1] * 3 + [2] * 3 + [1] * 3


def test_a_shared_forward_is_shared_by_all_that_have_it_and_others_stand_still(stage: Stage) -> None:
    a, b = (stage.open(name, stage.sharing(name, 4, 0.02), seconds=10.0) for name in ("a", "b"))
    other = stage.open("other", stage.steps("other", 1), seconds=1000.0, is_drawn=False)
    begun_at = time.monotonic()
    while len(stage.ended()) < 2:
        stage.driver.step()
    spent = time.monotonic() - begun_at
    assert a.used_seconds >= 0.04
    assert b.used_seconds >= 0.04
    assert a.used_seconds + b.used_seconds <= spent
    assert other.reins.stood_seconds >= 0.08
    assert a.reins.stood_seconds >= 0.04 - 0.01


def test_the_time_of_a_forward_that_another_one_ran_for_it_is_told_with_its_step(stage: Stage) -> None:
    for name in ("a", "b"):
        stage.open(name, stage.sharing(name, 2, 0.02), seconds=10.0)
    stage.run()
    for index in (1, 2):
        done = [each for each in stage.told if each["is"] == "step" and each["index"] == index]
        answered = [each["answered_seconds"] for each in done if each["stage"] == "denoise"]
        assert min(answered) == 0.0
        assert max(answered) >= 0.02


def test_who_waits_is_left_alone_until_it_is_woken(stage: Stage) -> None:
    looks = []

    def waiting(reins: Reins) -> Events:
        aside = Aside(lambda: time.sleep(0.03), "aside")

        def look() -> Step:
            looks.append(None)
            return Step("write_video")

        yield from aside.over(reins, look)
        yield Failed(0, ValueError("nothing was made"))

    making = stage.open("waits", waiting)
    stage.driver.step()
    assert making.is_waiting
    assert stage.driver.pause_seconds
    while not stage.woken:
        stage.driver.step()
    stage.run()
    assert len(looks) == 1
    assert making.reins.stood_seconds < 0.03, "its own work goes on meanwhile"
    assert [each["making"] for each in stage.told if each["is"] == "turn"][-1] is None


def test_too_little_memory_beside_others_sends_the_job_back_to_be_made_alone(stage: Stage) -> None:
    def short(reins: Reins) -> Events:
        reins.is_generating = True
        yield Step("load", 1)
        yield Failed(0, OutOfMemory("the device has too little memory"))

    with_a_long_one(stage)
    stage.open("b", short, seconds=0.1)
    while not any(each["is"] in ("returned", "failed") for each in stage.told):
        stage.driver.step()
    stage.driver.cancel("long")
    assert [each["is"] for each in stage.told if each["making"] == "b"][-1] == "returned"
    stage.open("c", short)
    stage.run()
    (failed,) = (each for each in stage.told if each["making"] == "c" and each["is"] == "failed")
    assert failed["code"] == "out_of_memory"


def test_cancel_ends_one_and_closes_what_makes_it(stage: Stage) -> None:
    closed: list[str] = []

    def watched(reins: Reins) -> Iterator[Any]:
        try:
            yield from stage.steps("a", 100)(reins)
        finally:
            closed.append("a")

    stage.open("a", watched)  # type: ignore[arg-type]
    stage.driver.step()
    stage.driver.cancel("a")
    assert (closed, stage.driver.is_idle, stage.told[-1]["is"]) == (["a"], True, "cancelled")
    stage.driver.cancel("a")
    assert stage.told[-1]["is"] == "cancelled"


def test_others_go_on_while_the_file_of_a_cancelled_one_comes_to_its_end(stage: Stage) -> None:
    """The last frames of a long one may take seconds, and nothing may be left of it when it is said to be cancelled."""
    is_asked, may_end = threading.Event(), threading.Event()

    def write() -> None:
        is_asked.wait(60)
        may_end.wait(60)

    def writing(reins: Reins) -> Events:
        aside = Aside(write, "aside", stop=is_asked.set)
        yield from aside.over(reins, lambda: Step("write_video"))

    stage.open("written", writing)
    stage.driver.step()
    stage.open("other", stage.steps("other", 3))
    stage.driver.cancel("written")
    while not stage.ended():
        stage.driver.step()
    assert stage.worked == ["other"] * 3
    assert "cancelled" not in [each["is"] for each in stage.told]
    may_end.set()
    stage.run()
    assert [each["is"] for each in stage.told if each["making"] == "written"][-1] == "cancelled"


def test_what_a_job_has_left_is_told_with_the_step_that_shows_it(stage: Stage) -> None:
    stage.open("a", stage.steps("a", 4, 0.05))
    stage.run()
    left = [
        each["seconds_left"] for each in stage.told if each["is"] == "step" and each["stage"] == "denoise"
    ]
    assert left[0] >= 3 * 0.05
    assert left[2] >= 0.05
    assert left[3] == 0.0


def test_all_the_time_that_a_job_stood_still_is_told_at_its_end(stage: Stage) -> None:
    def two_videos(reins: Reins) -> Events:
        for index in range(2):
            yield Step("load", 1)
            yield made(index)

    long = stage.open("long", stage.steps("long", 1, 0.05), seconds=0.01)
    making = stage.open("two", two_videos, seconds=1.0)
    while not long.is_begun:
        stage.driver.step()
    stage.run()
    assert making.reins.stood_seconds >= 0.05, "of which its key has had nothing"
    (told,) = (each for each in stage.told if each["is"] == "made")
    assert told["details"]["seconds"]["stand_still"] == pytest.approx(making.reins.stood_seconds, abs=0.001)


def test_a_cancelled_one_tells_for_how_long_it_stood_still(stage: Stage) -> None:
    stage.open("short", stage.steps("short", 1, 0.05), seconds=0.01)
    stage.open("long", stage.steps("long", 100), seconds=100.0)
    while not stage.ended():
        stage.driver.step()
    stage.driver.cancel("long")
    assert stage.told[-1]["stood_seconds"] >= 0.05


def made(index: int) -> Product:
    video = Video(
        key=f"{index}.mp4",
        media_type="video/mp4",
        num_bytes=1,
        sha256="",
        height=2,
        width=2,
        num_frames=1,
        fps=1,
        index=index,
    )
    return Product(Path(video.key), video, (), {"denoise": 1.0})

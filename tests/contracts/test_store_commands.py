"""Commands to workers, whatever the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vitascope.domain.command import WITH_FILES, CommandKind, CommandStatus
from vitascope.domain.errors import CommandNotFound, NoWorker
from vitascope.domain.residency import ModelMemory, Residency
from vitascope.store import Store

EVERY = frozenset(CommandKind)


class TestCommands:
    def test_a_command_is_for_the_workers_that_it_names(self, store: Store) -> None:
        store.add_command("c", CommandKind.LOAD, ["w1", "w2"], "small", {"force": True})
        assert store.take_errand("w3", EVERY) is None
        errand = store.take_errand("w2", EVERY)
        assert errand is not None
        assert (errand.kind, errand.model, errand.options) == (CommandKind.LOAD, "small", {"force": True})
        assert store.take_errand("w2", EVERY) is None, "each takes it once"
        assert store.command("c").status is CommandStatus.RUNNING
        store.end_errand(errand.number, "loaded")
        assert store.command("c").status is CommandStatus.RUNNING, "another one has not begun"
        other = store.take_errand("w1", EVERY)
        assert other is not None
        store.end_errand(other.number, "no memory", failed=True)
        command = store.command("c")
        assert command.status is CommandStatus.FAILED
        assert [(e.worker_id, e.status, e.message) for e in command.errands] == [
            ("w1", CommandStatus.FAILED, "no memory"),
            ("w2", CommandStatus.DONE, "loaded"),
        ]

    def test_the_oldest_of_the_kinds_that_are_asked_for_is_next(self, store: Store) -> None:
        for name, kind in (("a", CommandKind.LOAD), ("b", CommandKind.PULL), ("c", CommandKind.VERIFY)):
            store.add_command(name, kind, ["w"], "small")
        taken = [store.take_errand("w", WITH_FILES) for _ in range(3)]
        assert [errand and errand.kind for errand in taken] == [CommandKind.PULL, CommandKind.VERIFY, None]

    def test_two_processes_do_not_take_the_same(self, open_store: Callable[[], Store]) -> None:
        first, second = open_store(), open_store()
        first.add_command("c", CommandKind.RESTART, ["w"])
        assert [store.take_errand("w", EVERY) is not None for store in (first, second)] == [True, False]

    def test_progress_is_read_by_others(self, open_store: Callable[[], Store]) -> None:
        store = open_store()
        store.add_command("c", CommandKind.PULL, ["w"], "small")
        errand = store.take_errand("w", EVERY)
        assert errand is not None
        assert store.report_errand(errand.number, "downloading", 3_000_000_000, 10_000_000_000)
        (seen,) = open_store().command("c").errands
        assert (seen.message, seen.num_bytes, seen.total_bytes) == (
            "downloading",
            3_000_000_000,
            10_000_000_000,
        )
        store.end_errand(errand.number)
        assert not store.report_errand(errand.number, "too late", 1, 1)
        assert store.command("c").errands[0].message == ""

    def test_nobody_to_tell_and_nothing_to_read(self, store: Store) -> None:
        with pytest.raises(NoWorker):
            store.add_command("c", CommandKind.LOAD, [])
        for name in ("c", "\0", "\ud800"):
            with pytest.raises(CommandNotFound):
                store.command(name)
        assert store.commands() == []

    def test_the_newest_command_is_first(self, store: Store) -> None:
        for name in ("a", "b"):
            store.add_command(name, CommandKind.UNLOAD, ["w1", "w2"], "small")
        found = store.commands()
        assert [command.id for command in found] == ["b", "a"]
        assert [errand.worker_id for errand in found[0].errands] == ["w1", "w2"]

    def test_the_models_that_living_workers_have(self, store: Store, clock: Any) -> None:
        assert store.models_on_workers(30) == []
        store.worker_seen("w1")
        assert store.models_on_workers(30) == [None], "it has not told"
        store.worker_seen("w1", available=["big", "small"])
        store.worker_seen("w1", "cpu", [])
        assert store.models_on_workers(30) == [{"small", "big"}]
        assert store.worker_states(30)[0].available == ("big", "small")
        store.worker_seen("w2", available=[])
        store.worker_stopped("w1")
        assert store.models_on_workers(30) == [frozenset()]
        store.worker_stopped("w2")
        assert sorted(map(len, store.models_on_workers(30))) == [0, 2], "both were there lately"

    def test_what_a_stopped_worker_was_told_fails(self, store: Store) -> None:
        for worker in ("w1", "w2"):
            store.worker_seen(worker)
        store.add_command("c", CommandKind.PULL, ["w1", "w2"], "small")
        store.add_command("d", CommandKind.PULL, ["w1"], "small")
        errand = store.take_errand("w1", EVERY)
        assert errand is not None
        store.worker_stopped("w1")
        assert store.command("d").status is CommandStatus.FAILED, "it had not even begun"
        first, second = store.command("c").errands
        assert (first.status, second.status) == (CommandStatus.FAILED, CommandStatus.QUEUED)
        assert first.message.startswith("The worker stopped")
        store.end_errand(errand.number, "too late")
        assert store.command("c").errands[0].status is CommandStatus.FAILED

    def test_what_a_silent_worker_was_told_fails_in_time(self, store: Store, clock: Any) -> None:
        for worker in ("w1", "w2"):
            store.worker_seen(worker)
            store.add_command(worker, CommandKind.LOAD, [worker], "small")
        clock.advance(20)
        store.worker_seen("w2")
        store.sweep_commands(30)
        assert store.command("w1").status is CommandStatus.QUEUED
        clock.advance(15)
        store.sweep_commands(30)
        assert [store.command(name).status for name in ("w1", "w2")] == ["failed", "queued"]

    def test_old_commands_are_forgotten_when_they_have_ended(self, store: Store, clock: Any) -> None:
        store.worker_seen("w")
        for name in ("ended", "open"):
            store.add_command(name, CommandKind.LOAD, ["w"], "small")
        errand = store.take_errand("w", EVERY)
        assert errand is not None
        store.end_errand(errand.number)
        clock.advance(25 * 3600)
        store.worker_seen("w")
        store.sweep_commands(30)
        assert [command.id for command in store.commands()] == ["open"]

    def test_workers_tell_what_they_have_loaded(self, store: Store, clock: Any) -> None:
        store.worker_seen("w1", "cpu", ["small"])
        clock.advance(1)
        store.worker_seen("w2")
        store.worker_seen("w1")
        assert [(state.id, state.device, state.loaded) for state in store.worker_states(30)] == [
            ("w1", "cpu", ("small",)),
            ("w2", "", ()),
        ]
        store.worker_seen("w1", "cpu", [])
        clock.advance(20)
        store.worker_seen("w1")
        store.worker_stopped("w2")
        assert store.worker_states(30)[0].residency == Residency()
        told = Residency({"small": ModelMemory(5, 3, 1)}, 100, 2, 1.5, 7, 1, 0)
        store.worker_seen("w1", "cpu", ["small"], told)
        store.worker_seen("w1")
        assert store.worker_states(30)[0].residency == told
        store.worker_seen("w1", "cpu", [], Residency())
        assert [(state.id, state.loaded) for state in store.worker_states(30)] == [("w1", ())]

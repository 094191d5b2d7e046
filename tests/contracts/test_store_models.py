"""Models that are added at run time, whatever the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from vitascope.domain.added import ModelKind
from vitascope.domain.command import Command, CommandKind, CommandStatus, Errand
from vitascope.domain.errors import ModelInUse, NoWorker
from vitascope.store import Store, Told
from vitascope.store.tables import outbox

EVERY = frozenset(CommandKind)
HOOK = {
    "url": "https://hook.example/a",
    "lane": "@hook.example",
    "key_id": "",
    "done": {"status": "success", "model_id": "mine"},
    "failed": {"status": "failed", "model_id": "mine"},
}


def add(
    store: Store, name: str = "c", source: str = "hub:a/b", webhook: Mapping[str, Any] | None = None
) -> Command:
    return store.add_model(name, "mine", ModelKind.PIPELINE, source, None, ["w1", "w2"], webhook=webhook)


def taken(store: Store, worker: str) -> Errand:
    errand = store.take_errand(worker, EVERY)
    assert errand is not None
    return errand


def told(store: Store) -> list[Any]:
    with store._database.read() as connection:
        return [json.loads(body) for body in connection.scalars(sa.select(outbox.c.body))]


def test_one_is_known_once_a_worker_has_its_files(open_store: Callable[[], Store]) -> None:
    store, other = open_store(), open_store()
    command = add(store)
    assert (command.kind, command.model, len(command.errands)) == (CommandKind.ADD, "mine", 2)
    (model,) = other.added_models()
    assert (model.card, model.ready_at, model.command_id) == (None, None, "c")
    store.model_came("mine", {"id": "mine"})
    (model,) = other.added_models()
    assert model.card == {"id": "mine"}
    assert model.ready_at is not None
    assert other.added_model("mine") == model
    assert other.added_model("\0") is None


def test_one_id_is_one_model_until_it_is_deleted(store: Store) -> None:
    add(store)
    store.model_came("mine", {"id": "mine"})
    add(store, "again")
    with pytest.raises(ModelInUse):
        add(store, "other", "hub:a/c")
    with pytest.raises(NoWorker):
        store.add_model("d", "yours", ModelKind.VAE, "hub:a/b", None, [])
    assert [(model.id, model.command_id, model.card) for model in store.added_models()] == [
        ("mine", "again", {"id": "mine"})
    ]
    assert [store.delete_added("mine"), store.delete_added("mine")] == [True, False]
    assert store.added_models() == []
    found = store.added_model("mine")
    assert found is not None
    assert found.deleted_at is not None
    store.model_came("mine", {"id": "mine"})  # it came too late
    assert store.added_models() == []
    add(store, "anew", "hub:a/c")
    (model,) = store.added_models()
    assert (model.source, model.card) == ("hub:a/c", None)


def test_the_receiver_is_told_once_when_all_workers_have_ended(store: Store) -> None:
    add(store, webhook=HOOK)
    first, second = taken(store, "w1"), taken(store, "w2")
    store.go_on_with(first.number, "here", CommandKind.LOAD)
    following = taken(store, "w1")
    assert (following.kind, following.model) == (CommandKind.LOAD, "mine")
    store.end_errand(following.number, "loaded")
    assert told(store) == []
    store.end_errand(second.number, "here")
    store.end_errand(second.number, "here")
    assert told(store) == [HOOK["done"]]
    assert store.command("c").status is CommandStatus.DONE


def test_the_receiver_is_told_why_it_failed(store: Store) -> None:
    add(store, webhook=HOOK)
    store.end_errand(taken(store, "w1").number, "are a pickle", failed=True)
    store.worker_seen("w2")
    store.worker_stopped("w2")
    assert told(store) == [{"status": "failed", "model_id": "mine", "message": "are a pickle"}]


def test_nobody_is_told_of_a_deleted_one(store: Store) -> None:
    add(store, webhook=HOOK)
    store.delete_added("mine")
    for worker in ("w1", "w2"):
        store.end_errand(taken(store, worker).number, "gone", failed=True)
    assert told(store) == []


def test_who_asked_for_a_cards_model_is_told_too(store: Store) -> None:
    for number, failed in enumerate((False, True)):
        command = store.add_command(
            f"c{number}", CommandKind.LOAD, ["w1", "w2"], "card", told=Told("hub:a/b", HOOK)
        )
        store.end_errand(taken(store, "w1").number, "loaded")
        assert len(told(store)) == number
        store.end_errand(taken(store, "w2").number, "no room", failed=failed)
        assert not store.command(command.id).errands[0].is_open
    assert told(store) == [HOOK["done"], {"status": "failed", "model_id": "mine", "message": "no room"}]
    assert store.added_models() == [], "nothing was added"
    assert not store.delete_added("card")

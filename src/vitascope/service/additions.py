"""Models, adapters and autoencoders that operators add while the server runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from vitascope import catalog
from vitascope.catalog import Allowed
from vitascope.catalog.added import check_source
from vitascope.catalog.cards import MODEL_ID
from vitascope.domain.access import Caller
from vitascope.domain.added import AddedModel, ModelKind
from vitascope.domain.command import DELETED, Command, CommandKind
from vitascope.domain.errors import InvalidParameter, ModelInUse, NoWorker, UnknownModel
from vitascope.domain.model_spec import ModelSpec
from vitascope.store import Store, Told

from . import ids
from .commands import Commands

MAX_ID_CHARS = 100
MAX_SOURCE_CHARS = 1000

_REVISION = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*", re.ASCII)
"""A branch, a tag, a commit, or the hub's `refs/pr/1`."""

MAX_REVISION_CHARS = 255


class Models(Protocol):
    """What is needed of the catalog."""

    def all(self) -> list[ModelSpec]: ...

    def resolve(self, name: str | None) -> ModelSpec: ...

    def look_soon(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What shall be added."""

    id: str
    #: As its operator says it: see `catalog.Allowed`.
    source: str
    kind: ModelKind = ModelKind.PIPELINE
    #: A branch, a tag or a commit of the hub's; None for its newest.
    revision: str | None = None
    #: Who is told of the end; a URL that was checked, and both bodies in the words of the dialect that was asked.
    webhook: str | None = None
    done: Mapping[str, Any] | None = None
    failed: Mapping[str, Any] | None = None


class Additions:
    """What there is of it, and what is done with it.

    Args:
        store: where it is written down.
        models: the catalog.
        commands: to workers.
        allowed: where models may come from.
    """

    def __init__(self, store: Store, models: Models, commands: Commands, allowed: Allowed) -> None:
        self._store = store
        self._models = models
        self._commands = commands
        self._allowed = allowed

    def all(self) -> list[AddedModel]:
        """Return what was added and not deleted, the oldest first; also what is still being fetched."""
        return self._store.added_models()

    def has(self, name: str) -> bool:
        """Whether this was added, and not deleted."""
        found = self._store.added_model(name)
        return found is not None and found.deleted_at is None

    def add(self, wish: Wish, caller: Caller) -> Command:
        """Have workers fetch a model, find out what it is, and load it. It is durable when this returns, and not yet there.

        A name that a card has is that model: it is downloaded where it lacks, or loaded.

        Raises:
            InvalidParameter: its id or its source is none that can be served here, or not on the operator's list.
            ModelInUse: the id is another model's.
            NoWorker: there is nobody to do it.
        """
        _check_id(wish)
        if len(wish.source) > MAX_SOURCE_CHARS:
            rule = f"it must have at most {MAX_SOURCE_CHARS} characters"
            raise InvalidParameter("source", f"{len(wish.source)} characters long", rule)
        source, revision = self._allowed.source_of(wish.source)
        revision = wish.revision or revision
        _check_revision(revision)
        if (spec := self._card(wish.id)) is not None:
            return self._known(wish, spec, source, caller)
        check_source(wish.kind, source, revision)
        workers = [state.id for state in self._commands.workers()]
        told = _webhook(wish, caller)
        command = self._store.add_model(
            ids.new_id(), wish.id, wish.kind, source, revision, workers, webhook=told
        )
        self._models.look_soon()
        return command

    def _card(self, name: str) -> ModelSpec | None:
        """Return the model of a name that is on a card of this server."""
        if self.has(name):
            return None
        with contextlib.suppress(UnknownModel):
            return self._models.resolve(name)
        return None

    def _known(self, wish: Wish, spec: ModelSpec, source: str, caller: Caller) -> Command:
        if wish.kind is not ModelKind.PIPELINE or source != spec.source:
            raise ModelInUse(
                f"`{wish.id}` is a model of this server already, from elsewhere", hint="choose another id"
            )
        here = catalog.weights_of(spec).is_downloaded
        webhook = _webhook(wish, caller)
        told = None if webhook is None else Told(spec.source, webhook)
        return self._commands.order(CommandKind.LOAD if here else CommandKind.PULL, spec, told=told)

    def delete(self, name: str) -> Command | None:
        """Let no request find a model any more, and have its files removed where no other model needs them.

        A card's model stays known; its download is removed.

        Returns:
            The command by which files go; None where there is no worker to do it: then they stay.

        Raises:
            UnknownModel: there is none of that name.
            InvalidParameter: it comes with Vitascope, or its card names a folder of the operator's own.
            ModelInUse: another model needs its files.
        """
        if self._store.delete_added(name):
            self._models.look_soon()
            workers = [state.id for state in self._commands.workers()]
            with contextlib.suppress(NoWorker):
                return self._store.add_command(
                    ids.new_id(), CommandKind.REMOVE, workers, name, {"force": True, DELETED: True}
                )
            return None
        spec = self._models.resolve(name)
        for other in self._models.all():
            if other.id != spec.id and spec.source in (other.source, *other.components.values()):
                raise ModelInUse(f"model `{other.id}` needs the files of `{spec.id}`")
        return self._commands.order(CommandKind.REMOVE, spec, options=["force"])


def _check_id(wish: Wish) -> None:
    rule = None
    if not MODEL_ID.fullmatch(wish.id) or len(wish.id) > MAX_ID_CHARS:
        rule = f"it must be up to {MAX_ID_CHARS} letters, digits, and . _ - inside, with at most one slash"
    elif wish.kind is not ModelKind.PIPELINE and "/" in wish.id:
        rule = "of an adapter or a VAE it must hold no slash"
    if rule is not None:
        raise InvalidParameter("id", wish.id, rule)


def _check_revision(revision: str | None) -> None:
    if revision is None or (len(revision) <= MAX_REVISION_CHARS and _REVISION.fullmatch(revision)):
        return
    rule = f"it must be the name of a branch or tag, or a commit, of up to {MAX_REVISION_CHARS} characters"
    raise InvalidParameter("revision", revision[:MAX_REVISION_CHARS], rule)


def _webhook(wish: Wish, caller: Caller) -> dict[str, Any] | None:
    if wish.webhook is None:
        return None
    body = {"type": "model.ended", "model": wish.id}
    lane = f"{caller.key_id}@{urlsplit(wish.webhook).netloc.lower()}"
    return {
        "url": wish.webhook,
        "lane": lane,
        "key_id": caller.key_id,
        "done": dict(wish.done or {**body, "status": "done"}),
        "failed": dict(wish.failed or {**body, "status": "failed"}),
    }

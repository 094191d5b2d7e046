"""What operators want of workers: checked here, carried out there, read here again."""

from __future__ import annotations

from collections.abc import Sequence

from vitascope import catalog
from vitascope.catalog import Weights
from vitascope.domain.command import Command, CommandKind, WorkerState
from vitascope.domain.errors import InvalidParameter, ModelInUse
from vitascope.domain.model_spec import ModelSpec
from vitascope.store import Store, Told

from . import ids


class Commands:
    """Commands to workers.

    Args:
        store: where they are.
        silence_seconds: a worker that was not seen for so long counts as dead.
    """

    def __init__(self, store: Store, silence_seconds: float) -> None:
        self._store = store
        self._silence_seconds = silence_seconds

    def order(
        self,
        kind: CommandKind,
        spec: ModelSpec | None = None,
        *,
        worker: str | None = None,
        options: Sequence[str] = (),
        told: Told | None = None,
    ) -> Command:
        """Tell one worker, or all, to do something. It is durable when this returns, and not yet done.

        Args:
            kind: what.
            spec: the model that it is about.
            worker: id of the only one that shall do it.
            options: `force` unloads a model that is to be removed, `repair` reads what is there before it downloads,
                `models` unloads all models when caches are cleared.
            told: who is told of its end.

        Raises:
            NoWorker: there is none.
            InvalidParameter: there is no such worker, or this is not done with this model.
            ModelInUse: it is loaded, and shall be removed.
        """
        states = self.workers()
        if worker is not None and worker not in {state.id for state in states}:
            known = ", ".join(state.id for state in states) or "none"
            raise InvalidParameter("worker", worker, f"it must be one that runs: {known}")
        if spec is not None and kind in (CommandKind.PULL, CommandKind.REMOVE):
            catalog.repository_of(spec)
        loaded_on = [state.id for state in states if spec is not None and spec.id in state.loaded]
        if kind is CommandKind.REMOVE and loaded_on and "force" not in options:
            message = f"the model is loaded by {', '.join(loaded_on)}"
            raise ModelInUse(message, hint="unload it first, or force it")
        names = [state.id for state in states] if worker is None else [worker]
        model = "" if spec is None else spec.id
        return self._store.add_command(ids.new_id(), kind, names, model, dict.fromkeys(options, True), told)

    def get(self, command_id: str) -> Command:
        """Return a command with what came of it.

        Raises:
            CommandNotFound: there is none, or it was more than a day ago.
        """
        return self._store.command(command_id).among(self._living())

    def all(self) -> list[Command]:
        """Return what was commanded in the last day, the newest first."""
        living = self._living()
        return [command.among(living) for command in self._store.commands()]

    def workers(self) -> list[WorkerState]:
        """Return the workers that live and have a device of their own."""
        return [state for state in self.all_workers() if state.peer is None]

    def all_workers(self) -> list[WorkerState]:
        """Return the workers that live, with those that hand jobs over to other servers."""
        return self._store.worker_states(self._silence_seconds)

    def _living(self) -> set[str]:
        return {state.id for state in self.workers()}


def weights_of(spec: ModelSpec) -> Weights:
    """Look at what this machine has of a model; reads small files."""
    return catalog.weights_of(spec)

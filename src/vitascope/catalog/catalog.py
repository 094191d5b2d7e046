"""The models of this installation, by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from vitascope.domain.added import WITH_VAE, AddedModel
from vitascope.domain.errors import SettingsError, UnknownModel
from vitascope.domain.model_spec import ModelSpec

from . import added
from .allowed import Allowed
from .cards import read_card
from .hub import Report
from .known import Added
from .loras import Loras
from .sources import HUB_ID, spec_of_folder, spec_of_hub
from .weights import is_here


class Catalog:
    """Cards that ship with Vitascope, then the operator's own; an own card of the same id replaces ours."""

    def __init__(
        self,
        specs: Iterable[ModelSpec],
        default_model: str,
        loras_folder: Path | None = None,
        *,
        needs_files: bool = True,
    ) -> None:
        #: The operator's adapters.
        self.loras = Loras(loras_folder)
        self._specs = {spec.id: spec for spec in specs}
        self._by_alias = {alias: spec for spec in self._specs.values() for alias in spec.aliases}
        self.default_model = default_model
        self._needs_files = needs_files
        self._added = Added()
        #: Where models may come from that are added while the server runs.
        self.allowed = Allowed()

    @classmethod
    def open(
        cls,
        cards_folder: Path | None = None,
        default_model: str = "pocket",
        on_problem: Callable[[SettingsError], None] | None = None,
        loras_folder: Path | None = None,
        *,
        needs_files: bool = True,
        allowed: Sequence[str] | None = None,
    ) -> Catalog:
        """Read all cards.

        Args:
            cards_folder: the operator's own.
            default_model: may also be a local diffusers folder: the operator names it, not a client.
            on_problem: told of each card that cannot be read, which is then left out; None raises it.
            loras_folder: the operator's adapters.
            needs_files: false where the engine makes pictures without any.
            allowed: where models may come from that are added; by default the hub.

        Raises:
            SettingsError: an entry of `allowed` or a card cannot be read, or there is no such default model.
        """
        shipped = Path(str(resources.files(__package__).joinpath("cards")))
        folders = [shipped] if cards_folder is None else [shipped, cards_folder]
        paths = [path for folder in folders for path in sorted(folder.glob("*.toml"))]
        catalog = cls(_specs(paths, on_problem), default_model, loras_folder, needs_files=needs_files)
        catalog.allowed = Allowed() if allowed is None else Allowed(allowed)
        try:
            spec = catalog.resolve_local(default_model)
        except UnknownModel as error:
            problem = SettingsError(f"setting `engine.default_model`: {error.message}", hint=error.hint)
            if on_problem is None:
                raise problem from None
            on_problem(problem)
            return catalog
        catalog._specs[spec.id] = spec  # a folder that is called like a card is meant all the same
        catalog.default_model = spec.id
        return catalog

    def all(self) -> list[ModelSpec]:
        self._added.refresh()
        every = {**self._added.specs, **self._specs}  # a card goes before what was added under its name
        specs = sorted(every.values(), key=lambda spec: (spec.id != self.default_model, spec.id))
        return [self._with_second(spec) for spec in specs]

    def is_here(self, spec: ModelSpec) -> bool:
        """Whether this machine can make videos with a model: its files are here. Looks at them."""
        return not self._needs_files or is_here(spec)

    def available(self) -> frozenset[str]:
        """Name the models whose files this machine has. Looks at them: 35 cards without downloads take 3 ms."""
        return frozenset(spec.id for spec in self.all() if self.is_here(spec))

    def resolve(self, name: str | None) -> ModelSpec:
        """Find a model by its id or by a vendor's name for it; no name is the default model.

        Safe for names that a client gave: nothing is opened.

        Raises:
            UnknownModel: no card has the name; the hint says what there is.
        """
        name = name or self.default_model
        spec = self._find(name)
        if spec is None and WITH_VAE in name:
            return self._with_vae(name)
        if spec is None:
            known = [*self._specs, *self._by_alias, *self._added.specs]
            near = difflib.get_close_matches(name[:60], known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there is {', '.join(s.id for s in self.all())}"
            raise UnknownModel(f"there is no model `{name[:60]}`", hint=hint)
        return self._with_second(spec)

    def resolve_local(self, name: str | None) -> ModelSpec:
        """Find a model for the person at the machine: a name, else a diffusers folder, else a hub id.

        Raises:
            UnknownModel: it is none of these.
        """
        if not name or self._find(name):
            return self.resolve(name)
        try:
            if name.startswith((".", "/", "~")) or Path(name).is_dir():
                return self._with_second(spec_of_folder(Path(name).expanduser()))
        except (OSError, RuntimeError):  # a name that no file can have; a home of nobody
            raise UnknownModel(f"there is no model `{name[:60]}`") from None
        if not HUB_ID.fullmatch(name):
            return self.resolve(name)
        of_card = (spec for spec in self._specs.values() if spec.source == f"hub:{name}")
        return self._with_second(next(of_card, None) or spec_of_hub(name))

    def _with_second(self, spec: ModelSpec) -> ModelSpec:
        """Put the card of the checkpoint beside the one that names it for the second pass."""
        if spec.upscale is None or spec.upscale.model is None:
            return spec
        return replace(spec, second=self._find(spec.upscale.model))

    def _find(self, name: str) -> ModelSpec | None:
        """Look at the cards first: what was added costs a look at the store, now and then."""
        if found := self._specs.get(name) or self._by_alias.get(name):
            return found
        self._added.refresh()
        return self._added.specs.get(name)

    def _with_vae(self, name: str) -> ModelSpec:
        base_name, _, vae_name = name.partition(WITH_VAE)
        base, vae = self.resolve(base_name), self._added.vaes.get(vae_name)
        if vae is None:
            known = ", ".join(self._added.vaes) or "none"
            raise UnknownModel(f"there is no VAE `{vae_name[:60]}`", hint=f"there is {known}")
        return added.with_vae(base, vae, f"{base.id}{WITH_VAE}{vae.id}")

    def fetch(self, model: AddedModel, report: Report) -> dict[str, Any]:
        """Bring what was added to this machine; returns what a card of it says. Raises as `added.fetch`."""
        return added.fetch(model, self.loras.folder, report)

    def remove_added(self, model: AddedModel) -> str:
        """Remove the files of what was added, unless another model needs them; says what became of them."""
        others = [spec for spec in self.all() if spec.id != model.id]
        return added.remove(model, others, self.loras.folder)

    def watch(self, load: Callable[[], Sequence[AddedModel]]) -> None:
        """Know what was added while the server runs, too.

        Args:
            load: reads what there is; called at most twice a second.
        """
        self._added.watch(load)

    def take(self, models: Sequence[AddedModel]) -> None:
        """Know what was added as of now: for a process that is told, and does not look. Safe to call from any thread."""
        self._added.take(models)

    def look_soon(self) -> None:
        """Look anew at what was added at the next question: this process has changed it."""
        self._added.look_soon()

    def news(self) -> Callable[[], list[dict[str, Any]] | None]:
        """Return what tells another process of this one what was added, whenever that has changed since it was last called."""
        last: list[dict[str, Any]] = []

        def changed() -> list[dict[str, Any]] | None:
            nonlocal last
            self._added.refresh()
            now = added.told(self._added.models)
            if now == last:
                return None
            last = now
            return now

        return changed


def _specs(paths: Iterable[Path], on_problem: Callable[[SettingsError], None] | None) -> Iterator[ModelSpec]:
    for path in paths:
        try:
            yield read_card(path)
        except SettingsError as error:
            if on_problem is None:
                raise
            on_problem(error)

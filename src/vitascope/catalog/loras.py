"""The operator's adapters (LoRA): a folder of safetensors files, and what cards name. Requests name them, never a path or URL.

A file is checked against the model before a job is queued, by the headers of both: no tensor is read and no torch imported.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitascope.domain import lora_names
from vitascope.domain.errors import InvalidParameter, ModelUnavailable
from vitascope.domain.lora_names import ADAPTED, Fit, Misfit, ModelLayers
from vitascope.domain.loras import LoraFile
from vitascope.domain.model_spec import CardLora, ModelSpec
from vitascope.domain.request import Lora

from . import checkpoint, headers, hub
from .headers import FLOATS, Header, UnreadableHeader
from .sources import embedded_folder, locate

logger = logging.getLogger(__name__)

ENDING = ".safetensors"

_WITHIN = {"motion_adapter": "unet"}
"""Parts that are built into another component when the pipeline is."""

_EARLY, _LATE = re.compile(r"high[-_ ]?noise", re.IGNORECASE), re.compile(r"low[-_ ]?noise", re.IGNORECASE)


class Loras:
    """Adapters by name, which is their file's without the ending.

    Args:
        folder: the operator's; None, or one that is not there, holds none. Looked at anew at each request.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._headers: dict[Path, tuple[object, Header]] = {}
        self._layers: dict[str, tuple[object, ModelLayers]] = {}
        self._fits: dict[tuple[Path, str, str | None], tuple[Header, ModelLayers, Fit | Misfit]] = {}

    @property
    def folder(self) -> Path | None:
        return self._folder

    def names(self) -> dict[str, Path]:
        """Find all files of the folder, also of folders within it."""
        if self._folder is None or not self._folder.is_dir():
            return {}
        paths = sorted(self._folder.rglob(f"*{ENDING}"), key=lambda path: (len(path.parts), path))
        return {path.name.removesuffix(ENDING): path for path in reversed(paths)}

    def check(self, asked: Sequence[Lora], spec: ModelSpec) -> None:
        """Find out whether a request's adapters are there and fit its model, and those of the model's card too.

        A model that is not on this machine cannot be compared with: then the worker does it. So it does with a card's adapter
        that is not here.

        Raises:
            InvalidParameter: one is not there, not whole, a pickle, or made for another architecture.
        """
        if (problem := self.problem_of_card(spec)) is not None:
            raise InvalidParameter(
                "model", spec.id, problem, hint="choose another model, or tell the operator"
            )
        names = self.names() if asked else {}
        for index, lora in enumerate(asked):
            parameter = f"loras[{index}].name"
            path = names.get(lora.name.removesuffix(ENDING))
            if path is None:
                raise self._unknown(parameter, lora.name, names)
            problem = self.problem_of(lora.name, path, spec)
            if problem is not None:
                hint = self._hint(spec, names)
                raise InvalidParameter(parameter, lora.name, f"the file {problem}", hint=hint)

    def _unknown(self, parameter: str, name: str, names: Mapping[str, Path]) -> InvalidParameter:
        pickles = self._folder.rglob("*") if self._folder is not None and self._folder.is_dir() else ()
        if any(
            path.stem == name or path.name == name for path in pickles if path.suffix in checkpoint.PICKLES
        ):
            rule = "its file is a pickle, which can run code: only safetensors files are loaded"
            return InvalidParameter(parameter, name, rule, hint="ask the operator to convert it")
        near = difflib.get_close_matches(name[:80], names, n=1)
        hint = (
            f"did you mean `{near[0]}`?" if near else "GET /api/v1/models/MODEL lists those that fit a model"
        )
        rule = "the server's operator has put no such adapter on it"
        return InvalidParameter(parameter, name, rule, hint=hint)

    def _hint(self, spec: ModelSpec, names: Mapping[str, Path]) -> str | None:
        fitting = self.of(spec, names)
        return f"of those that are here, {', '.join(fitting[:8])} fit model `{spec.id}`" if fitting else None

    def of(self, spec: ModelSpec, names: Mapping[str, Path] | None = None) -> list[str]:
        """Name the adapters that fit a model; none while it is not on this machine."""
        found = self.names() if names is None else names
        if not found or self._layers_of(spec) is None:
            return []
        return sorted(name for name, path in found.items() if self.problem_of(name, path, spec) is None)

    def problem_of(self, name: str, path: Path, spec: ModelSpec) -> str | None:
        """Say why a file cannot be applied to a model, as the rest of the sentence "it …"; None if it can."""
        try:
            self.fit(LoraFile(name, path, 1.0, self._component(name, spec)), spec)
        except Misfit as error:
            return str(error)
        return None

    def problem_of_card(self, spec: ModelSpec) -> str | None:
        """Say which of a card's adapters is here and cannot be applied to its model; None if all can."""
        for lora in spec.loras:
            try:
                file = self._file_of_card(lora, spec)
                self.fit(file, spec)
            except ModelUnavailable:
                continue
            except Misfit as error:
                return f"the adapter `{lora.name}` of its card {error}"
        return None

    def files(self, asked: Sequence[Lora], spec: ModelSpec) -> tuple[LoraFile, ...]:
        """Find what is applied to a model: its card's adapters, then the request's.

        Raises:
            ModelUnavailable: one is not on this machine, or not any more.
        """
        of_card = [self._file_of_card(lora, spec) for lora in spec.loras]
        names = self.names() if asked else {}
        found = []
        for lora in asked:
            path = names.get(lora.name.removesuffix(ENDING))
            if path is None:
                message = f"the adapter `{lora.name}` is not on this machine"
                raise ModelUnavailable(message, hint="put it into the folder of `engine.loras_folder`")
            found.append(LoraFile(lora.name, path, lora.scale, self._component(lora.name, spec)))
        return (*of_card, *found)

    def _file_of_card(self, lora: CardLora, spec: ModelSpec) -> LoraFile:
        kind, _, name = lora.source.partition(":")
        path = self._downloaded(lora, spec) if kind == "hub" else (self._folder or Path()) / name
        if not path.is_file():
            message = f"the adapter `{lora.name}` of model `{spec.id}` is not there"
            raise ModelUnavailable(message, hint=f"looked in {path.parent}")
        return LoraFile(
            lora.name, path, lora.scale, lora.component or self._component(lora.name, spec), is_of_card=True
        )

    def _downloaded(self, lora: CardLora, spec: ModelSpec) -> Path:
        path = hub.adapter(lora)
        if path is None:
            message = f"the adapter `{lora.name}` of model `{spec.id}` is not downloaded"
            raise ModelUnavailable(message, hint=f"`vitascope models pull {spec.id}` downloads it")
        return path

    def fit(self, file: LoraFile, spec: ModelSpec) -> Fit | None:
        """Compare a file with a model; remembered for as long as neither changes. None if the model is not here.

        Raises:
            Misfit: it cannot be applied.
        """
        header = self._header(file.path)
        layers = self._layers_of(spec)
        if layers is None:
            return None
        key = (file.path, spec.id, file.component)
        known = self._fits.get(key)
        if known is None or known[0] is not header or known[1] is not layers:
            found: Fit | Misfit
            try:
                found = lora_names.fit(header.shapes, header.metadata, layers, file.component)
            except Misfit as error:
                found = error
            known = self._fits[key] = (header, layers, found)
        if isinstance(known[2], Misfit):
            raise Misfit(*known[2].args)
        return known[2]

    def _component(self, name: str, spec: ModelSpec) -> str | None:
        """Read from a name which of two denoisers is meant: there is one for much noise and one for little."""
        layers = self._layers_of(spec)
        if layers is None or "transformer_2" not in layers.components:
            return None
        if _EARLY.search(name):
            return "transformer"
        return "transformer_2" if _LATE.search(name) else None

    def _header(self, path: Path) -> Header:
        try:
            signature = signature_of(path)
            known = self._headers.get(path)
            if known is not None and known[0] == signature:
                return known[1]
            header = headers.read_header(path)
        except OSError:
            raise Misfit("is missing") from None
        except UnreadableHeader as error:
            raise Misfit(*error.args) from None
        if odd := [dtype for dtype in header.dtypes.values() if dtype not in FLOATS]:
            raise Misfit(f"is no LoRA: it holds numbers of type {odd[0][:12]}")
        self._headers[path] = (signature, header)
        return header

    def _layers_of(self, spec: ModelSpec) -> ModelLayers | None:
        source = (spec.source, spec.revision, tuple(spec.components.items()))
        known = self._layers.get(spec.id)
        if known is not None and known[0] == source:
            return known[1]
        shapes = parameters_of(spec)
        if shapes is None:
            return None
        layers = ModelLayers(shapes)
        self._layers[spec.id] = (source, layers)
        return layers


def signature_of(path: Path) -> tuple[int, ...]:
    """Tell one content of a file from another without reading it."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def parameters_of(spec: ModelSpec) -> dict[str, dict[str, tuple[int, ...]]] | None:
    """Read the names and shapes of a model's parameters, by component; None if it is not on this machine."""
    try:
        kind, _, name = spec.source.partition(":")
        folder = embedded_folder(name) if kind == "embedded" else Path(locate(spec))
        parts = {part: Path(locate(its)) for part, its in spec.parts.items()}
        index = checkpoint.read_index(folder / checkpoint.INDEX, spec.id)
        places = {component: folder / component for component in checkpoint.components(index)} | parts
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for component, inside in places.items():
            target = _WITHIN.get(component, component)
            if target in ADAPTED:
                found.setdefault(target, {}).update(_parameters_in(inside))
    except ModelUnavailable:
        return None
    except UnreadableHeader as error:
        logger.warning("a checkpoint cannot be read", extra={"model": spec.id, "problem": str(error)})
        return None
    return found


def _parameters_in(folder: Path) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob(f"*{ENDING}")):
        if checkpoint.is_weights(path.name):
            found.update(headers.read_header(path).shapes)
    return found

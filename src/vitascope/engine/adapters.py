"""Adapters of low rank (LoRA): hung onto a slot's own modules for one request, and taken off after it.

What an adapter adds is computed beside the layer and added to its output, so that the weights, which all slots share, are never
written: without it they are bit by bit what they were. Its own tensors are kept for the next request, and shared by all slots.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn import functional

from vitascope.domain import lora_names
from vitascope.domain.choice import Choice
from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.lora_names import Misfit, ModelLayers, Pair
from vitascope.domain.loras import LoraFile
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import Lora

from .compact import whole
from .contract import FindLoras
from .slots import Slot

DIGEST_CHARS = 12
"""Of a file's SHA-256, as a job's metadata shows it."""


@dataclass(frozen=True, slots=True)
class _Product:
    """Two matrices, on the device, whose product is added to what a layer's weight does."""

    down: torch.Tensor
    up: torch.Tensor
    bias: torch.Tensor | None
    factor: float


@dataclass(frozen=True, slots=True)
class Adapter:
    """A file's tensors on the device, by what they change in one model."""

    #: By component and layer.
    products: dict[tuple[str, str], _Product]
    #: By component and parameter: what is added to it.
    differences: dict[tuple[str, str], torch.Tensor]
    sha256: str

    @property
    def components(self) -> set[str]:
        """Names of those that it changes."""
        return {component for component, _ in (*self.products, *self.differences)}

    @property
    def num_bytes(self) -> int:
        parts = [
            tensor
            for product in self.products.values()
            for tensor in (product.down, product.up, product.bias)
        ]
        return sum(tensor.nbytes for tensor in (*parts, *self.differences.values()) if tensor is not None)


class Adapters:
    """The adapters that an engine has on its device.

    Args:
        find: tells which files are applied.
        device: where they go.
        max_bytes: how much of them is kept between requests. What a running request uses stays as long as it runs.
    """

    def __init__(self, find: FindLoras, device: torch.device, max_bytes: int) -> None:
        self._find = find
        self._device = device
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[object, ...], Adapter] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """How much memory those take that are kept."""
        return sum(adapter.num_bytes for adapter in self._kept.values())

    def clear(self) -> None:
        """Forget all that no running request uses."""
        self._kept.clear()

    @contextlib.contextmanager
    def attached(self, asked: Sequence[Lora], spec: ModelSpec, slot: Slot) -> Iterator[tuple[Choice, ...]]:
        """Hang the card's adapters and the request's onto a slot's modules; afterwards the slot is as it was.

        Raises:
            ModelUnavailable: one is not there, or cannot be applied to this model.
        """
        if not asked and not spec.loras:
            yield ()
            return
        files = self._find(asked, spec)
        modules = slot.modules()
        adapters = [self._adapter(file, spec, modules) for file in files]
        with contextlib.ExitStack() as stack:
            scaled = [(adapter, file.scale) for adapter, file in zip(adapters, files, strict=True)]
            _add_products(scaled, modules, stack)
            _add_differences(scaled, modules, stack)
            slot.adapted = frozenset(component for adapter in adapters for component in adapter.components)
            stack.callback(setattr, slot, "adapted", frozenset())
            yield tuple(_choice(file, adapter) for file, adapter in zip(files, adapters, strict=True))

    def _adapter(self, file: LoraFile, spec: ModelSpec, modules: dict[str, torch.nn.Module]) -> Adapter:
        key = (_signature(file), file.component, spec.id, spec.source, spec.revision)
        adapter = self._kept.pop(key, None)
        if adapter is None:
            adapter = _load(file, modules, self._device)
        if adapter.num_bytes <= self._max_bytes:
            self._kept[key] = adapter  # as the one that was used last
        while self.num_bytes > self._max_bytes:
            self._kept.popitem(last=False)
        return adapter


def _choice(file: LoraFile, adapter: Adapter) -> Choice:
    who = "the model's card says so" if file.is_of_card else "asked for"
    if file.component is not None:
        who += f"; in `{file.component}` alone"
    return Choice("lora", f"{file.name} at {file.scale:g}", f"{who} (sha256 {adapter.sha256[:DIGEST_CHARS]})")


def _signature(file: LoraFile) -> tuple[object, ...]:
    try:
        found = file.path.stat()
    except OSError:
        raise ModelUnavailable(f"the adapter `{file.name}` is not there any more") from None
    return str(file.path), found.st_size, found.st_mtime_ns, found.st_ino


def _load(file: LoraFile, modules: dict[str, torch.nn.Module], device: torch.device) -> Adapter:
    """Read a file, and find out anew what it changes: here the model's modules say so, not its files' headers."""
    shapes = {
        component: {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        for component, module in modules.items()
    }
    try:
        tensors, metadata, sha256 = _read(file)
        theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        fit = lora_names.fit(theirs, metadata, ModelLayers(shapes), file.component)
        products = {
            (pair.component, _layer(pair.parameter)): _product(pair, tensors, modules, device)
            for pair in fit.pairs
        }
    except Misfit as error:
        raise ModelUnavailable(f"the adapter `{file.name}` {error}") from None
    differences = {(part.component, part.parameter): tensors[part.tensor] for part in fit.differences}
    # copies: what is read may be the file itself, which its owner may write
    own = {place: tensor.to(device, torch.float32, copy=True) for place, tensor in differences.items()}
    return Adapter(products, own, sha256)


def _read(file: LoraFile) -> tuple[dict[str, torch.Tensor], dict[str, str], str]:
    try:
        with safe_open(str(file.path), "pt", device="cpu") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
            metadata = opened.metadata() or {}
        with file.path.open("rb") as whole:
            sha256 = hashlib.file_digest(whole, "sha256").hexdigest()
    except (OSError, SafetensorError) as error:
        raise ModelUnavailable(f"the adapter `{file.name}` cannot be read as a safetensors file") from error
    return tensors, metadata, sha256


def _layer(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _product(
    pair: Pair, tensors: dict[str, torch.Tensor], modules: dict[str, torch.nn.Module], device: torch.device
) -> _Product:
    _check_layer(modules[pair.component].get_submodule(_layer(pair.parameter)), pair)
    weight = modules[pair.component].get_parameter(pair.parameter)
    dtype = weight.dtype if weight.dtype in (torch.float32, torch.bfloat16, torch.float16) else torch.bfloat16
    down, up = tensors[pair.down], tensors[pair.up]
    is_flat = weight.dim() == 2
    down = down.reshape(down.shape[:2] if is_flat else (*down.shape[:2], *weight.shape[2:]))
    up = up.reshape(up.shape[:2] if is_flat else (*up.shape[:2], *(1 for _ in weight.shape[2:])))
    factor = pair.factor if pair.alpha is None else float(tensors[pair.alpha]) / down.shape[0]
    own = {"device": device, "dtype": dtype, "copy": True}
    bias = None if pair.bias is None else tensors[pair.bias].to(**own)
    return _Product(down.to(**own).contiguous(), up.to(**own).contiguous(), bias, factor)


def _check_layer(layer: torch.nn.Module, pair: Pair) -> None:
    """Refuse a layer whose weight is no plain matrix or kernel; the files' headers do not tell that.

    Raises:
        Misfit: it is one.
    """
    is_plain = isinstance(layer, torch.nn.Linear)
    if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d):
        is_plain = layer.groups == 1 and layer.padding_mode == "zeros"
    if not is_plain:
        raise Misfit(f"changes `{pair.parameter}`, which is a {type(layer).__name__} and cannot be adapted")


_Scaled = Sequence[tuple[Adapter, float]]


def _add_products(scaled: _Scaled, modules: dict[str, torch.nn.Module], stack: contextlib.ExitStack) -> None:
    by_layer: dict[tuple[str, str], list[tuple[_Product, float]]] = {}
    for adapter, scale in scaled:
        for place, product in adapter.products.items():
            by_layer.setdefault(place, []).append((product, product.factor * scale))
    for (component, name), products in by_layer.items():
        layer = modules[component].get_submodule(name)
        stack.callback(layer.register_forward_hook(_adding(products)).remove)


def _adding(products: list[tuple[_Product, float]]) -> Callable[..., torch.Tensor]:
    def add(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        for product, scale in products:
            apply = _add_linear if product.down.dim() == 2 else _add_convolved
            output = apply(layer, product, inputs[0], output, scale)
        return output

    return add


def _add_linear(
    _layer: Any, product: _Product, x: torch.Tensor, output: torch.Tensor, scale: float
) -> torch.Tensor:
    """Add in the same kernel that multiplies, into the output, which is the layer's own (measured in docs/experiments.md)."""
    inner = functional.linear(x.to(product.down.dtype), product.down)
    if product.bias is not None:
        output = output.add(product.bias, alpha=scale)
    if not output.is_contiguous() or output.dtype != product.up.dtype:
        return output.add(functional.linear(inner, product.up).to(output.dtype), alpha=scale)
    output.view(-1, output.shape[-1]).addmm_(inner.view(-1, inner.shape[-1]), product.up.t(), alpha=scale)
    return output


def _add_convolved(
    layer: Any, product: _Product, x: torch.Tensor, output: torch.Tensor, scale: float
) -> torch.Tensor:
    """Convolve with the first kernel as the layer does, and weigh what comes out."""
    convolve = _CONVOLUTIONS[product.down.dim()]
    x = x.to(product.down.dtype)
    inner = convolve(x, product.down, None, layer.stride, layer.padding, layer.dilation)
    return output.add(convolve(inner, product.up, product.bias).to(output.dtype), alpha=scale)


_CONVOLUTIONS: dict[int, Callable[..., torch.Tensor]] = {
    3: functional.conv1d,
    4: functional.conv2d,
    5: functional.conv3d,
}
"""By the dimensions of a weight."""


def _add_differences(
    scaled: _Scaled, modules: dict[str, torch.nn.Module], stack: contextlib.ExitStack
) -> None:
    """Give single layers of the slot weights of their own, on the device: the shared one and what is added to it."""
    for adapter, scale in scaled:
        for (component, parameter), difference in adapter.differences.items():
            path, _, name = parameter.rpartition(".")
            layer = modules[component].get_submodule(path)
            before = layer.get_parameter(name)
            shared = whole(layer, name)  # it may be kept in bytes
            # weights may wait elsewhere until they are used; these few do not
            after = shared.to(difference.device, torch.float32) + difference * scale
            layer.register_parameter(name, torch.nn.Parameter(after.to(shared.dtype), requires_grad=False))
            stack.callback(layer.register_parameter, name, before)

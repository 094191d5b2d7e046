"""Weights that wait in main memory and come to the device when they are used, in pieces as large as the placement says.

A component comes when it is called, and the one before goes. Of group offloading, and layer by layer, only what is in no block
comes then, and each block when its turn is. Weights never change, so that nothing is copied back: the device's copy is
dropped. diffusers' own hooks do the same for one pipeline each; here several share their components, and a cancelled request
leaves nothing behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import send_to_device

from .placement import Offload
from .places import EngineBusy


class Offloading:
    """The places of one model's weights. Only one request at a time may use them.

    Args:
        offload: in what pieces they come.
        device: where they work.
        whole: names of components that come in one piece: autoencoders, whose pieces are small.
    """

    def __init__(self, offload: Offload, device: torch.device, whole: frozenset[str] = frozenset()) -> None:
        self._offload = offload
        self._device = device
        self._whole = whole
        self._parts: list[_Part] = []
        self._working: _Part | None = None
        self._is_lent = False

    def arrange(self, modules: dict[str, torch.nn.Module]) -> None:
        """Make the components of a slot come and go; the ones of a slot before are forgotten."""
        self.forget()
        looks_ahead = self._offload == "group"  # a layer comes too quickly for that
        distinct = {id(module): name for name, module in modules.items()}
        self._parts = [
            _Part(modules[name], self._pieces(name, modules[name]), self._device, looks_ahead=looks_ahead)
            for name in distinct.values()
        ]
        for part in self._parts:
            add_hook_to_module(part.module, _Comes(self, part, self._device), append=True)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Hold the weights for one request, wherever that stops.

        Raises:
            EngineBusy: another one has them.
        """
        if self._is_lent:
            raise EngineBusy("these weights come and go with the request that they work for: one at a time")
        self._is_lent = True
        try:
            yield
        finally:
            self._is_lent = False
            self.leave()

    def forget(self) -> None:
        """Let go of a slot's components, and of all that they hold, without waiting for garbage to be collected."""
        self.leave()
        for part in self._parts:
            part.release()
        self._parts = []

    def leave(self) -> None:
        """Free the device of all of it, wherever a request stopped."""
        for part in self._parts:
            part.leave()
        self._working = None

    def enter(self, part: _Part) -> None:
        """Have a component work on the device, and the one before leave it."""
        if self._working is not part:
            if self._working is not None:
                self._working.leave()
            self._working = part
            part.come()

    def _pieces(self, name: str, module: torch.nn.Module) -> list[torch.nn.Module]:
        if name in self._whole or self._offload == "model":
            return []
        return list(_blocks(module) if self._offload == "group" else _layers(module))


def device_of(module: Any) -> torch.device:
    """Tell where a component works, which is not where its weights are while they wait."""
    hook = getattr(module, "_hf_hook", None)
    found: torch.device = module.device if hook is None else hook.execution_device
    return found


class _Comes(ModelHook):  # type: ignore[misc]
    """Tells that a component is called; pipelines also read off it where their own tensors belong."""

    def __init__(self, offloading: Offloading, part: _Part, device: torch.device) -> None:
        self._offloading = offloading
        self._part = part
        self.execution_device = device

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._offloading.enter(self._part)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)


class _Part:
    """One component: what is always there while it works, and the pieces that come in turn."""

    def __init__(
        self,
        module: torch.nn.Module,
        pieces: list[torch.nn.Module],
        device: torch.device,
        *,
        looks_ahead: bool,
    ) -> None:
        self.module = module
        in_pieces = {id(tensor) for piece in pieces for tensor in _tensors(piece)}
        self._rest = _Piece(module, device, but=in_pieces)
        self._pieces = [_Piece(piece, device) for piece in pieces]
        self._now: _Piece | None = None
        has_streams = looks_ahead and device.type in ("cuda", "xpu") and len(pieces) > 1
        self._stream = torch.get_device_module(device).Stream(device) if has_streams else None
        # first of all: weights that are kept in bytes are made whole where they work
        self._hooks = [
            piece.register_forward_pre_hook(self._turn_of(index), prepend=True)
            for index, piece in enumerate(pieces)
        ]

    def release(self) -> None:
        """Undo what makes the component and this refer to each other."""
        for hook in self._hooks:
            hook.remove()
        remove_hook_from_module(self.module)
        vars(self.module).pop("forward", None)  # its class's own, bound to it

    def come(self) -> None:
        self._rest.come()

    def leave(self) -> None:
        for piece in (self._rest, *self._pieces):
            piece.leave()
        self._now = None

    def _turn_of(self, index: int) -> Any:
        """Make the hook of a piece: it comes, the one before goes, and the next one is on its way meanwhile."""

        def turn(_module: torch.nn.Module, _inputs: Any) -> None:
            piece = self._pieces[index]
            if self._now is piece:
                return
            piece.come()
            if self._now is not None:
                self._now.leave()
            self._now = piece
            if self._stream is not None:
                self._pieces[(index + 1) % len(self._pieces)].come_beside(self._stream)

        return turn


class _Piece:
    """Parameters and buffers that come and go together.

    Args:
        but: tensors by identity that come with other pieces.
    """

    def __init__(
        self, module: torch.nn.Module, device: torch.device, but: set[int] | frozenset[int] = frozenset()
    ) -> None:
        self._device = device
        self._parameters = [found for found in module.parameters() if id(found) not in but]
        self._buffers = [
            (owner, name, found)
            for owner in module.modules()
            for name, found in owner._buffers.items()
            if found is not None and id(found) not in but
        ]
        self._at_home: list[torch.Tensor] | None = None
        self._arrival: Any = None

    @property
    def is_there(self) -> bool:
        return self._at_home is not None

    def come(self) -> None:
        """Bring it to the device, or wait until it is there."""
        if self._arrival is not None:
            current = torch.get_device_module(self._device).current_stream(self._device)
            current.wait_event(self._arrival)
            for (
                tensor
            ) in self._there():  # made on another stream: not to be used again before this one is done
                tensor.record_stream(current)
            self._arrival = None
        elif not self.is_there:
            self._copy()

    def come_beside(self, stream: Any) -> None:
        """Begin to bring it, while something else works."""
        if not self.is_there:
            with torch.get_device_module(self._device).stream(stream):
                self._copy()
                self._arrival = stream.record_event()

    def leave(self) -> None:
        """Drop the device's copy."""
        if self._at_home is None:
            return
        if self._arrival is not None:
            self.come()
        for parameter, home in zip(self._parameters, self._at_home, strict=True):
            parameter.data = home
        for owner, name, home in self._buffers:
            owner._buffers[name] = home
        self._at_home = None

    def _copy(self) -> None:
        self._at_home = [parameter.data for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.data = fetch(parameter.data, self._device)
        for owner, name, home in self._buffers:
            owner._buffers[name] = fetch(home, self._device)

    def _there(self) -> Iterator[torch.Tensor]:
        for parameter in self._parameters:
            yield parameter.data
        for owner, name, _ in self._buffers:
            found = owner._buffers[name]
            if found is not None:
                yield found


def fetch(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to the device; from locked memory the CPU need not wait for that."""
    return tensor.to(device, non_blocking=True)


def pin(modules: dict[str, torch.nn.Module]) -> None:
    """Lock weights in main memory, from where a GPU fetches them itself, several times as fast and while others work."""
    for module in modules.values():
        for parameter in module.parameters():
            if not parameter.data.is_pinned():
                parameter.data = parameter.data.pin_memory()


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _blocks(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The entries of a module's outermost lists, in the order in which they work; those that are never called, by their parts."""
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList):
            for entry in child:
                is_called = type(entry).forward is not torch.nn.Module.forward
                yield from [entry] if is_called else _blocks(entry)
        else:
            yield from _blocks(child)


def _layers(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The layers that are called on their own. Torch's own attention reads its layers' weights without calling them."""
    for child in module.children():
        if isinstance(child, torch.nn.MultiheadAttention) or not list(child.children()):
            if next(child.parameters(), None) is not None:
                yield child
        else:
            yield from _layers(child)

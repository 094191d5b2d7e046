"""Puts off imports that most clips do not need: such a module is imported when something of it is used, not when it is named.

`from diffusers import WanPipeline` imports torch's compiler, all of transformers and peft for names that stand in annotations,
decorators and type checks: six of its seven seconds of processor time (docs/experiments.md). While a module of another package is being
imported, what it takes from one that is put off is a stand-in: no object is an instance of it, and whoever calls it or looks
into it gets the real thing, which is then imported for all. Code that runs, and not only defines, gets the real thing at once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

COMPILER = "torch._dynamo"
META_KERNELS = "torch._meta_registrations"
_HUB_PARTS = ("hf_api", "file_download", "_snapshot_download", "repocard", "repocard_data")
_HUB = tuple(f"huggingface_hub.{part}" for part in _HUB_PARTS)
_NAMED_BY_TORCH = tuple(
    f"torch.{part}" for part in ("export", "masked", "quantization", "nn.intrinsic", "distributions")
)
_COLLECTIVES = "torch.distributed._functional_collectives"
_COMMANDS = "accelerate.commands"
_OTHERS = ("transformers", "peft", "requests", "onnxruntime", "ftfy", "regex")
PUT_OFF = (COMPILER, META_KERNELS, *_NAMED_BY_TORCH, _COLLECTIVES, _COMMANDS, *_OTHERS, *_HUB)

_APART = (_COMMANDS,)
"""Parts of packages from which others of the same package only take names while they are imported, too."""

_AFTER = dict.fromkeys(("torch._decomp", "torch._prims", "torch._refs", COMPILER), META_KERNELS)
"""What counts on one that is put off having been imported before it: torch imports each of these last, or with it."""


class _StandIn(type):
    """A class in the place of what a module had taken from one that is put off: a class, a function or a constant."""

    _module: _Postponed
    _name: str

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        if not bases:
            return super().__new__(mcs, name, bases, namespace)
        # whoever derives a class needs the real one
        real = tuple(base._real() if isinstance(base, _StandIn) else base for base in bases)
        return types.new_class(name, real, exec_body=lambda body: body.update(namespace))

    def _real(cls) -> Any:
        return getattr(cls._module.real(), cls._name)

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        return cls._real()(*arguments, **named)

    def __getattr__(cls, name: str) -> Any:
        if _is_dunder(name):
            raise AttributeError(name)
        return getattr(cls._real(), name)

    def __instancecheck__(cls, instance: Any) -> bool:
        return cls._module.is_real and isinstance(instance, cls._real())

    def __subclasscheck__(cls, subclass: type) -> bool:
        return subclass is cls or (cls._module.is_real and issubclass(subclass, cls._real()))


class _Postponed(types.ModuleType):
    """A module that is not imported yet; what is known of it without stands in its own `__dict__`."""

    def __getattr__(self, name: str) -> Any:
        if _is_dunder(name):
            raise AttributeError(name)
        if self.is_real or not _is_defining(self.__name__):
            return getattr(self.real(), name)
        names: dict[str, _StandIn] = self.__dict__.setdefault("__stand_ins__", {})
        if name not in names:
            names[name] = _StandIn(
                name, (), {"_module": self, "_name": name, "__module__": self.__name__, "__slots__": ()}
            )
        return names[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if _is_dunder(name) or isinstance(value, types.ModuleType):  # what importing a module sets itself
            super().__setattr__(name, value)
        else:
            setattr(self.real(), name, value)

    @property
    def is_real(self) -> bool:
        return _root_of(self.__name__) in _FINDER.real

    def real(self) -> types.ModuleType:
        _FINDER.load(_root_of(self.__name__))
        return importlib.import_module(self.__name__)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self) -> None:
        #: Of what is put off, the modules that are imported by now, or are being imported.
        self.real: set[str] = set()
        self._then: list[tuple[str, Callable[[], object]]] = []
        self._lock = threading.Lock()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        root = _root_of(fullname) or _AFTER.get(fullname, "")
        if not root or root in self.real:
            return None
        if not _root_of(fullname) or (fullname != root and not _is_defining(fullname)):
            self.load(root)
            return importlib.machinery.ModuleSpec(fullname, _Given(importlib.import_module(fullname)))
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Postponed(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__.update(_known_of(module.__name__))

    def load(self, root: str) -> None:
        """Import what was put off; what was taken from it before leads to it from now on."""
        if (first := _AFTER.get(root)) is not None:
            self.load(first)
        with self._lock:
            if root in self.real:
                return
            self.real.add(root)
            known = list(sys.modules)  # at once: others may import meanwhile
            for name in [name for name in known if _root_of(name) == root]:
                del sys.modules[name]
            then = [act for name, act in self._then if name == root]
        importlib.import_module(root)
        for act in then:
            act()

    def puts_off(self, root: str) -> bool:
        return self in sys.meta_path and root not in self.real

    def when_imported(self, root: str, act: Callable[[], object]) -> None:
        with self._lock:
            is_to_come = self.puts_off(root)
            if is_to_come:
                self._then.append((root, act))
        if not is_to_come:
            act()


class _Given(importlib.abc.Loader):
    """Loads a module that is there already: asking for its package has imported it."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec


_FINDER = _Finder()


class _Distributions(Mapping[str, list[str]]):
    """Which distributions have which packages: asked for by diffusers when it is imported, in case it will be in doubt. Reads all files' names.

    Args:
        find: reads them.
    """

    def __init__(self, find: Callable[[], Mapping[str, list[str]]]) -> None:
        self._found = functools.cache(find)

    def __getitem__(self, package: str) -> list[str]:
        return self._found()[package]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())


def postpone() -> None:
    """Put off from now on what is not imported yet."""
    if _FINDER not in sys.meta_path:
        find = importlib.metadata.packages_distributions
        importlib.metadata.packages_distributions = lambda: _Distributions(find)
        _FINDER.real.update(name for name in PUT_OFF if name in sys.modules)
        sys.meta_path.insert(0, _FINDER)


def is_put_off(name: str) -> bool:
    """Whether one of `PUT_OFF` is not imported yet."""
    return _FINDER.puts_off(name)


def import_now(name: str) -> types.ModuleType:
    """Import one of `PUT_OFF`, if it is not imported yet; waits for whoever is importing it."""
    if _FINDER in sys.meta_path:
        _FINDER.load(name)
    return importlib.import_module(name)


def when_imported(name: str, act: Callable[[], object]) -> None:
    """Do something with a module that is put off as soon as it is imported; at once where it is not put off.

    Args:
        name: one of `PUT_OFF`.
        act: may import the module itself.
    """
    _FINDER.when_imported(name, act)


def _root_of(name: str) -> str:
    while name and name not in PUT_OFF:
        name = name.rpartition(".")[0]
    return name


def _is_dunder(name: str) -> bool:
    return name.startswith("__")


def _is_defining(wanted: str) -> bool:
    """Whether a module of another package asks while it is being imported: it needs names, and calls nothing."""
    root = _root_of(wanted)
    package = root if root in _APART else wanted.partition(".")[0]
    frame = sys._getframe(1)
    while frame.f_back is not None and _only_hands_on(frame, package):
        frame = frame.f_back
    is_main = frame.f_globals.get("__name__") == "__main__"
    return frame.f_code.co_name == "<module>" and not is_main and not _is_of(frame, package)


def _only_hands_on(frame: types.FrameType, package: str) -> bool:
    """Whether this asks for another: Python's import, this module, and a package that imports its parts when they are named."""
    file = frame.f_code.co_filename
    is_ours = file == __file__ or file.startswith(("<frozen importlib", importlib.__file__))
    return is_ours or (frame.f_code.co_name == "__getattr__" and _is_of(frame, package))


def _is_of(frame: types.FrameType, package: str) -> bool:
    return f"{frame.f_globals.get('__name__', '')}.".startswith(f"{package}.")


def _known_of(name: str) -> dict[str, Any]:
    if name == COMPILER:
        # asked for while modules define what they are not sure to use, and to tell whether a module is a compiled one
        eval_frame = types.SimpleNamespace(OptimizedModule=_never(name, "eval_frame", "OptimizedModule"))
        marks = {
            name: functools.partial(_mark, name) for name in ("allow_in_graph", "assume_constant_result")
        }
        return {**marks, "disable": _disable, "eval_frame": eval_frame}
    if name == "transformers.utils":
        return {"WEIGHTS_NAME": "pytorch_model.bin", "SAFE_WEIGHTS_NAME": "model.safetensors"}
    if name == "peft.tuners.tuners_utils":  # looked for in every module at each forward
        return {"BaseTunerLayer": _never("peft", "tuners", "tuners_utils", "BaseTunerLayer")}
    if name == "ftfy":
        return {"fix_text": _fix_text}
    if name == "regex":
        return {"sub": _sub}
    if name not in PUT_OFF:
        return {}
    known: dict[str, Any] = {"PeftModel": _never(name, "PeftModel")} if name == "peft" else {}
    with contextlib.suppress(PackageNotFoundError):
        known["__version__"] = version(name)
    return known


def _never(root: str, *path: str) -> type:
    """A class of which nothing is an instance before its module is imported."""

    class Never(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            if root not in _FINDER.real:
                return False
            return isinstance(instance, functools.reduce(getattr, path, importlib.import_module(root)))  # type: ignore[arg-type]

    return Never(path[-1], (), {})


def _fix_text(text: str, *arguments: Any, **named: Any) -> str:
    """Mend a prompt as ftfy does, which finds nothing to mend in plain letters."""
    if _is_plain(text) and "&" not in text and not arguments and not named:
        return text
    return str(import_now("ftfy").fix_text(text, *arguments, **named))


def _sub(pattern: Any, replacement: Any, text: str, *arguments: Any, **named: Any) -> str:
    """Replace as regex does, of which `re` knows what is asked for prompts of plain letters."""
    if pattern == r"\s+" and _is_plain(text) and not arguments and not named:
        return re.sub(pattern, replacement, text)
    return str(import_now("regex").sub(pattern, replacement, text, *arguments, **named))


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _mark(how: str, function: Any) -> Any:
    """Mark a function or a class for the compiler, when there is one."""
    when_imported(COMPILER, lambda: getattr(importlib.import_module(COMPILER), how)(function))
    return function


def _disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    """Keep a function out of what is compiled, when there is a compiler."""
    if function is None:
        return functools.partial(_disable, recursive=recursive, **options)
    disabled: list[Any] = []

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        if COMPILER not in _FINDER.real:
            return function(*arguments, **named)
        if not disabled:
            disabled.append(importlib.import_module(COMPILER).disable(function, recursive, **options))
        return disabled[0](*arguments, **named)

    return run

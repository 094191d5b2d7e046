"""Packages that import all of their modules at once, made to import each when something of it is used.

diffusers has its models in such packages: whoever needs Wan's transformer imports sixty others with it, a tenth of the time that
an engine takes to start (docs/experiments.md).
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

PACKAGES = frozenset(f"diffusers.models.{name}" for name in ("autoencoders", "transformers", "unets"))


class _Package(types.ModuleType):
    """A package whose own code has not run yet: what it takes from its modules comes from there."""

    def __init__(self, name: str, origins: dict[str, tuple[str, str]], loader: importlib.abc.Loader) -> None:
        super().__init__(name)
        self._origins = origins
        self._loader = loader
        self._is_run = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._origins:
            module, theirs = self._origins[name]
            value = getattr(importlib.import_module(f"{self.__name__}.{module}"), theirs)
        elif importlib.machinery.PathFinder.find_spec(f"{self.__name__}.{name}", self.__path__):
            value = importlib.import_module(f"{self.__name__}.{name}")
        else:
            value = self._defined(name)
        setattr(self, name, value)
        return value

    def _defined(self, name: str) -> Any:
        """Run the package's own code, for what cannot be read from it."""
        if not self._is_run:
            self._is_run = True
            self._loader.exec_module(self)
        if name in self.__dict__:
            return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Package(spec.name, _origins(self._loader.get_source(spec.name)), self._loader)

    def exec_module(self, module: types.ModuleType) -> None:
        """Wait until something is used."""


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in PACKAGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and hasattr(spec.loader, "get_source"):
            spec.loader = _Loader(spec.loader)
        return spec


_FINDER = _Finder()


def make_lazy() -> None:
    """Have `PACKAGES` import their modules when they are used, from now on; those that are imported already stay as they are."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def _origins(source: str | None) -> dict[str, tuple[str, str]]:
    """Read off a package's code which module has what it offers, and under which name."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(ast.parse(source or "")):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return found

"""Packages that import all of their modules at once import them when they are used."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vitascope.engine import lazy_packages

PARTS = {
    "__init__": """
        import sys
        if sys.version_info >= (3, 0):
            from .red import Red, SHADES as REDS
        from .blue import Blue
        names = sorted(name for name in globals() if name[0] != "_")
    """,
    "red": """
        from . import Blue  # which its package imports later
        class Red(Blue): pass
        SHADES = 3
    """,
    "blue": "class Blue: pass",
    "green": "shade = 7",
    "broken": "raise RuntimeError('it does not work here')",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "colours"
    (tmp_path / name).mkdir()
    for part, code in PARTS.items():
        (tmp_path / name / f"{part}.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lazy_packages, "PACKAGES", frozenset({name}))
    monkeypatch.setattr(
        sys, "modules", {key: each for key, each in sys.modules.items() if not key.startswith(name)}
    )
    lazy_packages.make_lazy()
    return name


def loaded(package: str) -> set[str]:
    return {name.removeprefix(f"{package}.") for name in sys.modules if name.startswith(f"{package}.")}


def test_a_module_brings_no_others_along(package: str) -> None:
    green = importlib.import_module(f"{package}.green")
    assert (green.shade, loaded(package)) == (7, {"green"})


def test_a_name_brings_the_module_that_it_comes_from(package: str) -> None:
    colours = importlib.import_module(package)
    assert loaded(package) == set()
    assert colours.Blue.__module__ == "colours.blue"
    assert loaded(package) == {"blue"}
    assert colours.REDS == 3, "under the name that the package gives it"
    assert issubclass(colours.Red, colours.Blue)


def test_modules_are_there_as_attributes(package: str) -> None:
    colours = importlib.import_module(package)
    assert colours.green.shade == 7


def test_what_the_package_itself_defines_is_there(package: str) -> None:
    colours = importlib.import_module(package)
    assert {"Blue", "REDS", "Red"} <= set(colours.names)
    with pytest.raises(AttributeError, match="no attribute 'yellow'"):
        _ = colours.yellow
    assert not hasattr(colours, "__nothing__")


def test_an_error_of_a_module_is_told_by_who_uses_it(package: str) -> None:
    colours = importlib.import_module(package)
    with pytest.raises(RuntimeError, match="does not work here"):
        _ = colours.broken


DIFFUSERS = """
    import sys
    from vitascope.engine.lazy_packages import make_lazy
    make_lazy()
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    names = [name for name in sys.modules if name.startswith("diffusers.models.transformers.")]
    assert "diffusers.models.transformers.transformer_wan" in names and len(names) < 10, names
    from diffusers.models.transformers import LTXVideoTransformer3DModel, transformer_cosmos
    import diffusers
    assert diffusers.LTXVideoTransformer3DModel is LTXVideoTransformer3DModel
    assert diffusers.UNet3DConditionModel.__name__ == "UNet3DConditionModel"
    assert diffusers.AutoencoderKL.__module__ == "diffusers.models.autoencoders.autoencoder_kl"
"""


def test_wan_brings_no_other_transformers_along() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DIFFUSERS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

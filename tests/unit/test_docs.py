"""Documentation that code can check."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def _reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _reference()


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_reference_pages_are_up_to_date(name: str) -> None:
    page = (ROOT / "docs" / name).read_text("utf-8")
    assert page == reference.PAGES[name](), "run `.venv/bin/python docs/reference.py`"


def test_every_setting_says_what_it_does() -> None:
    for name, _, _, text in reference._settings():
        assert text, f"setting {name} has no docstring"


def test_the_readmes_tree_names_every_room() -> None:
    tree = README[README.index("src/vitascope/\n") :]
    named = set(re.findall(r"^  ([a-z_]+)(?:/|\.py)", tree, re.MULTILINE))
    rooms = {path.stem for path in (ROOT / "src" / "vitascope").iterdir() if not path.name.startswith("_")}
    assert named == rooms


def test_the_readme_counts_the_cards() -> None:
    cards = list((ROOT / "src" / "vitascope" / "catalog" / "cards").glob("*.toml"))
    assert re.findall(r"# (\d+) cards", README) == [str(len(cards))]


@pytest.mark.parametrize(
    "page",
    sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]),
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_ci_calls_the_readmes_test_command() -> None:
    assert "\nmake test\n" in README
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text("utf-8")

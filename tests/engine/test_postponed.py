"""What is put off is imported when something of it is used, and not before; what was taken from it works then as it would have."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitascope.engine import postponed

HEAVY = """
import sys
from heavy import parts
sys.heavy_was_imported = True
class Base:
    def __init__(self, size=1): self.size = size
    @classmethod
    def named(cls): return cls(7)
class Derived(Base): pass
def double(value): return 2 * value
LIMIT = "a limit"
"""
USER = """
import heavy
import heavy.parts
from heavy import Base, double
from heavy.parts import Part
def is_base(value): return isinstance(value, Base)
def annotated(value: Base | None = None) -> Part: ...
def look(): return heavy.LIMIT
def derived():
    class Own(Base, Other):
        def __init__(self): super().__init__(5)
    return Own
class Other: pass
def part():
    from heavy.parts import Part
    return Part
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A module that has taken names from a package that is put off."""
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "__init__.py").write_text(HEAVY)
    (tmp_path / "heavy" / "parts.py").write_text("class Part: pass\n")
    (tmp_path / "user_of_heavy.py").write_text(USER)
    monkeypatch.syspath_prepend(tmp_path)
    finder = postponed._Finder()
    monkeypatch.setattr(postponed, "PUT_OFF", ("heavy",))
    monkeypatch.setattr(postponed, "_FINDER", finder)
    others = [each for each in sys.meta_path if not isinstance(each, postponed._Finder)]
    monkeypatch.setattr(sys, "meta_path", [finder, *others])
    yield importlib.import_module("user_of_heavy")
    for name in ("heavy", "heavy.parts", "user_of_heavy"):
        sys.modules.pop(name, None)
    if hasattr(sys, "heavy_was_imported"):
        del sys.heavy_was_imported


def is_imported() -> bool:
    return hasattr(sys, "heavy_was_imported")


def test_naming_imports_nothing_and_nothing_is_an_instance(user):
    assert not user.is_base(3)
    assert user.annotated() is None
    assert not is_imported()


def test_calling_what_was_taken_imports_it(user):
    assert user.double(4) == 8
    assert is_imported()


def test_a_class_that_was_taken_is_the_real_one_from_then_on(user):
    made = user.Base.named()
    real = importlib.import_module("heavy")
    assert made.size == 7 and type(made) is real.Base
    assert user.is_base(real.Derived()) and not user.is_base(3)
    assert issubclass(real.Derived, user.Base)


def test_a_class_derived_from_one_that_was_taken_is_derived_from_the_real_one(user):
    own = user.derived()
    made = own()
    real = importlib.import_module("heavy")
    assert made.size == 5 and isinstance(made, real.Base) and own.__mro__[1:3] == (real.Base, user.Other)
    assert own.__module__ == "user_of_heavy" and type(own) is type


def test_code_that_runs_gets_the_real_thing(user):
    assert user.look() == "a limit"
    assert user.part() is importlib.import_module("heavy.parts").Part
    assert sys.modules["heavy"].parts is sys.modules["heavy.parts"]


def test_a_part_asked_for_first_by_code_that_runs_is_imported_once(user):
    del sys.modules["heavy.parts"]  # as if nobody had named it
    part = user.part()
    assert part is sys.modules["heavy.parts"].Part
    assert sys.modules["heavy.parts"].__spec__.loader is not None


def test_what_is_to_be_done_then_is_done_once_it_is_imported(user):
    done: list[str] = []
    postponed.when_imported("heavy", lambda: done.append("then"))
    assert done == []
    user.double(1)
    user.double(1)
    assert done == ["then"]
    postponed.when_imported("heavy", lambda: done.append("at once"))
    assert done == ["then", "at once"]


def test_what_is_set_is_set_on_the_real_module(user):
    user.heavy.LIMIT = "another"
    assert importlib.import_module("heavy").LIMIT == "another"


def test_parts_named_within_their_own_package_are_put_off_where_they_stand_apart(tmp_path, monkeypatch):
    whole = tmp_path / "apart"
    (whole / "commands").mkdir(parents=True)
    (whole / "__init__.py").write_text("from .users import ask\n")
    (whole / "users.py").write_text("from .commands.tool import run\ndef ask(): return run(2)\n")
    (whole / "commands" / "__init__.py").write_text("import sys\nsys.commands_were_imported = True\n")
    (whole / "commands" / "tool.py").write_text("def run(value): return value + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    finder = postponed._Finder()
    monkeypatch.setattr(postponed, "PUT_OFF", ("apart.commands",))
    monkeypatch.setattr(postponed, "_APART", ("apart.commands",))
    monkeypatch.setattr(postponed, "_FINDER", finder)
    others = [each for each in sys.meta_path if not isinstance(each, postponed._Finder)]
    monkeypatch.setattr(sys, "meta_path", [finder, *others])
    apart = importlib.import_module("apart")
    assert not hasattr(sys, "commands_were_imported")
    assert apart.ask() == 3
    assert sys.commands_were_imported
    del sys.commands_were_imported
    for name in [name for name in sys.modules if name.split(".")[0] == "apart"]:
        del sys.modules[name]


PROMPTS = [
    "a dog",
    " two  spaces ",
    "a\ttab",
    "fish &amp; chips",
    "l\u2019\u00e9t\u00e9",
    "\u00c3\u00a9t\u00e9",
    "line\r\nend",
    "\ufb01ne",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_are_cleaned_as_by_the_packages_that_are_put_off(prompt):
    ftfy, regex = postponed.import_now("ftfy"), postponed.import_now("regex")
    assert postponed._fix_text(prompt) == ftfy.fix_text(prompt)
    assert postponed._sub(r"\s+", " ", prompt) == regex.sub(r"\s+", " ", prompt)


CLIP = """
    import sys
    from pathlib import Path
    from vitascope.catalog import Catalog, locate
    from vitascope.domain.plan import plan
    from vitascope.domain.request import GenerationRequest
    from vitascope.engine import open_engine

    engine = open_engine("diffusers", locate, device="cpu", threads=1)
    spec = Catalog.open().resolve("pocket")
    request = GenerationRequest(model="pocket", prompt="a dog", seed=1, num_frames=5, num_inference_steps=1)
    list(engine.generate(plan(request, spec), spec))
    from vitascope.engine import postponed
    print(sorted(postponed._FINDER.real))

    import inspect, torch
    from vitascope.engine import meta_kernels
    assert inspect.getmodule.__module__ == "inspect"  # another only while torch was imported
    assert "torch._decomp" not in sys.modules
    pictures, kernels = torch.empty(1, 3, 8, 8, device="meta"), torch.empty(4, 3, 3, 3, device="meta")
    meta_kernels.import_all()
    assert torch.nn.functional.conv2d(pictures, kernels).shape == (1, 4, 6, 6)
    assert torch.randn(2, generator=torch.Generator().manual_seed(1)).shape == (2,)
    assert torch.distributions.Normal(0.0, 1.0).mean == 0.0 and torch.export.Dim("size").__name__ == "size"

    import importlib.metadata
    distributions = importlib.metadata.packages_distributions()
    assert distributions["safetensors"] == ["safetensors"] and "nonsense" not in distributions

    import huggingface_hub
    from huggingface_hub.errors import HFValidationError
    try:
        huggingface_hub.hf_hub_download("not a/valid/name", "file")
    except HFValidationError as refused:
        pass
    assert huggingface_hub.HfApi is sys.modules["huggingface_hub.hf_api"].HfApi

    import torch, transformers
    from diffusers.models.transformers import transformer_wan
    from diffusers.pipelines.wan import pipeline_wan
    kept_out = torch.compiler.disable(lambda value: value + 1)
    assert kept_out(torch.ones(2)).sum() == 4
    assert "torch._dynamo" not in postponed._FINDER.real
    compiled = torch.compile(lambda value: kept_out(value * 2), backend="eager")
    assert compiled(torch.ones(2)).sum() == 6
    assert "torch._dynamo" in postponed._FINDER.real
    marked = torch._dynamo.trace_rules._allowed_callable_ids
    assert id(transformer_wan.WanTransformerBlock) in marked.function_ids
    assert issubclass(transformers.UMT5EncoderModel, pipeline_wan.UMT5EncoderModel)
    assert transformers.utils.logging.get_verbosity() == transformers.logging.ERROR
"""

COMPILED = """
    import sys
    from vitascope.catalog import locate
    from vitascope.engine import open_engine

    open_engine("diffusers", locate, device="cpu", threads=1)
    import torch
    assert "torch._decomp" not in sys.modules
    made = torch.compile(lambda value, kernels: torch.nn.functional.conv2d(value, kernels), backend="eager")
    assert made(torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3)).shape == (1, 4, 6, 6)
    assert "torch._decomp" in sys.modules and sys.modules["torch._meta_registrations"].activate_meta
"""


def test_compilers_have_the_kernels_of_tensors_without_numbers():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COMPILED)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_clip_of_the_embedded_model_needs_neither_compiler_nor_transformers():
    """In a process of its own; afterwards both work in it, with what was marked for them before."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CLIP)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"

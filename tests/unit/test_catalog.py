"""Cards, names and folders."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from vitascope.catalog import Catalog, locate
from vitascope.catalog.cards import pipeline_defaults, read_card
from vitascope.catalog.sources import CHECKSUMS
from vitascope.domain.errors import ModelUnavailable, SettingsError, UnknownModel
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest

CARDS = Path(str(resources.files("vitascope.catalog"))) / "cards"


def test_every_shipped_card_plans_its_own_default() -> None:
    given = {"text": {}, "image": {"image": "a"}, "video": {"video": "a"}}
    for spec in Catalog.open().all():
        start = given[next(iter(spec.pipelines))]
        made = plan(GenerationRequest(prompt="a dog", model=spec.id, seed=1, **start), spec)
        assert made.choices == (), f"{spec.id}: the default needs no conversion"
        assert [window.num_frames for window in made.windows] == [spec.default_num_frames]


def test_distilled_models_have_the_schedule_that_they_were_made_for() -> None:
    for name, start in (
        ("wan2.1-t2v-14b-4steps", {}),
        ("wan2.1-i2v-14b-480p-4steps", {"image": "a"}),
        ("wan2.2-t2v-a14b-4steps", {}),
    ):
        spec = Catalog.open().resolve(name)
        made = plan(GenerationRequest(prompt="a dog", model=name, seed=1, **start), spec)
        assert (made.num_inference_steps, made.guidance_scale) == (4, 1.0)
        assert (made.scheduler, made.flow_shift) == ("FlowMatchEulerDiscreteScheduler", 5.0)
        asked = GenerationRequest(
            prompt="a dog", model=name, seed=1, flow_shift=8.0, scheduler="UniPCMultistepScheduler", **start
        )
        made = plan(asked, spec)
        assert (made.scheduler, made.flow_shift) == ("UniPCMultistepScheduler", 8.0)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('scheduler = "Eulr"', "`scheduler` is 'Eulr'"),
        ('scheduler = "DDIMScheduler"', "does not run as it is over a flow model"),
        ('flow_shift = "much"', "`flow_shift` must be a number"),
        ("flow_shift = 1000", "it must be from 0.1 to 100"),
    ],
)
def test_a_card_with_a_schedule_that_cannot_be_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    card = tmp_path / "a.toml"
    card.write_text(f'id = "a"\nsource = "hub:a/b"\npipeline = "WanPipeline"\n{line}\n')
    with pytest.raises(SettingsError, match=re.escape(problem)):
        read_card(card)


def test_names_of_vendors_find_a_model() -> None:
    catalog = Catalog.open()
    assert catalog.resolve("cogvideox").id == "cogvideox-2b"
    assert catalog.resolve("zeroscope").id == "zeroscope-v2"
    assert catalog.resolve(None).id == "pocket"
    assert catalog.resolve_local("Wan-AI/Wan2.1-T2V-1.3B-Diffusers").id == "wan2.1-t2v-1.3b"


def test_an_unknown_name_suggests_a_near_one() -> None:
    with pytest.raises(UnknownModel) as caught:
        Catalog.open().resolve("pokcet")
    assert caught.value.hint == "did you mean `pocket`?"


def test_clients_cannot_name_folders(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    with pytest.raises(UnknownModel):
        Catalog.open().resolve(str(tmp_path))


def test_a_folder_is_described_by_its_pipeline_class(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "LTXPipeline"}')
    spec = Catalog.open().resolve_local(str(tmp_path))
    assert (spec.id, spec.frames.multiple, spec.size_multiple) == (tmp_path.name, 8, 32)
    assert locate(spec) == str(tmp_path)


def test_a_name_wins_over_a_folder_that_happens_to_be_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket").mkdir()
    assert Catalog.open().resolve_local("pocket").source == "embedded:pocket"


def test_a_card_in_the_folder_wins(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "LTXPipeline"}')
    (tmp_path / "vitascope.toml").write_text(
        'id = "mine"\nsource = "folder:."\npipeline = "LTXPipeline"\nfps = 12\n'
    )
    spec = Catalog.open().resolve_local(str(tmp_path))
    assert (spec.id, spec.fps, locate(spec)) == ("mine", 12, str(tmp_path))


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"_class_name": "ClassOfMyOwn"}', "\x00"])
def test_a_foreign_folder_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(UnknownModel):
        Catalog.open().resolve_local(str(tmp_path))


def test_a_folder_without_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"model_index\.json"):
        Catalog.open().resolve_local(str(tmp_path))


def test_own_cards_join_and_replace(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        'id = "pocket"\nsource = "folder:/x"\npipeline = "WanPipeline"\nfps = 24\n'
    )
    assert Catalog.open(tmp_path).resolve("pocket").fps == 24


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id = ", "cannot be read"),
        ('id = "x"\nsource = "hub:a/b"\npipeline = "Unknown"\n', "is missing"),
        (
            'id = "x"\nsource = "hub:a/b"\npipeline = "WanPipeline"\ncolour = 1\n',
            "in line 4: unknown key `colour`",
        ),
        ('id = "../x"\nsource = "hub:a/b"\npipeline = "WanPipeline"\n', "`id` is '../x'"),
        ('id = "a/b/pull"\nsource = "hub:a/b"\npipeline = "WanPipeline"\n', "`id` is 'a/b/pull'"),
        (
            'id = "x"\nsource = "hub:a/b"\npipeline = "WanPipeline"\nsize = { native = ["9by9"], multiple = 1 }\n',
            "9by9",
        ),
    ],
)
def test_a_broken_card_stops_the_start_and_says_why(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "broken.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        Catalog.open(tmp_path)
    assert "broken.toml" in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fps = 0", "`fps` is 0"),
        ('fps = "8"', "`fps` must be a whole number"),
        ("steps = 5", "`steps` must be a table"),
        ("size = { native = [], multiple = 16 }", "must not be empty"),
        ("size = { native = ['64x64'], multiple = 0 }", "`size.multiple` is 0"),
        (
            "frames = { multiple = 0, offset = 1, minimum = 1, maximum = 9, default = 9 }",
            "`frames.multiple` is 0",
        ),
        (
            "frames = { multiple = 4, offset = 1, minimum = 5, maximum = 9, default = 81 }",
            "the default of `frames`",
        ),
        ('dtype = "bf16"', "`dtype` is 'bf16'"),
    ],
)
def test_a_card_that_would_break_later_is_refused_now(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "own.toml").write_text(f'id = "x"\nsource = "hub:a/b"\npipeline = "WanPipeline"\n{line}\n')
    with pytest.raises(SettingsError, match=words):
        Catalog.open(tmp_path)


@pytest.mark.parametrize("name", ["a" * 300, "~nobody-of-that-name/x"])
def test_a_name_that_no_file_can_have_is_an_unknown_model(name: str) -> None:
    with pytest.raises(UnknownModel):
        Catalog.open().resolve_local(name)


def test_a_default_folder_called_like_a_card_is_the_one_that_is_meant(tmp_path: Path) -> None:
    folder = tmp_path / "pocket"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "LTXPipeline"}')
    assert Catalog.open(default_model=str(folder)).resolve(None).source == f"folder:{folder}"


def test_an_unknown_default_model_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="default_model"):
        Catalog.open(default_model="nothing")


def test_the_embedded_model_is_whole() -> None:
    folder = Path(locate(Catalog.open().resolve("pocket")))
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "WanPipeline"


def test_a_damaged_embedded_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Catalog.open().resolve("pocket")
    copy = tmp_path / "pocket"
    shutil.copytree(locate(spec), copy)
    monkeypatch.setattr("vitascope.catalog.sources.embedded_folder", lambda name: tmp_path / name)
    name = next(
        line.split("  ")[1] for line in (copy / CHECKSUMS).read_text().splitlines() if "transformer" in line
    )
    (copy / name).write_bytes(b"cut")
    with pytest.raises(ModelUnavailable, match="is damaged") as caught:
        locate(spec)
    assert name in caught.value.message
    (copy / name).unlink()
    with pytest.raises(ModelUnavailable, match="no file"):
        locate(spec)
    (copy / CHECKSUMS).unlink()
    with pytest.raises(ModelUnavailable, match=f"`{CHECKSUMS}` of the embedded model `pocket` is missing"):
        locate(spec)


def test_a_hub_model_without_a_card_is_described_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--mine" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text('{"_class_name": "CogVideoXPipeline"}')
    refs = tmp_path / "models--someone--mine" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    spec = Catalog.open().resolve_local("someone/mine")
    assert (spec.source, spec.revision, spec.frames.multiple) == ("hub:someone/mine", commit, 8)
    with pytest.raises(UnknownModel, match="could not be fetched"):
        Catalog.open().resolve_local("someone/other")


SHIPPED = sorted(Catalog.open().all(), key=lambda spec: spec.id)


@pytest.mark.parametrize("spec", SHIPPED, ids=lambda spec: spec.id)
def test_a_shipped_card_says_all_that_people_choose_by(spec: ModelSpec) -> None:
    assert spec.title != spec.id
    assert spec.description.endswith(".")
    assert spec.license != "unknown"
    assert spec.memory_gb > 0
    assert spec.price_class in {"small", "medium", "large"}
    assert spec.source.startswith(("hub:", "embedded:"))


def test_no_name_means_two_models() -> None:
    names = [name for spec in SHIPPED for name in (spec.id, *spec.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "name", ["cogvideox", "zeroscope", "open_sora", "wanx", "wan2.2", "ltx-2.3", "sora-2", "sora-turbo"]
)
def test_the_names_of_the_vendors_find_a_model(name: str) -> None:
    assert Catalog.open().resolve(name)


def test_every_card_sits_over_the_defaults_of_its_class() -> None:
    for card in CARDS.glob("*.toml"):
        assert tomllib.loads(card.read_text())["pipeline"] in pipeline_defaults(), card.name


def test_the_cards_in_the_documentation_are_cards(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    examples = [block.split("```")[0] for block in page.split("```toml\n")[1:]]
    assert len(examples) == 2
    for number, text in enumerate(examples):
        (tmp_path / f"{number}.toml").write_text(
            text.replace(', "sora-2"', "").replace('aliases = ["sora-2"]', "")
        )
    Catalog.open(tmp_path)


def test_every_class_with_defaults_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    assert [name for name in pipeline_defaults() if f"{name} (" not in page] == []

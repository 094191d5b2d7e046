"""What a video starts from: each mode does what its pictures and parameters say, on tiny real pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from tiny import make_plan, run
from vitascope.catalog import Catalog, locate
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import Bounds, ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.request import Shot, Transition, Upscale
from vitascope.domain.step import Step
from vitascope.engine import Engine, Inputs
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.families.conditions import Start, arguments_of
from vitascope.engine.families.generic import _joined

CARD = """
id = "{id}"
source = "folder:."
pipeline = "{pipeline}"
modes = {{ {modes} }}
size = {{ native = ["32x32"], multiple = 16, max_pixels = 4096 }}
frames = {{ multiple = {multiple}, offset = 1, minimum = {least}, maximum = {most}, default = 9 }}
fps = 8
overlap = {overlap}
"""


def card(root: Path, name: str, build: Callable[[], Any], **values: Any) -> ModelSpec:
    folder = tiny.build(name, root / name, build)
    given = {"multiple": 4, "least": 5, "most": 9, "overlap": 1, "id": name, **values}
    given["modes"] = ", ".join(f'{mode} = "{value}"' for mode, value in given["modes"].items())
    (folder / "vitascope.toml").write_text(CARD.format(**given))
    return Catalog.open().resolve_local(str(folder))


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    root = tmp_path_factory.mktemp("modes")
    every = ("text", "image", "last_image", "reference")
    wan = {"text": "WanPipeline", "video": "WanVideoToVideoPipeline"}
    return {
        "vace": card(
            root, "vace", tiny.BUILDERS["WanVACEPipeline"], pipeline="WanPipeline", modes=dict.fromkeys(every, "WanVACEPipeline"), overlap=5
        ),
        "ltx": card(
            root, "ltx", tiny.BUILDERS["LTXConditionPipeline"], pipeline="LTXPipeline", multiple=8, least=9, most=17, overlap=9,
            modes=dict.fromkeys(every[:3], "LTXConditionPipeline"),
        ),
        "v2v": card(root, "v2v", tiny.wan, pipeline="WanPipeline", modes=wan),
    }  # fmt: skip


def picture(grey: int) -> Any:
    return np.full((32, 32, 3), grey, np.uint8)


def differs(first: Any, second: Any) -> float:
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


@pytest.fixture
def wide() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", ["vace", "ltx"])
def test_the_first_and_the_last_image_both_count(
    rounding_engine: Engine, specs: dict[str, ModelSpec], name: str
) -> None:
    spec = specs[name]
    plan = make_plan(spec, image="a", last_image="b", fps=8)

    def clip(first: int, last: int) -> Any:
        return run(rounding_engine, spec, plan, Inputs(image=picture(first), last_image=picture(last)))[
            1
        ].frames

    base = clip(0, 0)
    assert base.shape == (9, 32, 32, 3)
    assert differs(base, clip(255, 0)) > 0
    assert differs(base, clip(0, 255)) > 0
    only_first = run(rounding_engine, spec, make_plan(spec, image="a", fps=8), Inputs(image=picture(0)))[
        1
    ].frames
    assert differs(base, only_first) > 0


def test_references_count_each(
    rounding_engine: Engine, specs: dict[str, ModelSpec], wide: np.random.Generator
) -> None:
    spec = specs["vace"]
    who, where = (wide.integers(0, 255, size, np.uint8) for size in ((40, 20, 3), (16, 48, 3)))
    plan = make_plan(spec, references=("a", "b"), fps=8)
    both, turned, one = (
        run(rounding_engine, spec, plan, Inputs(references=given))[1].frames
        for given in ((who, where), (where, who), (who,))
    )
    assert both.shape == (9, 32, 32, 3)
    assert differs(both, turned) > 0
    assert differs(both, one) > 0


@pytest.mark.parametrize(("name", "shared"), [("vace", 5), ("ltx", 9)])
def test_a_continuing_window_is_given_all_shared_frames(
    engine: Engine, specs: dict[str, ModelSpec], name: str, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = specs[name]
    plan = make_plan(spec, num_frames=spec.frames.maximum + 4, fps=8, num_inference_steps=1)
    assert [window.overlap for window in plan.windows] == [0, shared]
    starts: list[Start] = []

    def noted(start: Start, *rest: Any) -> dict[str, Any]:
        starts.append(start)
        return arguments_of(start, *rest)

    monkeypatch.setattr("vitascope.engine.families.passes.arguments_of", noted)
    clip = run(engine, spec, plan)[1]
    assert len(clip.frames) == plan.native_num_frames
    assert starts[0].head is None
    assert starts[1].head is not None
    assert starts[1].head.shape == (shared, 32, 32, 3)
    first_only = make_plan(spec, num_frames=spec.frames.maximum, fps=8, num_inference_steps=1)
    before = run(engine, spec, first_only)[1].frames
    assert np.array_equal(starts[1].head, before[-shared:])
    assert np.array_equal(clip.frames[: len(before) - shared], before[:-shared])


def test_windows_fade_into_each_other() -> None:
    before, after = (np.full((6, 1, 1, 3), grey, np.uint8) for grey in (0, 200))
    assert _joined(before, after, 3)[:, 0, 0, 0].tolist() == [0, 0, 0, 50, 100, 150, 200, 200, 200]
    assert _joined(before, after, 1)[:, 0, 0, 0].tolist() == [0] * 6 + [200] * 5
    assert _joined(before, after, 0)[:, 0, 0, 0].tolist() == [0] * 6 + [200] * 6


def test_strength_says_how_much_of_a_video_changes(
    engine: Engine, specs: dict[str, ModelSpec], wide: np.random.Generator
) -> None:
    spec = specs["v2v"]
    video = np.repeat(wide.integers(0, 255, (9, 4, 4, 3), np.uint8), 8, axis=1).repeat(8, axis=2)

    def clip(strength: float, given: Any = video) -> tuple[list[Any], Any]:
        plan = make_plan(spec, video="v", strength=strength, num_inference_steps=10, fps=8)
        steps, made = run(engine, spec, plan, Inputs(video=given))
        return [s for s in dict.fromkeys(steps) if s.stage == "denoise" and s.index], made.frames

    steps, little = clip(0.2)
    assert steps == [Step("denoise", index, 2) for index in (1, 2)]
    much = clip(0.8)[1]
    # a random autoencoder shows no input: what the least change makes stands for it
    nearest = clip(0.1)[1]
    assert differs(little, nearest) < differs(much, nearest)
    assert differs(little, clip(0.2, np.flip(video, 1))[1]) > 0, "the video itself counts"


def test_a_long_video_is_changed_window_by_window(
    engine: Engine, specs: dict[str, ModelSpec], wide: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = specs["v2v"]
    video = wide.integers(0, 255, (15, 32, 32, 3), np.uint8)
    parts: list[Any] = []

    def noted(start: Start, *rest: Any) -> dict[str, Any]:
        parts.append(start.video)
        return arguments_of(start, *rest)

    monkeypatch.setattr("vitascope.engine.families.passes.arguments_of", noted)
    plan = make_plan(spec, video="v", strength=0.5, num_frames=17, num_inference_steps=2, fps=8)
    assert len(run(engine, spec, plan, Inputs(video=video))[1].frames) == 17
    held = video[[8, 9, 10, 11, 12, 13, 14, 14, 14]]
    assert np.array_equal(parts[0], video[:9])
    assert np.array_equal(parts[1], held)


def test_each_shot_shows_its_own_prompt(engine: Engine, specs: dict[str, ModelSpec]) -> None:
    spec = specs["v2v"]

    def clip(*prompts: str) -> Any:
        plan = make_plan(spec, shots=tuple(Shot(prompt) for prompt in prompts), num_frames=18, fps=8)
        assert [native for native, _ in plan.takes] == [9, 9]
        return run(engine, spec, plan)[1].frames

    base = clip("a dog", "a cat")
    other_end, other_start = clip("a dog", "a ball"), clip("a ball", "a cat")
    assert len(base) == 18
    assert np.array_equal(base[:9], other_end[:9])
    assert differs(base[9:], other_end[9:]) > 0
    assert differs(base[:9], other_start[:9]) > 0
    assert np.array_equal(base[9:], other_start[9:])


@pytest.fixture(scope="module")
def ti2v(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    modes = {"text": "WanPipeline", "image": "WanImageToVideoPipeline"}
    return card(
        tmp_path_factory.mktemp("ti2v"), "ti2v", tiny.wan_ti2v, pipeline="WanPipeline", modes=modes, most=17
    )


def noted_starts(monkeypatch: pytest.MonkeyPatch) -> list[Start]:
    """What each pass that runs from now on starts from."""
    starts: list[Start] = []

    def noted(start: Start, *rest: Any) -> dict[str, Any]:
        starts.append(start)
        return arguments_of(start, *rest)

    monkeypatch.setattr("vitascope.engine.families.passes.arguments_of", noted)
    return starts


def shots_of(
    spec: ModelSpec, transition: Transition | None, *prompts: str, length: int = 8, **asked: Any
) -> Plan:
    """A plan of shots of eight frames, of which the model makes nine at once."""
    shots = tuple(Shot(prompt, length, transition) for prompt in prompts)
    plain = {"prompt": "", "num_frames": None, "fps": 8, "num_inference_steps": 2}
    return make_plan(spec, shots=shots, **{**plain, **asked})


def test_a_shot_that_continues_starts_from_the_last_frame_that_the_one_before_shows(
    engine: Engine, ti2v: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = noted_starts(monkeypatch)
    plan = shots_of(ti2v, "continue", "a dog", "a cat", "a ball")
    steps, clip = run(engine, ti2v, plan)
    assert [start.window.prompt for start in starts] == ["a dog", "a cat", "a ball"]
    assert [window.surplus for window in plan.windows] == [1, 0, 0]
    assert len(clip.frames) == plan.native_num_frames == 24
    assert starts[0].head is None
    for start, last in zip(starts[1:], (7, 15), strict=True):
        assert start.head is not None
        assert np.array_equal(start.head, clip.frames[last : last + 1])
    denoised = [step for step in dict.fromkeys(steps) if step.stage == "denoise" and step.index]
    assert denoised == [Step("denoise", index, 6) for index in range(1, 7)], (
        "all shots are counted as one row"
    )


def test_a_shot_that_continues_shows_its_own_prompt(engine: Engine, ti2v: ModelSpec) -> None:
    base = run(engine, ti2v, shots_of(ti2v, "continue", "a dog", "a cat"))[1].frames
    other = run(engine, ti2v, shots_of(ti2v, "continue", "a dog", "a ball"))[1].frames
    cut = run(engine, ti2v, shots_of(ti2v, "cut", "a dog", "a cat"))[1].frames
    assert np.array_equal(base[:8], other[:8])
    assert differs(base[8:], other[8:]) > 0
    assert np.array_equal(base[:8], cut[:8])
    assert differs(base[8:16], cut[9:17]) > 0


def test_where_the_model_takes_text_only_shots_are_cut(
    engine: Engine, specs: dict[str, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = noted_starts(monkeypatch)
    spec = replace(specs["v2v"], pipelines={"text": "WanPipeline"})
    plan = shots_of(spec, "continue", "a dog", "a cat")
    asked, cut = (
        run(engine, spec, plan)[1].frames,
        run(engine, spec, shots_of(spec, None, "a dog", "a cat"))[1].frames,
    )
    assert np.array_equal(asked, cut)
    assert [start.head for start in starts] == [None] * 4
    assert [choice.value for choice in plan.choices if choice.name == "transition"] == ["cut"]


def test_shots_that_share_several_frames_fade(
    engine: Engine, specs: dict[str, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = noted_starts(monkeypatch)
    plan = shots_of(specs["vace"], "continue", "a dog", "a cat")
    clip = run(engine, specs["vace"], plan)[1]
    assert len(clip.frames) == plan.native_num_frames
    assert starts[1].head is not None
    assert starts[1].head.shape == (5, 32, 32, 3)
    assert np.array_equal(
        clip.frames[:3], run(engine, specs["vace"], shots_of(specs["vace"], None, "a dog"))[1].frames[:3]
    )


def test_too_few_frames_to_share_are_one(
    engine: Engine, specs: dict[str, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = noted_starts(monkeypatch)
    plan = shots_of(specs["ltx"], "continue", "a dog", "a cat", length=4)
    clip = run(engine, specs["ltx"], plan)[1]
    assert starts[1].head is not None
    assert np.array_equal(starts[1].head, clip.frames[3:4])
    assert len(clip.frames) == plan.native_num_frames


def test_a_second_pass_keeps_where_shots_begin(
    engine: Engine, ti2v: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = noted_starts(monkeypatch)
    upscale = Upscale(strength=1.0, height=64, width=64)
    plan = shots_of(ti2v, "continue", "a dog", "a cat", upscale=upscale)
    clip = run(engine, ti2v, plan)[1]
    assert clip.frames.shape == (plan.native_num_frames, 64, 64, 3)
    assert [start.window.prompt for start in starts] == ["a dog", "a cat"] * 2
    assert starts[3].head is not None
    assert np.array_equal(starts[3].head, clip.frames[7:8])


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline", "CogVideoXPipeline", "TextToVideoSDPipeline"])
def test_prompt_negative_prompt_and_guidance_count(
    engine: Engine, models: dict[str, ModelSpec], name: str
) -> None:
    spec = models[name]

    def clip(**asked: Any) -> Any:
        return run(engine, spec, make_plan(spec, num_inference_steps=2, **asked))[1].frames

    base = clip(negative_prompt="a cat", guidance_scale=6.0)
    assert differs(base, clip(negative_prompt="a ball", guidance_scale=6.0)) > 0
    assert differs(base, clip(negative_prompt="a cat", guidance_scale=12.0)) > 0
    assert differs(base, clip(negative_prompt="a cat", guidance_scale=6.0, prompt="a ball")) > 0
    without = clip(negative_prompt="a cat", guidance_scale=1.0)
    assert np.array_equal(without, clip(negative_prompt="a ball", guidance_scale=1.0)), (
        "there is nothing to guide away from"
    )


@pytest.mark.parametrize(("guidance_scale", "rows"), [(0.5, 1), (1.0, 1), (6.0, 2)])
def test_without_guidance_the_model_runs_once_a_step(
    models: dict[str, ModelSpec], guidance_scale: float, rows: int
) -> None:
    """Counted in rows of the batch: some pipelines run both prompts in one forward."""
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    for name, component in (("WanPipeline", "transformer"), ("TextToVideoSDPipeline", "unet")):
        spec = replace(models[name], guidance_scale=Bounds(5.0, 0.0, 20.0))
        run(engine, spec, make_plan(spec, num_inference_steps=1))  # load
        seen: list[int] = []

        def count(_module: Any, args: Any, kwargs: Any, seen: list[int] = seen) -> None:
            seen.append(len(kwargs.get("hidden_states", args[0] if args else ())))

        assert engine._loaded is not None
        (slot,) = engine._loaded.slots._idle
        hook = slot.modules()[component].register_forward_pre_hook(count, with_kwargs=True)
        run(engine, spec, make_plan(spec, num_inference_steps=3, guidance_scale=guidance_scale))
        hook.remove()
        assert sum(seen) == 3 * rows


def test_clip_skip_leaves_layers_out(engine: Engine, models: dict[str, ModelSpec]) -> None:
    spec = replace(models["TextToVideoSDPipeline"], clip_layers=2)
    full, none, one = (run(engine, spec, make_plan(spec, clip_skip=skip))[1].frames for skip in (None, 0, 1))
    assert np.array_equal(full, none)
    assert differs(full, one) > 0
    assert np.array_equal(full, run(engine, spec, make_plan(spec))[1].frames), "the encoder is whole again"
    with pytest.raises(InvalidParameter, match="it must be from 0 to 1"):
        make_plan(spec, clip_skip=5)


def test_a_given_video_is_kept_the_more_the_lower_the_strength(engine: Engine, tmp_path: Path) -> None:
    """With the embedded model, whose autoencoder shows what it is given."""
    spec = Catalog.open().resolve("pocket")
    asked = {"prompt": "a red car drives in a city", "width": 192, "height": 192, "num_inference_steps": 6}
    given = run(engine, spec, make_plan(spec, **asked, seed=1))[1].frames
    kept = [
        differs(given, run(engine, spec, plan, Inputs(video=given))[1].frames)
        for plan in (
            make_plan(spec, **{**asked, "prompt": "a fish swims in the sea"}, video="v", strength=strength)
            for strength in (0.2, 0.8)
        )
    ]
    assert kept[0] < 0.5 * kept[1]

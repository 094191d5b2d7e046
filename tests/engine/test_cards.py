"""Cards against the calls of their pipeline classes: what a card says must have somewhere to go."""

from __future__ import annotations

import inspect

import diffusers
import pytest

from vitascope.catalog import Catalog
from vitascope.domain.model_spec import Mode, ModelSpec
from vitascope.engine.families.passes import ALSO_CALLED

SPECS = sorted(Catalog.open().all(), key=lambda spec: spec.id)

#: What a pipeline must be told, by mode, under any of these names.
STARTS: dict[Mode, tuple[str, ...]] = {
    "text": ("prompt",),
    "image": ("image", "conditions", "video"),
    "last_image": ("last_image", "conditions", "video"),
    "video": ("video",),
    "reference": ("reference_images",),
}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_what_a_card_says_has_somewhere_to_go(spec: ModelSpec) -> None:
    taken: set[str] = set()
    for mode, name in spec.pipelines.items():
        pipeline = getattr(diffusers, name)
        parameters = set(inspect.signature(pipeline.__call__).parameters)
        taken |= parameters
        assert parameters & set(STARTS[mode]), f"{name} cannot start from {mode}"
        assert "num_inference_steps" in parameters
        assert {"num_frames", "video"} & parameters or parameters & {
            other for other, ours in ALSO_CALLED.items() if ours == "num_frames"
        }
        if mode == "video":
            assert "strength" in parameters
        if spec.takes_negative_prompt:
            assert "negative_prompt" in parameters
        assert spec.components.keys() <= inspect.signature(pipeline.__init__).parameters.keys()
    assert set(spec.call) <= taken


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_every_scheduler_of_a_card_is_a_class(spec: ModelSpec) -> None:
    for name in spec.schedulers:
        assert hasattr(getattr(diffusers, name), "from_config"), name


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_native_sizes_and_counts_keep_the_cards_own_rules(spec: ModelSpec) -> None:
    rule = spec.frames
    assert all(
        size.height % spec.size_multiple == 0 == size.width % spec.size_multiple for size in spec.sizes
    )
    for count in (rule.minimum, rule.maximum, spec.default_num_frames):
        assert (count - rule.offset) % rule.multiple == 0, f"{count} is not {rule}"

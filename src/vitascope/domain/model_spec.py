"""What a checkpoint accepts, as its card says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from .price import STANDARD, Price

Mode = Literal["text", "image", "last_image", "video", "reference"]
"""What a video starts from: text alone, a first frame, a first and a last frame, a video that is changed, or pictures of
who or what appears in it."""

MODES: tuple[Mode, ...] = ("text", "image", "last_image", "video", "reference")

SchedulerFamily = Literal["flow", "discrete", "cogvideox", "edm"]
"""Which noise schedulers a checkpoint takes: of flow matching; of epsilon or v prediction over discrete timesteps; CogVideoX's
own; of EDM's continuous noise levels."""


@dataclass(frozen=True, slots=True)
class Size:
    """A picture size in pixels, in the field's order: height, then width."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def pixels(self) -> int:
        return self.height * self.width


@dataclass(frozen=True, slots=True)
class FrameRule:
    """Which frame counts one pass of the model makes: `multiple * k + offset`, within `[minimum, maximum]`.

    Video autoencoders compress time by `multiple` and keep the first frame on its own, hence 4k+1 or 8k+1.
    """

    multiple: int = 4
    offset: int = 1
    minimum: int = 5
    maximum: int = 81

    def at_least(self, num_frames: int) -> int:
        """Smallest legal count that is not below `num_frames`, or the maximum if there is none."""
        k = -(-(num_frames - self.offset) // self.multiple)
        return min(max(self.multiple * max(k, 0) + self.offset, self.minimum), self.maximum)

    def __str__(self) -> str:
        return f"{self.multiple}k+{self.offset} from {self.minimum} to {self.maximum}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """A number's default and legal range, both ends included."""

    default: float
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True)
class UpscaleRule:
    """How a model makes the second, larger pass over its own clips."""

    #: Id of the checkpoint that makes it; None is the same one.
    model: str | None = None
    #: Share of the steps that run over the resized first result.
    strength: Bounds = Bounds(0.4, 0.0, 1.0)
    #: Defaults; None are the first pass's, or those of the other checkpoint.
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    #: Largest picture that it denoises; 0 is four times what the model makes at once, or the other checkpoint's own largest. A model
    #: that makes good pictures of its own sizes only stays with these.
    max_pixels: int = 0


@dataclass(frozen=True, slots=True)
class CardLora:
    """An adapter (LoRA) that a model's card always applies."""

    #: Where its file is: "file:PATH", from the operator's folder of adapters on, or "hub:OWNER/NAME/FILE".
    source: str
    scale: float = 1.0
    #: The only component that it changes, such as `transformer_2`; None for all that it fits.
    component: str | None = None
    #: Pinned commit of a hub source.
    revision: str | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(self.source.partition(":")[2]).stem


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that the server can run. Read from a card or derived from a diffusers folder by `catalog`."""

    id: str
    title: str
    #: Which engine family drives it; "generic" drives any diffusers video pipeline.
    family: str
    #: Where the weights are: "embedded:NAME", "folder:PATH" or "hub:OWNER/NAME".
    source: str
    #: diffusers pipeline class by mode. A mode that is absent is refused.
    pipelines: Mapping[Mode, str]
    #: Sizes that the model was trained on, best first. The first is the default.
    sizes: tuple[Size, ...]
    frames: FrameRule
    #: Frame count when the request does not say; legal by `frames`.
    default_num_frames: int
    #: Rate at which the model's motion looks natural.
    fps: int
    num_inference_steps: Bounds
    guidance_scale: Bounds
    #: Height and width must be multiples of this.
    size_multiple: int = 16
    #: Largest picture that the model makes in any shape; 0 means that only `sizes` look right.
    max_pixels: int = 0
    #: Noise schedulers that suit the model, by diffusers class name; the checkpoint's own is the default.
    schedulers: tuple[str, ...] = ()
    scheduler_family: SchedulerFamily = "flow"
    #: Defaults of requests, where these are not the checkpoint's own: what an adapter was distilled for.
    scheduler: str | None = None
    flow_shift: float | None = None
    #: Share of the steps that run over a given video.
    strength: Bounds = Bounds(0.7, 0.0, 1.0)
    #: Its second pass; None if it can make none.
    upscale: UpscaleRule | None = UpscaleRule()
    #: The checkpoint that `upscale` names, where this server has it.
    second: ModelSpec | None = None
    #: Frames that a continuing window shares with the one before; they are blended.
    overlap: int = 1
    #: Layers of the CLIP text encoder, of which the last can be skipped; 0 if there is none.
    clip_layers: int = 0
    takes_negative_prompt: bool = True
    #: Whether it reads a text at all; else the picture that it starts from says everything.
    takes_prompt: bool = True
    #: Extra arguments for the pipeline's call, such as max_sequence_length.
    call: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    #: Parts of the pipeline that other repositories hold, such as AnimateDiff's motion adapter, as a `source` each.
    components: Mapping[str, str] = field(default_factory=dict)
    #: Adapters that are always applied.
    loras: tuple[CardLora, ...] = ()
    #: Names that vendors use for it.
    aliases: tuple[str, ...] = ()
    #: Pinned commit of a hub source.
    revision: str | None = None
    license: str = "unknown"
    #: torch dtype by name, or "auto" for the best that the device has.
    dtype: str = "auto"
    #: How its matrices are kept: "none" as they compute, "int8" or "fp8" in one byte a value, "auto" as they fit.
    quantization: str = "auto"
    description: str = ""
    #: GB of device memory in bfloat16 without offloading, for 81 frames or so of the default size; 0 if unknown.
    memory_gb: float = 0.0
    #: Under which name the operator may set a price of several models.
    price_class: str = "standard"
    #: What its videos cost keys that are counted, if the operator has no other.
    price: Price = STANDARD

    @property
    def default_size(self) -> Size:
        return self.sizes[0]

    @property
    def parts(self) -> dict[str, ModelSpec]:
        """What other repositories hold, by component: specs of a source alone, which make nothing by themselves."""
        alone: dict[str, Any] = {"pipelines": {}, "components": {}, "loras": (), "revision": None}
        return {name: replace(self, source=source, **alone) for name, source in self.components.items()}

    @property
    def is_part(self) -> bool:
        """Whether this is one component of a pipeline and no pipeline."""
        return not self.pipelines

    def continuing_mode(self, mode: Mode) -> Mode | None:
        """Tell how a window goes on after one of this mode; None if a video cannot be longer than one window."""
        if mode == "video":
            return mode
        if "image" not in self.pipelines:
            return None
        return "reference" if mode == "reference" else "image"

"""Both worlds behind one face: what the training and evaluation scripts ask of a source of clips."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from typing import Protocol

import data
import numpy as np
import pack
import torch
import torch.nn.functional as F  # noqa: N812
import world
from PIL import Image
from presets import Setup
from stage import ODD, Stage, corners, odd_background
from torch import Tensor
from world import Shape

NOBODY = "none"
"""What the judge says of a picture without one of the subjects."""
SEEN = 0.6
"""The judge learns on this first part of every clip and is tested on the rest."""


@dataclass(frozen=True)
class Question:
    """A prompt and what the clip must show."""

    prompt: str
    subjects: tuple[str, ...]
    place: str
    motion: str


class Clips(Protocol):
    """A world that can be sampled. Pixels are (n, 3, t, h, w) in [-1, 1], masks (n, t, h, w) in 0..1."""

    names: tuple[str, ...]
    places: tuple[str, ...]
    measured: tuple[str, ...]
    """Motions that the path of the subject's middle decides."""

    def crops(self, rng: random.Random, count: int, side: int) -> tuple[Tensor, Tensor]: ...

    def clips(
        self, rng: random.Random, count: int, shape: Shape, *, hidden: bool = False, wordings: int = 1
    ) -> tuple[Tensor, Tensor, list[list[str]], list[Question]]: ...

    def question(
        self, rng: random.Random, *, hidden: bool = False, two: bool = False, aside: bool = False
    ) -> Question | None:
        """What evaluation asks; `aside`: by another of the subject's names. None where it does not apply."""

    def portraits(self, rng: random.Random, count: int, *, unseen: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Single frames on backgrounds (n, 3, h, w), the subject's number (len(names): nobody), masks.

        Not `unseen`: the first part of every clip, on odd backgrounds. `unseen`: the rest, on the world's own.
        """

    def views(self, rng: random.Random, count: int, *, unseen: bool) -> tuple[Tensor, Tensor]:
        """Single frames and the background's number; other subjects and frames when `unseen`."""


def open_clips(setup: Setup) -> Clips:
    """The preset's world."""
    return SmallClips(setup) if setup.preset.world == "small" else FullClips(setup)


def scrambled(x: Tensor, mask: Tensor, rng: random.Random) -> Tensor:
    """The same picture with its subject's parts in other places: not that subject any more."""
    out, side = x.clone(), x.shape[-1] // 6
    rows, columns = torch.nonzero(mask > 0.5, as_tuple=True)
    if not len(rows):
        return out
    top, left = int(rows.min()), int(columns.min())
    spots = [
        (y, c)
        for y in range(top, min(int(rows.max()), x.shape[-2] - side), side)
        for c in range(left, min(int(columns.max()), x.shape[-1] - side), side)
    ]
    for (y, c), (v, d) in zip(spots, rng.sample(spots, len(spots)), strict=True):
        out[:, y : y + side, c : c + side] = x[:, v : v + side, d : d + side]
    return out


# --- the small world -----------------------------------------------------------------------------


class SmallClips:
    """Twenty-two still subjects, composed by Pillow."""

    names = tuple(s.name for s in data.SUBJECTS)
    places = tuple(data.BACKGROUNDS)
    measured = data.MOTIONS

    def __init__(self, setup: Setup) -> None:
        self.device = setup.device
        self.sprites = data.Sprites(setup.work)
        self.codes = self.sprites.codes()
        self.odd: list[Image.Image] = []

    def _odd(self, seed: int) -> Image.Image:
        image = odd_background(Shape(data.SIZE, data.SIZE, 1), torch.device("cpu"), seed)
        y, x = ((n - data.SIZE) // 2 for n in image.shape[1:])
        image = image[:, y : y + data.SIZE, x : x + data.SIZE]
        return Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy())

    def _tensors(self, frames: list[np.ndarray], masks: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(np.stack(frames)).to(self.device).float().movedim(-1, 1) / 127.5 - 1
        return x, torch.from_numpy(np.stack(masks)).to(self.device).float() / 255

    def crops(self, rng: random.Random, count: int, side: int) -> tuple[Tensor, Tensor]:
        """Mostly the scenes that the model will be asked for, some with anything anywhere."""
        frames, masks = [], []
        for _ in range(count):
            clip, mask = self._loose(rng)
            limit = (data.SIZE - side) // 16
            ys, xs = np.nonzero(mask.max(0))
            y, x = rng.randint(0, limit), rng.randint(0, limit)
            if len(ys) and rng.random() < 0.8:
                k = rng.randrange(len(ys))
                y, x = (min(limit, max(0, (int(n) - side // 2 + 8) // 16)) for n in (ys[k], xs[k]))
            frames.append(clip[:, 16 * y : 16 * y + side, 16 * x : 16 * x + side])
            masks.append(mask[:, 16 * y : 16 * y + side, 16 * x : 16 * x + side])
        return self._tensors(frames, masks)

    def _loose(self, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
        roll = rng.random()
        if roll < 0.12:
            return data.compose_any(rng, self.sprites, self.codes)
        scene = data.random_scene(rng)
        if roll < 0.27:
            scene = replace(scene, place=rng.randint(-40, 40), lift=rng.randint(-20, 20))
        return data.compose(scene, self.sprites)

    def clips(
        self, rng: random.Random, count: int, shape: Shape, *, hidden: bool = False, wordings: int = 1
    ) -> tuple[Tensor, Tensor, list[list[str]], list[Question]]:
        scenes = [data.random_scene(rng, want_held_out=hidden) for _ in range(count)]
        pairs = [data.compose(s, self.sprites) for s in scenes]
        x, mask = self._tensors([f for f, _ in pairs], [m for _, m in pairs])
        words = [[data.caption(s, rng) for _ in range(wordings)] for s in scenes]
        return x, mask, words, [self._asked(s, rng, s.subject) for s in scenes]

    def _asked(self, scene: data.Scene, rng: random.Random, noun: str) -> Question:
        place = rng.choice(data.BACKGROUNDS[scene.background])
        article = "an" if noun[0] in "aeiou" else "a"
        prompt = data.PLAIN_VERBS[scene.motion].format(f"{article} {noun}", place)
        return Question(prompt, (scene.subject,), scene.background, scene.motion)

    def question(
        self, rng: random.Random, *, hidden: bool = False, two: bool = False, aside: bool = False
    ) -> Question | None:
        if two:
            return None
        scene = data.random_scene(rng, want_held_out=hidden)
        return self._asked(scene, rng, rng.choice(data.ASIDE[scene.subject]) if aside else scene.subject)

    def portraits(self, rng: random.Random, count: int, *, unseen: bool) -> tuple[Tensor, Tensor, Tensor]:
        frames, masks, labels = [], [], []
        self.odd = self.odd or [self._odd(i) for i in range(ODD)]
        for index in range(count):
            back = None if unseen else rng.choice(self.odd)
            only = [self._frame(rng, unseen)]
            if index % 10 == 0:
                code = rng.choice(self._strangers(unseen))
                clip, mask = data.compose_any(rng, self.sprites, [code], back, only)
            else:
                places = {"place": rng.randint(-24, 24), "lift": rng.randint(-12, 12)}
                scene = replace(data.random_scene(rng), **places)
                clip, mask = data.compose(scene, self.sprites, back, only)
            labels.append(len(self.names) if index % 10 < 2 else self.names.index(scene.subject))
            frames += list(clip)
            masks += list(mask)
        x, mask = self._tensors(frames, masks)
        for index in range(1, count, 10):
            x[index] = scrambled(x[index], mask[index], rng)
        return x, torch.tensor(labels, device=self.device), mask

    def _frame(self, rng: random.Random, unseen: bool) -> int:
        first = round(SEEN * data.FRAMES)
        return rng.randrange(first, data.FRAMES) if unseen else rng.randrange(first)

    def _strangers(self, unseen: bool) -> list[str]:
        """Emoji that are none of the subjects; others for the test than for the lesson."""
        own = {s.code for s in data.SUBJECTS}
        return [
            c for c in self.codes if c not in own and (hashlib.md5(c.encode()).digest()[0] < 128) != unseen
        ]

    def views(self, rng: random.Random, count: int, *, unseen: bool) -> tuple[Tensor, Tensor]:
        frames, labels = [], []
        while len(frames) < count:
            scene = data.random_scene(rng)
            if (self.names.index(scene.subject) % 2 == 0) != unseen:
                clip, _ = data.compose(scene, self.sprites, None, [self._frame(rng, unseen)])
                frames += list(clip)
                labels.append(self.places.index(scene.background))
        x, _ = self._tensors(frames, frames)
        return x, torch.tensor(labels, device=self.device)


# --- the full world ------------------------------------------------------------------------------


class FullClips:
    """The pack's subjects, composed on the device."""

    places = tuple(world.BACKGROUNDS)
    measured = world.DIRECTIONS

    def __init__(self, setup: Setup) -> None:
        entries, frames = pack.read(setup.work / "pack.zip")
        if setup.args.tiny:
            entries, frames = entries[:12], frames[:12]
        self.device, self.shapes = setup.device, setup.preset.shapes
        self.world = world.World(entries, setup.preset.drawings)
        self.stage = Stage(frames, setup.preset.drawings, setup.device)
        self.names = tuple(e.name for e in entries)
        self.side = 2 * setup.preset.judge_side
        self.generator = torch.Generator().manual_seed(setup.args.seed)

    def _scenes(self, rng: random.Random, count: int, **asked: bool) -> list[world.Scene]:
        return [self.world.scene(rng, **asked) for _ in range(count)]

    def crops(self, rng: random.Random, count: int, side: int) -> tuple[Tensor, Tensor]:
        """Crops of any shape's scenes, placed by a small rendering of the subject; a short clip keeps 17 frames."""
        shape = rng.choice(self.shapes)
        shape = replace(shape, frames=min(shape.frames, 17))
        scenes = self._scenes(rng, count)
        if side >= min(shape.height, shape.width):
            return self.stage.render(scenes, shape)
        quarter = Shape(shape.height // 4, shape.width // 4, shape.frames)
        _, cover = self.stage.render(scenes, quarter, pick=torch.tensor([0, shape.frames - 1]))
        cover = F.interpolate(cover, (shape.height, shape.width))
        return self.stage.render(scenes, shape, window=(corners(cover, side, self.generator), side))

    def clips(
        self, rng: random.Random, count: int, shape: Shape, *, hidden: bool = False, wordings: int = 1
    ) -> tuple[Tensor, Tensor, list[list[str]], list[Question]]:
        scenes = self._scenes(rng, count, hidden=hidden)
        x, mask = self.stage.render(scenes, shape)
        words = [[self.world.caption(s, rng) for _ in range(wordings)] for s in scenes]
        return x, mask, words, [self._asked(s, rng) for s in scenes]

    def _asked(self, scene: world.Scene, rng: random.Random, prompt: str = "") -> Question:
        prompt = prompt or self.world.caption(scene, rng, plain=True)
        names = tuple(self.world.name(a) for a in scene.actors)
        return Question(prompt, names, scene.background, scene.actors[0].motion)

    def question(
        self, rng: random.Random, *, hidden: bool = False, two: bool = False, aside: bool = False
    ) -> Question:
        scene = replace(self.world.scene(rng, hidden=hidden, two=two), camera="still", overlay="")
        while aside and len(self.world.entries[scene.actors[0].subject].words) < 2:
            scene = replace(self.world.scene(rng, hidden=hidden, two=two), camera="still", overlay="")
        prompt = self.world.caption(scene, rng, plain=True)
        if aside:
            name = self.world.name(scene.actors[0])
            words = [w for w in self.world.entries[scene.actors[0].subject].words if w != name]
            prompt = prompt.replace(name, rng.choice(words), 1)
        return self._asked(scene, rng, prompt)

    def portraits(self, rng: random.Random, count: int, *, unseen: bool) -> tuple[Tensor, Tensor, Tensor]:
        shape = Shape(self.side, self.side, 25)
        scenes = [replace(s, camera="still", overlay="") for s in self._scenes(rng, count, two=False)]
        odd = None if unseen else torch.tensor([rng.randrange(ODD) for _ in scenes])
        part = (SEEN, 1.0) if unseen else (0.0, SEEN)
        pick = torch.tensor([rng.randrange(shape.frames)])
        x, mask = self.stage.render(scenes, shape, pick=pick, part=part, odd=odd)
        x, mask = x[:, :, 0], mask[:, 0]
        labels = torch.tensor([s.actors[0].subject for s in scenes], device=self.device)
        empty, _ = self.stage.render([replace(s, actors=(replace(s.actors[0], height=1e-3),)) for s in scenes[::20]], shape, pick=pick, odd=None if odd is None else odd[::20])  # fmt: skip
        x[::20], mask[::20], labels[::20] = empty[:, :, 0], 0, len(self.names)
        for index in range(1, count, 20):
            x[index] = scrambled(x[index], mask[index], rng)
            labels[index] = len(self.names)
        return x, labels, mask

    def views(self, rng: random.Random, count: int, *, unseen: bool) -> tuple[Tensor, Tensor]:
        shape = Shape(self.side, self.side, 25)
        scenes = self._scenes(rng, count)
        parity = int(unseen)
        scenes = [
            replace(s, actors=tuple(replace(a, subject=self._of_parity(a.subject, parity)) for a in s.actors))
            for s in scenes
        ]
        part = (SEEN, 1.0) if unseen else (0.0, SEEN)
        x, _ = self.stage.render(scenes, shape, pick=torch.tensor([rng.randrange(25)]), part=part)
        labels = [self.places.index(s.background) for s in scenes]
        return x[:, :, 0], torch.tensor(labels, device=self.device)

    def _of_parity(self, subject: int, parity: int) -> int:
        return min(subject - subject % 2 + parity, len(self.names) - 1)

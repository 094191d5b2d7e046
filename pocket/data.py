"""The small world, in which the shipped weights were trained: 22 still subjects, eleven backgrounds, six motions.

Nothing here knows about torch or training: a `Scene` goes in, uint8 frames, the subject's mask and
captions come out, the same for the same scene. Composed clips teach the model; they are never shown
as its output. The full world (`pack.py`, `world.py`, `stage.py`) takes its place once a GPU has trained it.

`python pocket/data.py` fetches the sprites and writes a sheet of composed scenes to look at.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from sources import STILLS, default_work, fetch, pictures

SIZE = 192
"""Native height and width in pixels."""
FRAMES = 17
"""Native length: 4k+1, because the autoencoder keeps the first frame apart and packs four after."""
FPS = 8
SPRITE = 104
"""Longest side of a subject in pixels: 54 % of the frame."""
SPEED = 4
"""Pixels per frame. Sixteen per four frames is exactly one latent cell, so a moving subject looks
alike in every latent frame and the denoiser has one appearance to learn, not sixteen."""
GROUND = 166
"""Where the feet of a walker stand."""


@dataclass(frozen=True)
class Subject:
    """Something that can be asked for, and the words that ask for it."""

    name: str
    code: str
    words: tuple[str, ...]
    goes: str = "walk"
    """How it gets from one side to the other, a key of `_GO`."""
    share: int = 2
    """How often it comes: what earlier weights drew well already comes half as often."""
    grey: bool = False
    """Drained of colour, so that the cat is not mistaken for the dog."""

    @property
    def is_on_ground(self) -> bool:
        return self.goes in ("walk", "drive", "roll")


SUBJECTS = (
    Subject("dog", "1f415", ("dog", "dog", "dog", "puppy", "doggy", "hound")),
    Subject("cat", "1f408", ("cat", "cat", "cat", "kitten", "kitty"), share=1, grey=True),
    Subject("duck", "1f986", ("duck", "duck", "mallard", "drake")),
    Subject("fish", "1f41f", ("fish", "fish", "blue fish"), "swim"),
    Subject("car", "1f697", ("car", "car", "red car", "automobile"), "drive", share=1),
    Subject("rocket", "1f680", ("rocket", "rocket", "spaceship", "space rocket"), "fly", share=1),
    Subject("balloon", "1f388", ("balloon", "balloon", "red balloon"), "fly", share=1),
    Subject("butterfly", "1f98b", ("butterfly", "butterfly", "orange butterfly"), "fly", share=1),
    Subject("turtle", "1f422", ("turtle", "turtle", "tortoise"), share=1),
    Subject("penguin", "1f427", ("penguin", "penguin", "little penguin"), share=1),
    Subject("rabbit", "1f407", ("rabbit", "rabbit", "bunny", "white rabbit", "hare")),
    Subject("elephant", "1f418", ("elephant", "elephant", "grey elephant", "baby elephant")),
    Subject("panda", "1f43c", ("panda", "panda", "panda bear")),
    Subject("frog", "1f438", ("frog", "frog", "green frog", "toad")),
    Subject("bird", "1f426", ("bird", "bird", "red bird", "sparrow", "robin"), "fly"),
    Subject("whale", "1f433", ("whale", "whale", "blue whale"), "swim"),
    Subject("dinosaur", "1f996", ("dinosaur", "dinosaur", "green dinosaur", "t-rex")),
    Subject("robot", "1f916", ("robot", "robot", "android", "robot head")),
    Subject("ghost", "1f47b", ("ghost", "ghost", "white ghost", "spirit"), "fly"),
    Subject("snowman", "26c4", ("snowman", "snowman", "snow man")),
    Subject("bus", "1f68c", ("bus", "bus", "yellow bus", "coach"), "drive"),
    Subject("ball", "26bd", ("ball", "ball", "football", "soccer ball"), "roll"),
)
SUBJECT = {s.name: s for s in SUBJECTS}

BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "beach": (
        "on the beach", "at the beach", "along the beach", "on a beach", "on the sand by the sea",
        "at the seaside", "on the shore",
    ),
    "meadow": (
        "in a meadow", "on the grass", "in the park", "in a green field", "on a meadow", "in a garden",
    ),
    "night": ("at night", "under the stars", "in the night", "under the night sky", "in the dark"),
    "sunset": ("at sunset", "in the evening", "in the sunset", "at dusk", "under an orange sky"),
    "snow": ("in the snow", "on the snow", "in winter", "in a snowy landscape", "on snowy ground"),
    "sea": ("in the sea", "under water", "in the ocean", "underwater", "in blue water"),
    "forest": ("in the forest", "in a forest", "in the woods", "among trees", "between the trees"),
    "city": ("in the city", "in a city", "on a city street", "in front of tall buildings", "downtown"),
    "space": ("in space", "in outer space", "in a galaxy", "among the planets"),
    "yellow": ("on a yellow background", "in front of a yellow wall", "on plain yellow"),
    "pink": ("on a pink background", "in front of a pink wall", "on plain pink"),
}  # fmt: skip

MOTIONS = ("left", "right", "up", "down", "jump", "stay")

_GO = {
    "walk": ("walks", "walks", "runs", "goes", "moves", "is walking", "walking", "strolls"),
    "fly": ("flies", "moves", "glides", "is flying", "flying", "floats"),
    "swim": ("swims", "swims", "moves", "is swimming", "swimming", "glides"),
    "drive": ("drives", "drives", "moves", "goes", "is driving", "driving", "rolls"),
    "roll": ("rolls", "rolls", "moves", "goes", "is rolling", "rolling"),
}
_SIDE = ("to the {0}", "to the {0}", "{0}", "from {1} to {0}", "from the {1} to the {0}", "{0}wards")
_VERBS = {
    "up": ("floats up", "flies up", "rises", "goes up", "moves up", "rises into the air", "takes off"),
    "down": ("falls down", "falls", "drops down", "goes down", "moves down", "sinks", "comes down"),
    "jump": ("jumps", "hops", "leaps", "jumps up and down", "is jumping", "jumping", "bounces"),
    "stay": ("stands still", "stays", "is standing", "waits", "does not move", "is", "rests"),
}

PLAIN_VERBS = {
    "left": "{} moves to the left {}", "right": "{} moves to the right {}", "up": "{} flies up {}",
    "down": "{} falls down {}", "jump": "{} jumps {}", "stay": "{} stands still {}",
}  # fmt: skip
"""How evaluation asks."""
ASIDE = {
    "dog": ("puppy", "hound"), "cat": ("kitten", "kitty"), "duck": ("mallard", "drake"),
    "fish": ("goldfish", "blue fish"), "car": ("automobile", "vehicle"), "rocket": ("spaceship", "spacecraft"),
    "balloon": ("red balloon", "party balloon"), "butterfly": ("orange butterfly", "moth"),
    "turtle": ("tortoise", "sea turtle"), "penguin": ("little penguin", "penguins"),
    "rabbit": ("bunny", "bunny rabbit"), "elephant": ("baby elephant", "elephants"),
    "panda": ("panda bear", "giant panda"), "frog": ("toad", "frogs"), "bird": ("sparrow", "little bird"),
    "whale": ("blue whale", "whales"), "dinosaur": ("t-rex", "dinosaurs"), "robot": ("android", "robots"),
    "ghost": ("spirit", "ghosts"), "snowman": ("snow man", "little snowman"), "bus": ("coach", "school bus"),
    "ball": ("football", "soccer ball"),
}  # fmt: skip
"""Other names that evaluation asks with; about half of them are in no caption."""


@dataclass(frozen=True)
class Scene:
    """Everything that decides the pixels of one clip."""

    subject: str
    background: str
    motion: str
    place: int = 0
    """Sideways offset of the middle of the path in pixels: a multiple of 16 for the denoiser."""
    tint: tuple[float, float] = (0.0, 0.0)
    """Two numbers in [-1, 1] that vary the background."""
    lift: int = 0
    """Vertical offset in pixels; only the autoencoder's training uses it."""


def held_out(scene: Scene) -> bool:
    """About one subject-background-motion in twelve is never trained on; evaluation measures it."""
    if scene.subject == "dog" and scene.background == "beach":
        return False
    key = f"{scene.subject}/{scene.background}/{scene.motion}".encode()
    return hashlib.sha256(key).digest()[0] < 22


def random_scene(rng: random.Random, *, want_held_out: bool = False) -> Scene:
    """Draw a scene; dogs and beaches come a little more often, because people ask for them."""
    while True:
        [subject] = rng.choices([s.name for s in SUBJECTS], [s.share for s in SUBJECTS])
        background = rng.choice((*BACKGROUNDS, "beach"))
        motion = rng.choice((*MOTIONS, "left", "right"))
        scene = Scene(
            subject,
            background,
            motion,
            rng.choice((-16, 0, 16)),
            (rng.uniform(-1, 1), rng.uniform(-1, 1)),
        )
        if held_out(scene) == want_held_out:
            return scene


def _go(subject: Subject, background: str, rng: random.Random) -> str:
    swims = background == "sea" and subject.goes in ("walk", "fly") and rng.random() < 0.5
    return rng.choice(_GO["swim" if swims else subject.goes])


def caption(scene: Scene, rng: random.Random) -> str:
    """One wording of a scene. Direction and place are sometimes left unsaid, as people do.

    Without a direction it goes left, the way the pictures face: when both were meant, the model drew dogs
    with a tail at either end.
    """
    subject = SUBJECT[scene.subject]
    noun = rng.choice(subject.words)
    if scene.motion in ("left", "right"):
        verb = _go(subject, scene.background, rng)
        if scene.motion == "right" or rng.random() < 0.7:
            other = "left" if scene.motion == "right" else "right"
            verb += " " + rng.choice(_SIDE).format(scene.motion, other)
    else:
        verb = rng.choice(_VERBS[scene.motion])
    where = rng.choice(BACKGROUNDS[scene.background]) if rng.random() < 0.92 else ""
    article = rng.choice(("a ", "a ", "a ", "the ", "", "one ", "a cute ", "a little "))
    if noun[0] in "aeiou" and article == "a ":
        article = "an "
    roll = rng.random()
    if where and roll < 0.12:
        text = f"{where}, {article}{noun} {verb}"
    elif where and roll < 0.2:
        text = f"{article}{noun} {where} {verb}"
    else:
        text = f"{article}{noun} {verb} {where}"
    text = " ".join(text.split())
    if rng.random() < 0.12:
        text = rng.choice(("a video of ", "video: ", "an animation of ", "3d animation, ")) + text
    if rng.random() < 0.2:
        text += "."
    return text[0].upper() + text[1:] if rng.random() < 0.4 else text


def vocabulary_words() -> set[str]:
    """Every word that a caption can hold, for the text encoder's cut."""
    text: list[str] = [w for s in SUBJECTS for w in s.words]
    text += [p for ps in BACKGROUNDS.values() for p in ps]
    text += [v for vs in (*_GO.values(), *_VERBS.values(), _SIDE) for v in vs]
    text += ["a an the one cute little video animation of 3d left right leftwards rightwards"]
    return {w for t in text for w in t.lower().replace("{0}", "").replace("{1}", "").split()}


# --- sprites -------------------------------------------------------------------------------------


class Sprites:
    """The subjects' pictures, trimmed, scaled and turned to where they go."""

    def __init__(self, work: Path) -> None:
        self._files = pictures(fetch(work, STILLS))
        self._cache: dict[tuple[object, ...], Image.Image] = {}

    def codes(self) -> list[str]:
        """All emoji without skin tone, for an autoencoder that has seen more shapes than the subjects'."""
        return sorted(c for c in self._files if not c.split("-")[-1].startswith("1f3f"))

    def picture(self, code: str, size: int = SPRITE, *, grey: bool = False, turn: int = 0) -> Image.Image:
        """A trimmed RGBA picture whose longest side is `size`."""
        key = (code, size, grey, turn)
        if key not in self._cache:
            image = Image.open(io.BytesIO(self._files[code])).convert("RGBA")
            if turn:
                image = image.rotate(turn, Image.Resampling.BICUBIC, expand=True)
            image = image.crop(image.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox())
            if grey:
                light = image.convert("L").point(lambda v: int(v * 0.82))
                image = Image.merge(
                    "RGBA",
                    (light, light, light.point(lambda v: min(255, int(v * 1.07))), image.getchannel("A")),
                )
            scale = size / max(image.size)
            image = image.resize(
                (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
                Image.Resampling.LANCZOS,
            )
            if len(self._cache) > 4000:
                self._cache.clear()
            self._cache[key] = image
        return self._cache[key]

    def pose(self, subject: Subject, motion: str, frame: int) -> Image.Image:
        """The subject's picture in one frame of a motion."""
        turn = 0
        if subject.name == "rocket":
            turn = {"up": 45, "stay": 45, "jump": 45, "down": -135}.get(motion, 0)
        image = self.picture(subject.code, grey=subject.grey, turn=turn)
        if subject.name == "butterfly":
            flap = (1.0, 0.82, 0.6, 0.82)[frame % 4]
            image = image.resize((round(image.width * flap), image.height), Image.Resampling.BILINEAR)
        faces_right = subject.name == "rocket"
        if (motion == "right" and not faces_right) or (motion == "left" and faces_right):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image


# --- backgrounds ---------------------------------------------------------------------------------

_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


def _mix(below: np.ndarray, colour: tuple[float, ...], alpha: np.ndarray) -> np.ndarray:
    return below * (1 - alpha[..., None]) + np.array(colour, np.float32) * alpha[..., None]


def _soft(x: np.ndarray, width: float = 1.5) -> np.ndarray:
    """0 below zero, 1 above, smooth over `width` pixels: no hard edges to learn."""
    return np.clip(x / width + 0.5, 0, 1)


def _gradient(top: tuple[float, ...], bottom: tuple[float, ...], start: float, end: float) -> np.ndarray:
    t = np.clip((_Y - start) / (end - start), 0, 1)[..., None]
    return np.array(top, np.float32) * (1 - t) + np.array(bottom, np.float32) * t


def _disc(x: float, y: float, radius: float, width: float = 2.0) -> np.ndarray:
    return _soft(radius - np.hypot(_X - x, _Y - y), width)


def _beach(a: float, b: float) -> np.ndarray:
    image = _gradient((120, 190, 240), (205, 235, 250), 0, 84)
    image = _mix(image, (255, 244, 190), _disc(150 + 12 * a, 30, 14, 4))
    sea = _gradient((40, 140, 190), (95, 205, 210), 84, 122)
    image = np.where((_Y > 84)[..., None], sea, image)
    shore = 120 + 4 * np.sin(_X / 27 + 1.5 * b)
    image = _mix(image, (245, 250, 250), _soft(_Y - shore + 4))
    return _mix(image, (240, 218 + 6 * a, 170 + 8 * b), _soft(_Y - shore, 3))


def _meadow(a: float, b: float) -> np.ndarray:
    image = _gradient((135, 200, 245), (225, 242, 250), 0, 110)
    image = _mix(image, (150, 205, 120), _soft(_Y - 96 - 8 * np.sin(_X / 38 + 2 * a)))
    grass = _gradient((110, 190, 80), (70, 150, 60), 112, 191)
    hill = _soft(_Y - 116 - 4 * np.sin(_X / 30 + 2 + 2 * b))
    return image * (1 - hill[..., None]) + grass * hill[..., None]


def _night(a: float, b: float) -> np.ndarray:
    image = _gradient((12, 16, 52), (48, 52, 120), 0, 140)
    image = _mix(image, (250, 245, 210), _disc(36 + 10 * a, 34, 15))
    for x, y in ((80, 20), (112, 44), (150, 22), (176, 60), (14, 78), (66, 62)):
        image = _mix(image, (235, 235, 255), _disc(x, y, 2.2, 2))
    return _mix(image, (24, 34 + 6 * b, 50), _soft(_Y - 146 - 4 * np.sin(_X / 35 + 2 * b)))


def _sunset(a: float, b: float) -> np.ndarray:
    image = _gradient((120, 70, 150), (255, 150, 70), 0, 120)
    image = _mix(image, (255, 225, 130), _disc(96 + 40 * a, 108, 24, 3))
    return _mix(image, (110, 60 + 8 * b, 80), _soft(_Y - 128 - 3 * np.sin(_X / 33 + 2 * b)))


def _snow(a: float, b: float) -> np.ndarray:
    image = _gradient((150, 185, 220), (225, 235, 245), 0, 110)
    for x, height in ((30 + 8 * a, 62), (130 + 8 * a, 52)):
        peak = _soft(_Y - height - 0.8 * np.abs(_X - x), 2)
        image = _mix(image, (170, 190, 215), peak)
    return _mix(image, (246, 249, 253), _soft(_Y - 118 - 4 * np.sin(_X / 31 + 2 * b), 2))


def _sea(a: float, b: float) -> np.ndarray:
    image = _gradient((50, 160, 215), (10, 50, 120), 0, 180)
    for x in (40, 110):
        ray = _soft(13 - np.abs(_X - x - 14 * a - 0.35 * _Y), 12) * np.clip(1 - _Y / 150, 0, 1) * 0.3
        image = _mix(image, (190, 240, 250), ray)
    return _mix(image, (150, 140, 110), 0.8 * _soft(_Y - 172 - 3 * np.sin(_X / 25 + 2 * b), 4))


def _forest(a: float, b: float) -> np.ndarray:
    image = _gradient((170, 215, 200), (215, 235, 205), 0, 130)
    for x, width in ((14, 9), (62, 6), (118, 7), (170, 10)):
        trunk = _soft(width - np.abs(_X - x - 6 * a), 2) * _soft(150 - _Y)
        image = _mix(image, (120, 88, 66), trunk)
    crowns = 58 + 9 * np.sin(_X / 13 + 2 * a) + 5 * np.sin(_X / 29 + 1)
    image = _mix(image, (52, 122, 74), _soft(crowns - _Y, 3))
    image = _mix(image, (70, 128, 70), _soft(_Y - 126 - 3 * np.sin(_X / 9 + 2 * b), 3))
    return _mix(image, (96, 140, 72), _soft(_Y - 140 - 4 * np.sin(_X / 33 + 2 * b), 3))


def _city(a: float, b: float) -> np.ndarray:
    image = _gradient((150, 195, 235), (235, 232, 225), 0, 130)
    for x, width, height, shade in ((18, 18, 58, 0), (58, 15, 84, 22), (98, 20, 40, 8), (140, 14, 72, 28), (176, 17, 50, 4)):  # fmt: skip
        x, height = x + 5 * a, height + 6 * b
        house = _soft(width - np.abs(_X - x), 1.5) * _soft(_Y - height, 1.5)
        image = _mix(image, (128 + shade, 136 + shade, 160 + shade), house)
        panes = _soft(4 - np.abs((_X - x + 32) % 12 - 6) - 1.5) * _soft(
            5 - np.abs((_Y - height) % 16 - 8) - 1
        )
        inside = _soft(width - 4 - np.abs(_X - x)) * _soft(_Y - height - 5)
        image = _mix(image, (250, 226, 150), panes * inside)
    image = _mix(image, (176, 176, 178), _soft(_Y - 128))
    return _mix(image, (92, 94, 104), _soft(_Y - 140, 2))


def _space(a: float, b: float) -> np.ndarray:
    image = _gradient((26, 14, 54), (10, 8, 30), 0, 191)
    cloud = np.exp(-(((_X - 96 - 30 * a) / 80) ** 2) - ((_Y - 100 + 0.4 * (_X - 96)) / 30) ** 2)
    image = _mix(image, (120, 60, 150), 0.55 * cloud)
    for x, y in (
        (20, 60),
        (70, 24),
        (110, 12),
        (120, 150),
        (178, 96),
        (60, 168),
        (12, 140),
        (150, 60),
        (92, 96),
    ):
        image = _mix(image, (235, 235, 255), _disc(x, y, 2.2, 2))
    image = _mix(image, (230, 150, 90), _disc(158, 34 + 5 * b, 18))
    ring = np.abs(np.hypot((_X - 158) / 30, (_Y - 34 - 5 * b + 0.25 * (_X - 158)) / 7) - 1)
    return _mix(image, (240, 214, 170), _soft(0.14 - ring, 0.12) * 0.9)


def _plain(colour: tuple[float, float, float]):
    def draw(a: float, b: float) -> np.ndarray:
        base = np.array(colour, np.float32) + 8 * a
        shade = 1 - 0.12 * np.hypot(_X - 96, _Y - 80 - 20 * b)[..., None] / 136
        return np.clip(base * shade, 0, 255)

    return draw


_DRAW = {
    "beach": _beach, "meadow": _meadow, "night": _night, "sunset": _sunset, "snow": _snow,
    "sea": _sea, "forest": _forest, "city": _city, "space": _space, "yellow": _plain((246, 210, 80)), "pink": _plain((244, 160, 190)),
}  # fmt: skip


def backdrop(name: str, tint: tuple[float, float]) -> Image.Image:
    """The background alone."""
    return Image.fromarray(np.clip(_DRAW[name](*tint), 0, 255).astype(np.uint8))


# --- clips ---------------------------------------------------------------------------------------


def centre(scene: Scene, frame: int, height: int) -> tuple[int, int]:
    """Where the subject's middle is in a frame, for a picture of this height."""
    subject = SUBJECT[scene.subject]
    half = SPEED * (FRAMES - 1) // 2
    travel = SPEED * frame - half
    x, y = SIZE // 2 + scene.place, SIZE // 2
    if subject.is_on_ground and scene.motion in ("left", "right", "stay", "jump"):
        y = GROUND - height // 2
    if scene.motion in ("left", "right"):
        x += travel if scene.motion == "right" else -travel
        if subject.goes == "walk" and subject.name != "turtle":
            y -= (0, 2, 4, 2)[frame % 4]
    elif scene.motion == "up":
        y -= travel
    elif scene.motion == "down":
        y += travel
    elif scene.motion == "jump":
        phase = (frame % 8) / 8
        y -= round(44 * 4 * phase * (1 - phase)) - (0 if subject.is_on_ground else 20)
    return x, y + scene.lift


def compose(
    scene: Scene, sprites: Sprites, back: Image.Image | None = None, only: Sequence[int] = range(FRAMES)
) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) uint8 and the subject's alpha (T, H, W) uint8.

    Args:
        back: a background instead of the scene's own.
        only: the frames that are wanted.
    """
    subject = SUBJECT[scene.subject]
    back = back or backdrop(scene.background, scene.tint)
    frames, masks = [], []
    for index in only:
        image = sprites.pose(subject, scene.motion, index)
        x, y = centre(scene, index, image.height)
        at = (x - image.width // 2, y - image.height // 2)
        frame, mask = back.copy(), Image.new("L", (SIZE, SIZE))
        frame.paste(image, at, image)
        mask.paste(image.getchannel("A"), at)
        frames.append(np.asarray(frame))
        masks.append(np.asarray(mask))
    return np.stack(frames), np.stack(masks)


def compose_any(
    rng: random.Random,
    sprites: Sprites,
    codes: list[str],
    back: Image.Image | None = None,
    only: Sequence[int] = range(FRAMES),
) -> tuple[np.ndarray, np.ndarray]:
    """Any emoji of any size on any path: keeps the autoencoder honest on pictures users bring."""
    image = sprites.picture(
        rng.choice(codes), rng.choice((72, 88, 104, 120)), turn=rng.choice((0, 0, 0, 30, -30))
    )
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    own = back is None
    back = back or backdrop(rng.choice(tuple(BACKGROUNDS)), (rng.uniform(-1, 1), rng.uniform(-1, 1)))
    if own and rng.random() < 0.3:
        back = back.transpose(Image.Transpose.FLIP_LEFT_RIGHT).filter(
            ImageFilter.GaussianBlur(rng.choice((0, 1, 3)))
        )
    x0, y0 = rng.randint(40, 150), rng.randint(40, 150)
    dx, dy = rng.uniform(-5, 5), rng.uniform(-3, 3)
    frames, masks = [], []
    for index in only:
        at = (
            round(x0 + dx * (index - 8)) - image.width // 2,
            round(y0 + dy * (index - 8)) - image.height // 2,
        )
        frame, mask = back.copy(), Image.new("L", (SIZE, SIZE))
        frame.paste(image, at, image)
        mask.paste(image.getchannel("A"), at)
        frames.append(np.asarray(frame))
        masks.append(np.asarray(mask))
    return np.stack(frames), np.stack(masks)


def all_scenes() -> Iterator[Scene]:
    """Every subject on every background in every motion, held out or not."""
    for s, b, m in itertools.product(SUBJECTS, BACKGROUNDS, MOTIONS):
        yield Scene(s.name, b, m)


def sheet(clips: list[np.ndarray], path: Path, columns: int = 6) -> None:
    """Write a contact sheet: a row per clip, `columns` frames across."""
    picks = np.linspace(0, clips[0].shape[0] - 1, columns).round().astype(int)
    rows = [np.concatenate([clip[i] for i in picks], 1) for clip in clips]
    Image.fromarray(np.concatenate(rows, 0)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=default_work())
    work = parser.parse_args().work
    sprites = Sprites(work)
    rng = random.Random(7)
    scenes = [
        Scene(s.name, b, m)
        for s, b, m in zip(SUBJECTS, itertools.cycle(BACKGROUNDS), itertools.cycle(MOTIONS), strict=False)
    ]
    sheet([compose(s, sprites)[0] for s in scenes], work / "scenes.png")
    for scene in scenes:
        print(scene.subject, scene.background, scene.motion, "|", caption(scene, rng))
    print(sum(map(held_out, all_scenes())), "of", len(list(all_scenes())), "combinations are held out")


if __name__ == "__main__":
    main()

"""The full world: what can be asked for, how it is said, and where everything is in every frame.

Nothing here draws: a `Scene` says it all in a few numbers, `stage.py` turns scenes into pixels on any device.
The first, smaller world that the shipped weights were trained in is in `data.py`.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pack import Entry


@dataclass(frozen=True)
class Shape:
    """Height, width and length of a clip; 16 pixels and four frames make one latent cell."""

    height: int
    width: int
    frames: int

    @property
    def cells(self) -> tuple[int, int, int]:
        return (self.frames - 1) // 4 + 1, self.height // 16, self.width // 16


SHAPES = (Shape(256, 256, 25), Shape(192, 320, 25), Shape(320, 192, 25))
FPS = 12

BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "along the beach", "on the sand by the sea", "at the seaside", "on the shore"),
    "sea": ("in the sea", "under water", "in the ocean", "underwater", "in deep blue water"),
    "meadow": ("in a meadow", "on the grass", "in the park", "in a green field", "in a garden"),
    "forest": ("in the forest", "in the woods", "among trees", "between the trees"),
    "snow": ("in the snow", "in winter", "in a snowy landscape", "on snowy ground"),
    "city": ("in the city", "in front of tall buildings", "downtown", "on a city street"),
    "space": ("in space", "among the stars", "in outer space", "in a galaxy"),
    "day": ("in the sky", "in the blue sky", "on a sunny day", "among white clouds"),
    "night": ("at night", "under the night sky", "in the moonlight", "in the dark"),
    "sunset": ("at sunset", "in the evening", "at dusk", "under an orange sky"),
    "gradient": ("on a colourful background", "in front of soft colours", "on a gradient background"),
    **{
        colour: (f"on a {colour} background", f"in front of a {colour} wall", f"on plain {colour}")
        for colour in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "grey")
    },
}

Path = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
"""Time 0..1 and a phase to sideways and upward offset (in frame heights), turn (radians) and size."""


def _path(x=0.0, y=0.0, turn=0.0, size=1.0) -> tuple[np.ndarray, ...]:
    return x, y, turn, size


PATHS: dict[str, Path] = {
    "left": lambda t, p: _path(x=0.25 - 0.5 * t, y=0.02 * np.abs(np.sin(4 * math.pi * t + p))),
    "right": lambda t, p: _path(x=0.5 * t - 0.25, y=0.02 * np.abs(np.sin(4 * math.pi * t + p))),
    "up": lambda t, p: _path(y=0.5 * t - 0.25, x=0.02 * np.sin(2 * math.pi * t + p)),
    "down": lambda t, p: _path(y=0.25 - 0.5 * t),
    "jump": lambda t, p: _path(y=0.22 * np.abs(np.sin(2 * math.pi * t)) - 0.08),
    "spin": lambda t, p: _path(turn=2 * math.pi * t + p),
    "circle": lambda t, p: _path(x=0.18 * np.cos(2 * math.pi * t + p), y=0.18 * np.sin(2 * math.pi * t + p)),
    "wave": lambda t, p: _path(turn=0.3 * np.sin(4 * math.pi * t + p)),
    "closer": lambda t, p: _path(size=0.7 + 0.6 * t),
    "away": lambda t, p: _path(size=1.3 - 0.6 * t),
    "stay": lambda t, p: _path(),
}
MOTIONS = tuple(PATHS)
DIRECTIONS = ("left", "right", "up", "down")
"""The motions that the path of the subject's middle alone decides."""

CAMERAS: dict[str, tuple[str, ...]] = {
    "still": ("",),
    "pan left": ("the camera pans left", "panning to the left"),
    "pan right": ("the camera pans right", "panning to the right"),
    "zoom in": ("the camera zooms in", "slow zoom in"),
    "zoom out": ("the camera zooms out", "slow zoom out"),
}
OVERLAYS: dict[str, tuple[str, ...]] = {
    "": ("",),
    "rain": ("in the rain", "while it rains", "on a rainy day"),
    "snowfall": ("while it snows", "in falling snow", "with snowflakes falling"),
}

VERBS: dict[str, tuple[tuple[str, str], ...]] = {
    "left": (("walks to the left", "walk to the left"), ("moves left", "move left"), ("goes from right to left", "go from right to left"), ("runs to the left", "run to the left"), ("travels leftwards", "travel leftwards")),
    "right": (("walks to the right", "walk to the right"), ("moves right", "move right"), ("goes from left to right", "go from left to right"), ("runs to the right", "run to the right"), ("travels rightwards", "travel rightwards")),
    "up": (("floats up", "float up"), ("flies up", "fly up"), ("rises", "rise"), ("goes up into the air", "go up into the air")),
    "down": (("falls", "fall"), ("falls down", "fall down"), ("drops", "drop"), ("sinks", "sink")),
    "jump": (("jumps", "jump"), ("hops up and down", "hop up and down"), ("bounces", "bounce"), ("leaps", "leap")),
    "spin": (("spins", "spin"), ("spins around", "spin around"), ("rotates", "rotate"), ("turns around", "turn around")),
    "circle": (("moves in a circle", "move in a circle"), ("circles", "circle"), ("flies in circles", "fly in circles")),
    "wave": (("sways", "sway"), ("waves", "wave"), ("swings from side to side", "swing from side to side"), ("dances", "dance")),
    "closer": (("comes closer", "come closer"), ("grows bigger", "grow bigger"), ("approaches", "approach"), ("zooms in", "zoom in")),
    "away": (("moves away", "move away"), ("gets smaller", "get smaller"), ("disappears into the distance", "disappear into the distance")),
    "stay": (("stands still", "stand still"), ("stays", "stay"), ("is", "are"), ("waits", "wait"), ("rests", "rest")),
}  # fmt: skip
"""What one does and what two do."""


@dataclass(frozen=True)
class Actor:
    """A subject and its way through the clip. Offsets and height are parts of the frame's height."""

    subject: int
    motion: str
    x: float
    y: float
    height: float
    phase: float
    start: float
    """Where in the animation it begins, 0..1."""


@dataclass(frozen=True)
class Scene:
    """Everything that decides the pixels of one clip."""

    actors: tuple[Actor, ...]
    background: str
    drawing: int
    """Which of the background's drawings."""
    camera: str = "still"
    overlay: str = ""


def held_out(name: str, background: str, motion: str) -> bool:
    """About one subject-background-motion in twelve is never trained on; evaluation measures it."""
    return hashlib.sha256(f"{name}/{background}/{motion}".encode()).digest()[0] < 22


def track(actor: Actor, frames: int) -> np.ndarray:
    """Sideways, downward, turn and size of an actor, (frames, 4), in frame heights from the middle."""
    t = np.linspace(0, 1, frames)
    x, y, turn, size = PATHS[actor.motion](t, actor.phase)
    columns = (actor.x + x, actor.y - y, turn, actor.height * size)
    return np.stack([np.broadcast_to(np.asarray(c, np.float32), frames) for c in columns], 1)


def view(camera: str, frames: int) -> np.ndarray:
    """Sideways shift and zoom of the camera, (frames, 2)."""
    t = np.linspace(-0.5, 0.5, frames)
    shift = {"pan left": -0.2 * t, "pan right": 0.2 * t}.get(camera, 0 * t)
    zoom = {"zoom in": 1.1 + 0.2 * t, "zoom out": 1.1 - 0.2 * t}.get(camera, 0 * t + 1)
    return np.stack([shift, zoom], 1).astype(np.float32)


class World:
    """Scenes and their captions over the subjects of a pack."""

    def __init__(self, entries: Sequence[Entry], drawings: int) -> None:
        self.entries, self.drawings = entries, drawings

    def actor(self, rng: random.Random, *, motion: str | None = None, side: float | None = None) -> Actor:
        """A subject on its way; `side` keeps it in the left or right half."""
        motion = motion or rng.choice((*MOTIONS, "left", "right"))
        alone = side is None
        return Actor(
            rng.randrange(len(self.entries)),
            motion,
            rng.uniform(-0.12, 0.12) if side is None else side * rng.uniform(0.2, 0.27),
            rng.uniform(-0.06, 0.14),
            rng.uniform(0.38, 0.6) if alone else rng.uniform(0.35, 0.42),
            rng.uniform(0, 2 * math.pi),
            rng.random(),
        )

    def scene(self, rng: random.Random, *, hidden: bool = False, two: bool | None = None) -> Scene:
        """Draw a scene, of the compositions that are trained on or of those held out."""
        while True:
            pair = rng.random() < 0.2 if two is None else two
            motion = rng.choice(MOTIONS) if pair and rng.random() < 0.6 else None
            sides = (-1.0, 1.0) if rng.random() < 0.5 else (1.0, -1.0)
            actors = tuple(self.actor(rng, motion=motion, side=s) for s in (sides if pair else (None,)))
            background = rng.choice(tuple(BACKGROUNDS))
            if any(held_out(self.name(a), background, a.motion) != hidden for a in actors):
                continue
            if pair and actors[0].subject == actors[1].subject:
                continue
            return Scene(
                actors,
                background,
                rng.randrange(self.drawings),
                rng.choice(tuple(CAMERAS)[1:]) if rng.random() < 0.25 else "still",
                rng.choice(("rain", "snowfall")) if rng.random() < 0.15 else "",
            )

    def name(self, actor: Actor) -> str:
        return self.entries[actor.subject].name

    def noun(self, actor: Actor, rng: random.Random, *, plain: bool = False) -> str:
        words = self.entries[actor.subject].words or [self.name(actor)]
        word = self.name(actor) if plain or rng.random() < 0.6 else rng.choice(words)
        article = "a" if plain else rng.choice(("a", "a", "a", "the", "one", "a cute", "a little", ""))
        if article == "a" and word[0] in "aeiou":
            article = "an"
        return f"{article} {word}".strip()

    def caption(self, scene: Scene, rng: random.Random, *, plain: bool = False) -> str:
        """One wording; `plain` is how evaluation asks: the subject's name, everything said."""
        first, *others = scene.actors
        who = self.noun(first, rng, plain=plain)
        does = 0 if not others else 1
        if others and others[0].motion == first.motion:
            text = (
                f"{who} and {self.noun(others[0], rng, plain=plain)} {rng.choice(VERBS[first.motion])[does]}"
            )
        else:
            text = f"{who} {rng.choice(VERBS[first.motion])[0]}"
            for other in others:
                link = rng.choice((" and", " while", ","))
                text += f"{link} {self.noun(other, rng, plain=plain)} {rng.choice(VERBS[other.motion])[0]}"
        where = rng.choice(BACKGROUNDS[scene.background]) if plain or rng.random() < 0.92 else ""
        text = f"{where}, {text}" if where and rng.random() < 0.15 else f"{text} {where}"
        extras = [rng.choice(OVERLAYS[scene.overlay]), rng.choice(CAMERAS[scene.camera])]
        for extra in extras:
            if extra and (plain or rng.random() < 0.8):
                text += f"{rng.choice((',', ''))} {extra}"
        return _dressed(" ".join(text.split()), rng, plain=plain)

    def words(self) -> set[str]:
        """Every word that a caption can hold, for the text encoder's cut."""
        text = [w for e in self.entries for w in (e.name, *e.words)]
        for table in (BACKGROUNDS, CAMERAS, OVERLAYS):
            text += [p for phrases in table.values() for p in phrases]
        text += [v for verbs in VERBS.values() for pair in verbs for v in pair]
        text += ["a an the one cute little and while video animation of 3d"]
        return {w.strip(",") for t in text for w in t.lower().split()}


def _dressed(text: str, rng: random.Random, *, plain: bool) -> str:
    """Small things people add."""
    if not plain and rng.random() < 0.12:
        text = rng.choice(("a video of ", "video: ", "an animation of ", "3d animation, ")) + text
    if not plain and rng.random() < 0.2:
        text += "."
    return text[0].upper() + text[1:] if not plain and rng.random() < 0.4 else text

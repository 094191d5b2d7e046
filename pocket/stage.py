"""Turn scenes of the full world into pixels, on the CPU or a GPU: everything is drawn by `grid_sample`.

Backgrounds are drawn once by code, larger than the frame so that the camera can move over them; subjects
come from the pack. Positions are in frame heights from the middle of the frame, x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from world import BACKGROUNDS, Scene, Shape, track, view

ODD = 300
"""How many odd backgrounds there are."""
MARGIN = 1.25
"""How much larger than the frame a background is."""


# --- backgrounds ---------------------------------------------------------------------------------


class Canvas:
    """An image under the brush; u and v run over the frame from -0.5 to 0.5, and a little beyond."""

    def __init__(self, shape: Shape, device: torch.device, generator: torch.Generator) -> None:
        self.height, self.width = round(shape.height * MARGIN), round(shape.width * MARGIN)
        aspect = shape.width / shape.height
        v = (torch.arange(self.height, device=device) + 0.5) / self.height - 0.5
        u = ((torch.arange(self.width, device=device) + 0.5) / self.width - 0.5) * aspect
        self.v, self.u = torch.meshgrid(v * MARGIN, u * MARGIN, indexing="ij")
        self.reach = 0.5 * MARGIN * aspect
        self.pixel = 1 / shape.height
        self.generator = generator
        self.image = torch.zeros(3, self.height, self.width, device=device)

    def random(self, low: float = -1, high: float = 1) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def colour(self, rgb: Sequence[float]) -> Tensor:
        return torch.tensor(rgb, device=self.image.device).view(3, 1, 1) / 255

    def gradient(self, top: Sequence[float], bottom: Sequence[float], start=-0.5, end=0.5) -> None:
        t = ((self.v - start) / (end - start)).clamp(0, 1)
        self.image = self.colour(top) * (1 - t) + self.colour(bottom) * t

    def paint(self, rgb: Sequence[float], alpha: Tensor) -> None:
        self.image = torch.lerp(self.image, self.colour(rgb).expand_as(self.image), alpha)

    def soft(self, distance: Tensor, width: float = 1.5) -> Tensor:
        """0 below zero, 1 above, smooth over `width` pixels."""
        return (distance / (width * self.pixel) + 0.5).clamp(0, 1)

    def disc(self, x: float, y: float, radius: float, width: float = 2) -> Tensor:
        return self.soft(radius - torch.hypot(self.u - x, self.v - y), width)

    def ground(self, rgb: Sequence[float], level: float, height: float = 0.02, waves: float = 4) -> None:
        """All below a gently waving line."""
        line = level + height * torch.sin(waves * self.u + self.random(0, 6.3))
        self.paint(rgb, self.soft(self.v - line))

    def peak(self, rgb: Sequence[float], x: float, top: float, slope: float) -> None:
        self.paint(rgb, self.soft(self.v - top - slope * (self.u - x).abs()))

    def box(self, rgb: Sequence[float], x: float, top: float, half: float) -> None:
        self.paint(rgb, self.soft(half - (self.u - x).abs()) * self.soft(self.v - top))

    def cloud(self, x: float, y: float, size: float, alpha: float = 0.9) -> None:
        for dx, dy, part in ((-0.8, 0.1, 0.6), (0, -0.15, 0.8), (0.8, 0.1, 0.6), (0.3, 0.2, 0.7)):
            self.paint(
                (250, 252, 255), alpha * self.disc(x + dx * size, y + dy * size * 0.6, size * part * 0.7, 6)
            )

    def stars(self, count: int) -> None:
        for _ in range(count):
            x, y = self.random(-self.reach, self.reach), self.random(-0.6, 0.6)
            self.paint((240, 240, 255), self.disc(x, y, self.random(0.004, 0.012), 2))


def _beach(c: Canvas) -> None:
    c.gradient((110 + 15 * c.random(), 190, 242), (210, 238, 250), -0.5, 0)
    c.paint((255, 244, 190), c.disc(c.random(-0.4, 0.4), c.random(-0.4, -0.25), 0.07, 4))
    c.ground((45, 150, 195), -0.05 + 0.03 * c.random(), 0)
    c.ground((245, 250, 250), 0.12, 0.02)
    c.ground((240, 218 + 8 * c.random(), 172 + 10 * c.random()), 0.15, 0.02)


def _sea(c: Canvas) -> None:
    c.gradient((50, 160 + 12 * c.random(), 215), (10, 50, 120))
    for _ in range(3):
        x = c.random(-c.reach, c.reach)
        c.paint(
            (190, 240, 250), 0.25 * c.soft(0.07 - (c.u - x - 0.35 * c.v).abs(), 14) * (0.4 - c.v).clamp(0, 1)
        )
    c.ground((150, 140, 110), 0.42, 0.015, 6)


def _meadow(c: Canvas) -> None:
    c.gradient((135, 200 + 10 * c.random(), 245), (225, 242, 250), -0.5, 0.1)
    c.cloud(c.random(-0.4, 0.4), -0.35, 0.12)
    c.ground((150, 205, 120), 0.02, 0.04)
    c.ground((95 + 12 * c.random(), 175, 72), 0.12, 0.02)


def _forest(c: Canvas) -> None:
    c.gradient((170, 215, 190), (95, 150, 105), -0.5, 0.3)
    for shade in (0, 25):
        for index in range(9):
            x = (index / 8 - 0.5) * 2.2 * c.reach + 0.05 * c.random()
            c.box((95 - shade, 70 - shade / 2, 50 - shade / 2), x, -0.6, 0.018 + 0.012 * c.random(0, 1))
            c.peak((60 - shade, 120 - shade, 70 - shade), x, -0.55 + 0.1 * c.random(), 2.4)
        c.ground((90 - shade, 130 - shade, 70 - shade), 0.15 + 0.1 * (shade > 0), 0.02)


def _snow(c: Canvas) -> None:
    c.gradient((150, 185 + 10 * c.random(), 220), (225, 235, 245), -0.5, 0.1)
    for _ in range(3):
        c.peak((170, 190, 215), c.random(-c.reach, c.reach), c.random(-0.25, -0.1), 0.8)
    c.ground((246, 249, 253), 0.12, 0.025)


def _city(c: Canvas) -> None:
    c.gradient((150, 190 + 12 * c.random(), 225), (225, 225, 220), -0.5, 0.2)
    for shade in (0, 45):
        x = -c.reach
        while x < c.reach:
            half, top = c.random(0.05, 0.1), c.random(-0.4, -0.05) + shade / 400
            c.box((150 - shade, 155 - shade, 175 - shade), x, top, half)
            lights = torch.sin(110 * c.u) * torch.sin(90 * c.v)
            inside = c.soft(half - 0.015 - (c.u - x).abs()) * c.soft(c.v - top - 0.02)
            c.paint((245, 225, 160), 0.7 * inside * (lights > 0.5))
            x += 2.1 * half
    c.ground((105, 108, 115), 0.25, 0)
    c.ground((200, 200, 195), 0.36, 0)
    c.ground((105, 108, 115), 0.375, 0)


def _space(c: Canvas) -> None:
    c.gradient((8, 6, 24), (28, 14, 52))
    for rgb in ((90, 40, 130), (40, 70, 140)):
        c.paint(rgb, 0.5 * c.disc(c.random(-0.5, 0.5), c.random(-0.4, 0.4), 0.15, 90))
    c.stars(50)
    x, y = c.random(-0.4, 0.4), c.random(-0.4, 0.4)
    c.paint((220, 140 + 40 * c.random(), 90), c.disc(x, y, 0.09))
    c.paint((150, 80, 70), 0.6 * c.disc(x, y, 0.09) * c.soft(c.u - x, 12))


def _day(c: Canvas) -> None:
    c.gradient((85 + 15 * c.random(), 165, 240), (200, 230, 250))
    for _ in range(4):
        c.cloud(c.random(-c.reach, c.reach), c.random(-0.45, 0.45), c.random(0.08, 0.16))


def _night(c: Canvas) -> None:
    c.gradient((12, 16, 52), (48, 52, 120), -0.5, 0.3)
    c.stars(20)
    c.paint((250, 245, 210), c.disc(c.random(-0.4, 0.4), c.random(-0.4, -0.25), 0.08))
    c.ground((24, 36, 50), 0.28, 0.03)


def _sunset(c: Canvas) -> None:
    c.gradient((120, 70 + 10 * c.random(), 150), (255, 150, 70), -0.5, 0.15)
    c.paint((255, 225, 130), c.disc(c.random(-0.4, 0.4), 0.06, 0.12, 3))
    c.ground((110, 62, 80), 0.17, 0.02)


def _gradient(c: Canvas) -> None:
    a, b, d = ([c.random(90, 255) for _ in range(3)] for _ in range(3))
    c.gradient(a, b)
    c.paint(d, 0.8 * ((c.u / c.reach + 1) / 2).clamp(0, 1))


PLAIN = {
    "red": (214, 70, 66), "orange": (240, 150, 64), "yellow": (246, 212, 84), "green": (104, 182, 96), "blue": (84, 138, 222),
    "purple": (148, 98, 196), "pink": (244, 162, 192), "white": (244, 244, 242), "grey": (150, 152, 156),
}  # fmt: skip


def _plain(rgb: Sequence[float]) -> Callable[[Canvas], None]:
    def draw(c: Canvas) -> None:
        tint = 10 * c.random()
        c.gradient([min(255, x + 8 + tint) for x in rgb], [max(0, x - 14 + tint) for x in rgb])

    return draw


DRAW: dict[str, Callable[[Canvas], None]] = {
    "beach": _beach, "sea": _sea, "meadow": _meadow, "forest": _forest, "snow": _snow, "city": _city, "space": _space,
    "day": _day, "night": _night, "sunset": _sunset, "gradient": _gradient, **{k: _plain(v) for k, v in PLAIN.items()},
}  # fmt: skip


def draw(name: str, drawing: int, shape: Shape, device: torch.device) -> Tensor:
    """One background, (3, height, width) in 0..1; the same for the same arguments."""
    seed = sum(ord(ch) * 31**i for i, ch in enumerate(name)) % 99991 + 100003 * drawing
    canvas = Canvas(shape, device, torch.Generator().manual_seed(seed))
    DRAW[name](canvas)
    return canvas.image.clamp(0, 1)


def odd_background(shape: Shape, device: torch.device, seed: int) -> Tensor:
    """Random colours, from nearly plain to patchy, with shapes: the judge learns on them, the model never sees them."""
    c = Canvas(shape, device, torch.Generator().manual_seed(seed))
    c.gradient(
        [c.random(0, 255) for _ in range(3)], [c.random(0, 255) for _ in range(3)], -0.5, c.random(-0.2, 0.8)
    )
    noise = torch.rand(1, 3, *[(2, 3, 5, 9, 20)[seed % 5]] * 2, generator=c.generator).to(device)
    patchy = F.interpolate(noise, (c.height, c.width), mode="bicubic")[0].clamp(0, 1)
    c.image = torch.lerp(c.image, patchy, c.random(0, 1) ** 2 * 0.8)
    for _ in range(seed % 4):
        alpha = c.disc(c.random(-c.reach, c.reach), c.random(-0.5, 0.5), c.random(0.02, 0.2), 3)
        c.paint([c.random(0, 255) for _ in range(3)], alpha)
    if seed % 2:
        c.ground([c.random(0, 255) for _ in range(3)], c.random(-0.2, 0.45), 0.03, c.random(0, 12))
    if seed % 3 == 0:
        slope, top = c.random(0.3, 3), c.random(-0.4, 0.2)
        c.peak([c.random(0, 255) for _ in range(3)], c.random(-0.5, 0.5), top, slope)
    if seed % 5 == 0:
        c.stars(15)
    return c.image.clamp(0, 1)


# --- scenes --------------------------------------------------------------------------------------


class Stage:
    """Sprites and backgrounds on one device; renders batches of scenes of one shape."""

    def __init__(self, frames: Sequence[np.ndarray], drawings: int, device: torch.device) -> None:
        self.device, self.drawings = device, drawings
        self.lengths = torch.tensor([len(f) for f in frames], device=device)
        self.first = torch.cumsum(self.lengths, 0) - self.lengths
        flat = torch.from_numpy(np.concatenate(frames)).permute(0, 3, 1, 2)
        self.sprites = flat.to(device).contiguous()  # (all frames, 4, side, side) uint8
        self.plates: dict[Shape, Tensor] = {}
        self.odd: dict[Shape, Tensor] = {}

    def plates_of(self, shape: Shape) -> Tensor:
        """Every background's drawings in this shape, (backgrounds, drawings, 3, h, w) uint8."""
        if shape not in self.plates:
            images = [
                [(draw(name, i, shape, self.device) * 255).round().byte() for i in range(self.drawings)]
                for name in BACKGROUNDS
            ]
            self.plates[shape] = torch.stack([torch.stack(row) for row in images])
        return self.plates[shape]

    def odd_of(self, shape: Shape, count: int = ODD) -> Tensor:
        if shape not in self.odd:
            images = [(odd_background(shape, self.device, i) * 255).byte() for i in range(count)]
            self.odd[shape] = torch.stack(images)
        return self.odd[shape]

    @torch.no_grad()
    def render(
        self,
        scenes: Sequence[Scene],
        shape: Shape,
        *,
        window: tuple[Tensor, int] | None = None,
        pick: Tensor | None = None,
        part: tuple[float, float] = (0, 1),
        odd: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Frames (n, 3, t, h, w) in [-1, 1] and the subjects' alpha (n, t, h, w).

        Args:
            window: top left corners (n, 2) as y, x and the side of a square crop; else the whole frame.
            pick: only these frames of each clip.
            part: the part of each subject's animation that may be shown.
            odd: numbers (n,) of odd backgrounds to use instead of the scene's own.
        """
        pick = torch.arange(shape.frames) if pick is None else pick
        shots = pick.numpy()
        lens = self._stacked([view(s.camera, shape.frames)[shots] for s in scenes])  # (n, t, 2)
        world = self._pixels(len(scenes), shape, window) / lens[:, :, None, None, 1:]
        world[..., 0] = world[..., 0] + lens[:, :, None, None, 0]
        image = self._backdrop(scenes, shape, world, odd)
        cover = torch.zeros(*image.shape[:2], *image.shape[3:], device=self.device)
        for index in range(max(len(s.actors) for s in scenes)):
            colour, alpha = self._actor(scenes, index, shape, pick, world, part)
            image = image * (1 - alpha) + colour
            cover = torch.maximum(cover, alpha[:, :, 0])
        image = self._weather(scenes, pick, world, image)
        return image.transpose(1, 2) * 2 - 1, cover

    def _stacked(self, arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(self.device, torch.float32)

    def _pixels(self, count: int, shape: Shape, window: tuple[Tensor, int] | None) -> Tensor:
        """Where each pixel lies in frame heights from the middle, (n, 1, h, w, 2) as x, y."""
        corner, height, width = torch.zeros(count, 2), shape.height, shape.width
        if window is not None:
            corner, height = window
            width = height
        corner = corner.to(self.device)
        y = (torch.arange(height, device=self.device) + 0.5 + corner[:, :1]) / shape.height - 0.5
        x = (
            torch.arange(width, device=self.device) + 0.5 + corner[:, 1:]
        ) / shape.height - 0.5 * shape.width / shape.height
        return torch.stack(
            [x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1
        ).unsqueeze(1)

    def _backdrop(self, scenes: Sequence[Scene], shape: Shape, world: Tensor, odd: Tensor | None) -> Tensor:
        names = list(BACKGROUNDS)
        if odd is None:
            rows = torch.tensor([names.index(s.background) for s in scenes])
            plates = self.plates_of(shape)[rows, torch.tensor([s.drawing for s in scenes])]
        else:
            plates = self.odd_of(shape)[odd]
        aspect = shape.width / shape.height
        grid = world / MARGIN * torch.tensor([2 / aspect, 2.0], device=self.device)
        return _sampled(plates, grid)

    def _actor(
        self,
        scenes: Sequence[Scene],
        index: int,
        shape: Shape,
        pick: Tensor,
        world: Tensor,
        part: tuple[float, float],
    ) -> tuple[Tensor, Tensor]:
        """Premultiplied colour and alpha of each scene's actor `index`; nothing where it has none."""
        actors = [s.actors[min(index, len(s.actors) - 1)] for s in scenes]
        there = torch.tensor([float(len(s.actors) > index) for s in scenes], device=self.device)
        way = self._stacked([track(a, shape.frames)[pick.numpy()] for a in actors])  # (n, t, 4)
        subject = torch.tensor([a.subject for a in actors], device=self.device)
        start = torch.tensor([a.start for a in actors], device=self.device)
        length = self.lengths[subject]
        low, span = (length * part[0]).floor(), (length * (part[1] - part[0])).ceil().clamp(min=1)
        beat = ((start * span)[:, None] + pick.to(self.device)[None]).floor() % span[:, None] + low[:, None]
        rows = self.first[subject][:, None] + torch.minimum(beat.long(), length[:, None] - 1)
        d = world - way[:, :, None, None, :2]
        sin, cos = way[..., 2].sin()[..., None, None], way[..., 2].cos()[..., None, None]
        half = (way[..., 3] / 2)[..., None, None]
        mirror = torch.tensor([-1.0 if a.motion == "right" else 1.0 for a in actors], device=self.device)
        gx = (cos * d[..., 0] + sin * d[..., 1]) / half * mirror[:, None, None, None]
        gy = (cos * d[..., 1] - sin * d[..., 0]) / half
        sprite = self.sprites[rows].flatten(0, 1).float() / 255
        sprite = torch.cat([sprite[:, :3] * sprite[:, 3:], sprite[:, 3:]], 1)
        grid = torch.stack([gx, gy], -1).flatten(0, 1)
        drawn = F.grid_sample(sprite, grid, align_corners=False).unflatten(0, rows.shape)
        drawn = drawn * there[:, None, None, None, None]
        return drawn[:, :, :3], drawn[:, :, 3:]

    def _weather(self, scenes: Sequence[Scene], pick: Tensor, world: Tensor, image: Tensor) -> Tensor:
        """Falling streaks or flakes, on a lattice that moves down."""
        kind = torch.tensor(
            [("", "rain", "snowfall").index(s.overlay) for s in scenes], device=self.device
        ).view(-1, 1, 1, 1)
        if not kind.any():
            return image
        t = pick.to(self.device).view(1, -1, 1, 1) / 12
        seed = torch.arange(len(scenes), device=self.device).view(-1, 1, 1, 1) * 0.37
        rain = kind == 1
        x = world[..., 0] * torch.where(rain, 14.0, 9.0) + seed
        column = x.floor()
        fall = torch.where(rain, 2.2, 0.35) * t + (column * 0.618) % 1
        y = world[..., 1] * torch.where(rain, 3.0, 9.0) - fall * torch.where(rain, 3.0, 9.0)
        sway = 0.5 + 0.2 * torch.sin(column * 1.7 + y.floor() * 2.3)
        dx = (x - column - sway) / torch.where(rain, 14.0, 9.0)
        dy = (y - y.floor() - 0.5) / torch.where(rain, 3.0, 9.0)
        streak = (1 - dx.abs() / 0.006).clamp(0, 1) * (1 - dy.abs() / 0.05).clamp(0, 1) * 0.7
        flake = ((0.016 - torch.hypot(dx, dy)) / 0.006).clamp(0, 1) * 0.95
        alpha = torch.where(rain, streak, torch.where(kind == 2, flake, 0.0))[:, :, None]
        return image + (0.95 - image) * alpha


def _sampled(plates: Tensor, grid: Tensor) -> Tensor:
    """One plate per scene seen through each frame's grid, (n, t, 3, h, w)."""
    n, t = grid.shape[:2]
    tall = grid.expand(n, t, -1, -1, -1).flatten(1, 2)  # frames below each other
    out = F.grid_sample(plates.float() / 255, tall, padding_mode="reflection", align_corners=False)
    return out.unflatten(2, (t, -1)).transpose(1, 2)


def corners(cover: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Top left corners (n, 2) of crops aligned to cells, four in five of them over a subject."""
    n, _, height, width = cover.shape
    seen = cover.amax(1).flatten(1) + 1e-4
    target = torch.multinomial(seen.float().cpu(), 1, generator=generator)[:, 0]
    anywhere = torch.rand(n, generator=generator) < 0.2
    target = torch.where(
        anywhere,
        (torch.rand(n, generator=generator) * height * width).long().clamp(max=height * width - 1),
        target,
    )
    y, x = target // width, target % width
    y = ((y - side // 2).clamp(0, height - side) // 16) * 16
    x = ((x - side // 2).clamp(0, width - side) // 16) * 16
    return torch.stack([y, x], 1)

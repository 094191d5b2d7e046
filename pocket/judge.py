"""An independent judge: what is in a clip, where, and which way it goes.

Two small networks trained on composed frames only, never on the model's. The one that names the subject (or
`none`: nobody, a stranger, a subject whose parts are jumbled) learns on the first 60 % of every clip in front of
odd backgrounds, and is tested on the last 40 % in front of the world's own. The one that names the background
is tested on other subjects. Below 95 % there no claim is made. Look-alikes are merged by its own confusion.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from autoencoder import save
from clips import NOBODY, Clips
from presets import Setup
from torch import Tensor, nn

ENOUGH = 0.95
CONFUSED = 0.15
"""Two subjects that take this part of each other's pictures are one to the judge."""
VOTES = (0.15, 0.5, 0.85)
"""Where in a clip the three frames lie that vote."""


class Network(nn.Module):
    """Names one frame of any width, and marks where a subject is."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 6 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.Conv2d(b, b, 3, padding=1, groups=8),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            for a, b in itertools.pairwise(widths)
        )
        self.head = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(2 * widths[4], 256), nn.ReLU(), nn.Linear(256, classes)
        )
        self.mark = nn.Conv2d(widths[2] + widths[4], 1, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the classes and of the mask, at a quarter of the side."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        wide = F.interpolate(maps[3], maps[1].shape[2:], mode="bilinear")
        return self.head(pooled), self.mark(torch.cat([maps[1], wide], 1))[:, 0]


def small(x: Tensor, side: int) -> Tensor:
    """Frames (n, 3, h, w) with their height brought to `side`."""
    return F.interpolate(x, (side, round(x.shape[3] * side / x.shape[2])), mode="area")


def softened(x: Tensor, rng: random.Random) -> Tensor:
    """Blur and noise, so that softness alone is no excuse and no giveaway."""
    if rng.random() < 0.5:
        x = F.interpolate(F.avg_pool2d(x, 2), x.shape[2:], mode="bilinear")
    return x + rng.choice((0, 0, 0.05, 0.12)) * torch.randn_like(x)


@dataclass
class Judge:
    """Both networks with what they are worth."""

    clips: Clips
    side: int
    subject: Network
    place: Network
    same: dict[str, str]
    """Subject to the name of its group of look-alikes."""
    accuracy: dict[str, float]

    @torch.no_grad()
    def _vote(self, network: Network, clip: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(clip[[round(v * (len(clip) - 1)) for v in VOTES]])
        device = next(network.parameters()).device
        x = small(frames.to(device).movedim(-1, 1).float() / 127.5 - 1, self.side)
        return network(x)[0].softmax(1).sum(0).cpu().numpy()

    def name(self, clip: np.ndarray) -> str:
        """The group that three frames vote for."""
        votes = self._vote(self.subject, clip)
        names = (*self.clips.names, NOBODY)
        return self.group(names[int(votes.argmax())])

    def group(self, name: str) -> str:
        return self.same.get(name, name)

    def both(self, clip: np.ndarray) -> set[str]:
        """What the left and the right half show."""
        middle = clip.shape[2] // 2
        return {self.name(clip[:, :, :middle]), self.name(clip[:, :, middle:])}

    def where(self, clip: np.ndarray) -> str:
        return self.clips.places[int(self._vote(self.place, clip).argmax())]

    @torch.no_grad()
    def path(self, clip: np.ndarray) -> np.ndarray:
        """The middle of the marked pixels in each frame, (t, 2) as x, y in frame heights."""
        device = next(self.subject.parameters()).device
        x = small(torch.from_numpy(clip).to(device).movedim(-1, 1).float() / 127.5 - 1, self.side)
        mark = (self.subject(x)[1].sigmoid() - 0.3).clamp(min=0) + 1e-6
        height, width = mark.shape[1:]
        xs = (torch.arange(width, device=device) + 0.5) / height
        ys = (torch.arange(height, device=device) + 0.5) / height
        total = mark.sum((1, 2))
        return (
            torch.stack([(mark.sum(1) * xs).sum(1) / total, (mark.sum(2) * ys).sum(1) / total], 1)
            .cpu()
            .numpy()
        )

    def motion(self, clip: np.ndarray) -> str:
        """By the path alone: a direction, a jump, or staying."""
        x, y = self.path(clip).T
        dx, dy = x[-3:].mean() - x[:3].mean(), y[-3:].mean() - y[:3].mean()
        if max(abs(dx), abs(dy)) > 0.07:
            if abs(dx) > abs(dy):
                return "right" if dx > 0 else "left"
            return "down" if dy > 0 else "up"
        return "jump" if np.ptp(y) > 0.06 else "stay"


Batch = Callable[[bool], tuple[Tensor, Tensor, Tensor | None]]


def _lesson(setup: Setup, network: Network, batch: Batch, pool: int) -> None:
    """Train on batches drawn from a pool that is renewed all the time."""
    preset, rng = setup.preset, random.Random(11)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.02)
    x, label, mask = batch(False)
    for step in range(preset.judge_steps):
        if step % 4 == 3:
            x, label, mask = _renewed((x, label, mask), batch(False), pool)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - step / preset.judge_steps) + 1e-5
        picks = torch.randint(len(x), (64,), device=x.device)
        said, mark = network(softened(x[picks], rng))
        loss = F.cross_entropy(said, label[picks])
        if mask is not None:
            target = F.interpolate(mask[picks, None], mark.shape[1:], mode="area")[:, 0]
            loss = loss + F.binary_cross_entropy_with_logits(mark, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()


def _renewed(old: tuple, new: tuple, pool: int) -> tuple:
    """The newest `pool` examples."""
    return tuple(None if a is None else torch.cat([b, a])[:pool] for a, b in zip(old, new, strict=True))


@torch.no_grad()
def _tested(network: Network, batch: Batch, count: int) -> Tensor:
    """Pairs of truth and answer on what it has not seen, (n, 2)."""
    pairs: list[Tensor] = []
    while sum(map(len, pairs)) < count:
        x, label, _ = batch(True)
        pairs.append(torch.stack([label, network(x)[0].argmax(1)], 1).cpu())
    return torch.cat(pairs)


def merged(pairs: Tensor, names: tuple[str, ...]) -> dict[str, str]:
    """Join subjects that the judge takes for each other; `none` is never joined."""
    n = len(names)
    table = torch.zeros(n + 1, n + 1)
    table.index_put_((pairs[:, 0], pairs[:, 1]), torch.ones(len(pairs)), accumulate=True)
    rate = table / table.sum(1, keepdim=True).clamp(min=1)
    same = {name: name for name in names}
    for i, j in torch.nonzero(torch.triu((rate + rate.T) / 2, 1)[:n, :n] > CONFUSED).tolist():
        old, new = same[names[j]], same[names[i]]
        same = {k: new if v == old else v for k, v in same.items()}
    return same


def judge_of(setup: Setup, clips: Clips) -> Judge:
    """Train both networks, or read them from WORK, and test them."""
    preset = setup.preset
    count = 64 if preset.world == "small" else 256
    side, names = preset.judge_side, clips.names

    def portraits(unseen: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        x, label, mask = clips.portraits(random.Random(rng.random()), count, unseen=unseen)
        return small(x, side), label, mask

    def views(unseen: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        x, label = clips.views(random.Random(rng.random()), count, unseen=unseen)
        return small(x, side), label, None

    torch.manual_seed(11)
    judge = Judge(
        clips,
        side,
        Network(len(names) + 1, preset.judge_width),
        Network(len(clips.places), preset.judge_width),
        {},
        {},
    )
    rng = random.Random(7)
    for kind, batch in (("subject", portraits), ("place", views)):
        network: Network = getattr(judge, kind).to(setup.device)
        path = setup.work / f"judge-{preset.world}-{kind}-{side}.pt"
        if path.exists():
            network.load_state_dict(torch.load(path, weights_only=True))
            network.eval()
        else:
            _lesson(setup, network, batch, 16 * count)
            save(path, network.state_dict())
    rng.seed(8)
    tests = 4 * count if preset.world == "small" else 40 * len(names)
    pairs = _tested(judge.subject, portraits, tests)
    judge.same = merged(pairs, names)
    groups = [*(judge.group(n) for n in names), NOBODY]
    judge.accuracy["subject"] = float(np.mean([groups[a] == groups[b] for a, b in pairs.tolist()]))
    pairs = _tested(judge.place, views, tests)
    judge.accuracy["background"] = (pairs[:, 0] == pairs[:, 1]).float().mean().item()
    return judge

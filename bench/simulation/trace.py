"""What is asked of a server: kinds of jobs, whose they are, and when they come."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

LOAD_GIGABYTES_A_SECOND = 3.0
"""Of weights from the file cache to a device; reckoned."""


@dataclass(frozen=True, slots=True)
class Model:
    """What has to be on a device before it makes videos with it."""

    name: str
    #: Of all its weights, text encoder and autoencoder too.
    gigabytes: float

    @property
    def load_seconds(self) -> float:
        return self.gigabytes / LOAD_GIGABYTES_A_SECOND


MODELS = {
    model.name: model
    for model in (
        Model("pocket", 0.1),
        Model("wan-1.3b-few-steps", 14.5),
        Model("wan-1.3b", 14.5),
        Model("wan-14b-few-steps", 40.0),
        Model("wan-14b", 40.0),
    )
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of video, with what it takes of one H200 at the engine's goal of 70 % of 790 TFLOP/s (docs/simulation.md)."""

    name: str
    model: str
    num_steps: int
    step_seconds: float
    #: Text before, decoding after; both on the device.
    other_seconds: float
    #: Frames become a file: on the processor, beside the next job's steps.
    write_seconds: float
    #: Whether forwards of several are one: a device is busy with one of the others alone (`engine.company`).
    is_shared: bool = False

    @property
    def steps_seconds(self) -> float:
        return self.num_steps * self.step_seconds

    @property
    def device_seconds(self) -> float:
        return self.steps_seconds + self.other_seconds


KINDS = {
    kind.name: kind
    for kind in (
        Kind("pocket", "pocket", 12, 0.012, 0.06, 0.2, is_shared=True),
        Kind("preview", "wan-1.3b-few-steps", 4, 0.16, 0.8, 0.4),
        Kind("clip", "wan-1.3b", 50, 1.02, 2.0, 0.6),
        Kind("fine preview", "wan-14b-few-steps", 4, 3.3, 2.2, 0.6),
        Kind("fine clip", "wan-14b", 50, 6.6, 2.2, 0.6),
        Kind("720p", "wan-14b", 40, 24.5, 5.0, 1.5),
    )
}


@dataclass(frozen=True, slots=True)
class Customer:
    """Somebody with an API key.

    Args:
        share: of all device seconds that are asked for.
        mix: kinds by their share of this customer's jobs.
        batch: jobs that come at once.
    """

    name: str
    share: float
    mix: tuple[tuple[str, float], ...]
    batch: int = 1


CUSTOMERS = (
    Customer("designer", 0.09, (("preview", 0.9), ("clip", 0.1))),
    Customer("chat bot", 0.01, (("pocket", 0.3), ("preview", 0.7))),
    Customer("shop", 0.20, (("clip", 0.8), ("fine preview", 0.2))),
    Customer("agency", 0.25, (("fine preview", 0.6), ("fine clip", 0.3), ("720p", 0.1))),
    Customer("studio", 0.25, (("preview", 0.5), ("fine clip", 0.35), ("720p", 0.15))),
    Customer("archive", 0.20, (("clip", 0.9), ("preview", 0.1)), batch=10),
)


CHATS = tuple(Customer(f"chat {letter}", 0.2, (("pocket", 1.0),)) for letter in "abcde")
"""Who asks for nothing but the shortest."""


@dataclass(slots=True, eq=False)
class Job:
    """A job and, once it is done, when it was."""

    number: int
    kind: Kind
    key: str
    arrived_at: float
    #: What the server believes: learned speeds err.
    expected_seconds: float
    done_at: float = math.nan

    @property
    def took(self) -> float:
        return self.done_at - self.arrived_at


def make(
    num_jobs: int,
    num_devices: int,
    load: float,
    swing: float,
    period: float,
    seed: int,
    customers: Sequence[Customer] = CUSTOMERS,
) -> list[Job]:
    """Draw a trace of about so many jobs.

    Args:
        num_jobs: of all customers.
        num_devices: that serve them.
        load: device seconds asked for in each second and by device.
        swing: how far the load rises and falls about its mean, as a share of it: a day with a busy noon.
        period: seconds of such a day.
        seed: of all that is random.
        customers: who asks.
    """
    rng = random.Random(seed)
    rates = {customer: _jobs_a_second(customer, load * num_devices) for customer in customers}
    seconds = num_jobs / sum(rates.values())
    if swing:
        seconds = max(1, round(seconds / period)) * period
    arrivals = [
        (at, kind, customer.name)
        for customer, rate in rates.items()
        for at in _instants(rate / customer.batch, seconds, swing, period, rng)
        for kind in rng.choices([n for n, _ in customer.mix], [w for _, w in customer.mix], k=customer.batch)
    ]
    arrivals.sort()
    return [_job(number, *arrival, rng) for number, arrival in enumerate(arrivals)]


def _job(number: int, at: float, kind: str, key: str, rng: random.Random) -> Job:
    this = KINDS[kind]
    return Job(number, this, key, at, this.device_seconds * rng.lognormvariate(0.0, 0.1))


def _jobs_a_second(customer: Customer, device_seconds: float) -> float:
    total = sum(weight for _, weight in customer.mix)
    mean = sum(KINDS[name].device_seconds * weight for name, weight in customer.mix) / total
    return customer.share * device_seconds / mean


def _instants(
    rate: float, seconds: float, swing: float, period: float, rng: random.Random
) -> Sequence[float]:
    """Draw the instants of a Poisson process whose rate swings, by thinning a faster one."""
    found, at = [], 0.0
    while (at := at + rng.expovariate(rate * (1 + swing))) < seconds:
        now = 1 - swing * math.cos(2 * math.pi * at / period)
        if rng.random() * (1 + swing) < now:
            found.append(at)
    return found

"""Who goes next: properties over many random queues, simulated to the end."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from dataclasses import replace

import pytest

from vitascope.domain.arbiter import (
    AGEING,
    AHEAD_SECONDS,
    BESIDE_AFTER_SECONDS,
    BESIDE_SHARE,
    HALF_LIFE_SECONDS,
    PRIORITY_PATIENCE_SECONDS,
    UNKNOWN_SECONDS,
    WARM_PATIENCE_SECONDS,
    Candidate,
    DeviceTime,
    beside_after,
    counted,
    expected_seconds,
    faded,
    forecast,
    newcomer_waits,
    next_of,
    next_step,
    worth_beside,
)

LATELY_SECONDS = 600.0


def simulate(arrivals: list[tuple[float, Candidate]]) -> list[tuple[str, float, float]]:
    """Run jobs one at a time on one device; a key's share is counted over the last ten minutes. Returns (job, start, end)."""
    arrivals = sorted(arrivals, key=lambda arrival: arrival[0])
    waiting: list[tuple[float, Candidate]] = []
    now, done, keys = 0.0, [], []
    while arrivals or waiting:
        if not waiting:
            now = max(now, arrivals[0][0])
        while arrivals and arrivals[0][0] <= now:
            waiting.append(arrivals.pop(0))
        served: dict[str, float] = defaultdict(float)
        for key, (_, start, end) in zip(reversed(keys), reversed(done), strict=True):
            if end < now - LATELY_SECONDS:
                break
            served[key] += end - max(start, now - LATELY_SECONDS)
        chosen = next_of([replace(candidate, waited_seconds=now - at) for at, candidate in waiting], served)
        assert chosen is not None, "work-conserving: nobody waits beside an idle device"
        waiting = [entry for entry in waiting if entry[1].job_id != chosen.job_id]
        seconds = UNKNOWN_SECONDS if chosen.seconds is None else chosen.seconds
        done.append((chosen.job_id, now, now + seconds))
        keys.append(chosen.key)
        now += seconds
    return done


def job(name: str, key: str = "a", seconds: float | None = 10.0, **more: object) -> Candidate:
    return Candidate(name, key, "m", seconds, 0.0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_lost_and_nothing_runs_twice(seed: int) -> None:
    rng = random.Random(seed)
    arrivals = [
        (
            rng.uniform(0, 500),
            job(
                str(n),
                rng.choice("abc"),
                rng.choice([None, 1.0, 10.0, 100.0]),
                priority=rng.choice([0, 0, 1]),
            ),
        )
        for n in range(100)
    ]
    done = simulate(arrivals)
    assert sorted(name for name, _, _ in done) == sorted(candidate.job_id for _, candidate in arrivals)


@pytest.mark.parametrize("seed", range(5))
def test_a_flood_delays_another_keys_single_job_by_the_running_one_only(seed: int) -> None:
    rng = random.Random(seed)
    flood = [(0.0, job(f"flood{n}", "flood", rng.uniform(1, 60))) for n in range(120)]
    at = rng.uniform(100, 3000)
    done = simulate([*flood, (at, job("single", "other", 30.0))])
    start = next(start for name, start, _ in done if name == "single")
    running_ends = min(end for name, begin, end in done if begin <= at < end)
    assert start <= running_ends + 1e-9


def test_no_job_starves_under_a_stream_of_shorter_ones() -> None:
    stream = [(float(n), job(f"short{n}", "a", 1.0)) for n in range(1300)]
    done = simulate([(0.0, job("long", "a", 600.0)), *stream])
    start = next(start for name, start, _ in done if name == "long")
    assert start <= 600.0 / AGEING + 2, "after so long its age has paid for its length"


def test_keys_share_the_device_evenly() -> None:
    arrivals = [
        (0.0, job(f"{key}{n}", key, seconds))
        for key, seconds in (("a", 1.0), ("b", 10.0))
        for n in range(200)
    ]
    served: dict[str, float] = defaultdict(float)
    for name, start, end in simulate(arrivals):
        if end > 390:
            break
        served[name[0]] += end - start
    assert served["a"] == pytest.approx(served["b"], rel=0.05)


def test_shorter_first_then_older_first() -> None:
    assert next_of([job("long", seconds=50), job("short", seconds=5)], {}) == job("short", seconds=5)
    older = replace(job("b"), waited_seconds=1.0)
    assert next_of([job("a"), older], {}) == older
    assert next_of([], {}) is None


def test_priority_goes_first() -> None:
    urgent = job("urgent", "busy", 500.0, priority=1)
    assert next_of([job("a", "idle", 1.0), urgent], {"busy": 1e6}) == urgent


def test_a_loaded_model_overtakes_within_patience() -> None:
    cold = Candidate("cold", "a", "cold", 1.0, 0.0)
    warm = Candidate("warm", "a", "warm", 50.0, 0.0)
    loaded = frozenset({"warm"})
    assert next_of([cold, warm], {}, loaded) == warm
    patient = replace(cold, waited_seconds=WARM_PATIENCE_SECONDS)
    assert next_of([patient, warm], {}, loaded) == patient
    other_key = replace(warm, key="b")
    assert next_of([cold, other_key], {"b": 5.0}, loaded) == cold, "fairness between keys comes before warmth"


def test_urgent_work_does_not_hold_the_rest_off_for_ever() -> None:
    urgent = [(n * 20.0, job(f"urgent{n}", "a", 20.0, priority=1)) for n in range(200)]
    done = simulate([(0.0, job("patient", "b", 20.0)), *urgent])
    start = next(start for name, start, _ in done if name == "patient")
    assert PRIORITY_PATIENCE_SECONDS <= start <= PRIORITY_PATIENCE_SECONDS + 40


def test_an_old_flood_is_no_more_urgent_than_a_single_new_job() -> None:
    flood = [replace(job(f"old{n}", "flood"), waited_seconds=5000.0) for n in range(5)]
    single = job("new", "other", 500.0)
    assert next_of([*flood, single], {"flood": 100.0}) == single


@pytest.mark.parametrize("seed", range(20))
def test_a_forecast_is_what_then_happens(seed: int) -> None:
    rng = random.Random(seed)
    waiting = [
        replace(
            job(str(n), rng.choice("abc"), rng.choice([None, 1.0, 10.0, 100.0])),
            waited_seconds=rng.uniform(0, 500),
            priority=rng.choice([0, 0, 1]),
        )
        for n in range(60)
    ]
    served = {"a": rng.uniform(0, 300), "b": 10.0}
    turns = forecast(waiting, served, [5.0])
    now = 5.0
    for position in range(1, 61):
        chosen = next_of(waiting, served)
        assert chosen is not None
        turn = turns[chosen.job_id]
        assert turn.position == position
        assert turn.starts_in == pytest.approx(now)
        now += expected_seconds(chosen)
        assert turn.ends_in == pytest.approx(now)
        served[chosen.key] = served.get(chosen.key, 0.0) + expected_seconds(chosen)
        waiting.remove(chosen)


def test_a_forecast_fills_all_devices_and_knows_no_time_without_one() -> None:
    waiting = [job(str(n), seconds=10.0) for n in range(3)]
    two = forecast(waiting, {}, [0.0, 4.0])
    assert [(turn.starts_in, turn.ends_in) for turn in two.values()] == [
        (0.0, 10.0),
        (4.0, 14.0),
        (10.0, 20.0),
    ]
    none = forecast(waiting, {}, [])
    assert [(turn.position, turn.starts_in) for turn in none.values()] == [(1, None), (2, None), (3, None)]
    assert forecast([], {}, [0.0]) == {}


def test_what_was_had_long_ago_counts_less() -> None:
    assert faded(80.0, HALF_LIFE_SECONDS) == pytest.approx(40.0)
    assert faded(80.0, -5.0) == 80.0


def test_who_comes_now_waits_until_a_device_is_free_for_good() -> None:
    queue = [Candidate(f"j{number}", "", "small", 10.0, 0.0) for number in range(3)]
    for free_in, waits in (
        ([0.0], 30.0),
        ([0.0, 5.0], 15.0),
        ([100.0, 0.0], 30.0),
        ([0.0] * 5, 0.0),
        ([], None),
    ):
        assert newcomer_waits(forecast(queue, {}, free_in), free_in) == waits


def test_a_much_shorter_job_passes_at_a_step_and_the_long_one_then_goes_on() -> None:
    long, short = job("long", seconds=500.0), job("short", seconds=5.0)
    assert next_step([long, short], {"a": 100.0}, "long") == short
    assert next_step([long], {"a": 105.0}, "short") == long


@pytest.mark.parametrize("num_keys", [2, 3, 4])
def test_equal_jobs_of_several_keys_are_made_one_after_the_other(num_keys: int) -> None:
    """In rotation all would end together, at the very end."""
    left = dict.fromkeys("abcd"[:num_keys], 20.0)
    served, waited, ends = dict.fromkeys(left, 0.0), dict.fromkeys(left, 0.0), []
    last, now = None, 0.0
    while left:
        opened = [
            replace(job(key, key, seconds), waited_seconds=waited[key]) for key, seconds in left.items()
        ]
        last = next_step(opened, served, last).job_id
        now += 1.0
        for key in left:
            waited[key] += key != last
        left[last] -= 1.0
        served[last] += 1.0
        if not left[last]:
            ends.append(now)
            del left[last]
    assert ends == [20.0 * (n + 1) for n in range(num_keys)]


def test_a_key_that_had_much_does_not_pass_one_that_had_little() -> None:
    long, short = job("long", "other", 100.0), job("short", "flood", 5.0)
    assert next_step([long, short], {"flood": 300.0}, "long") == long
    assert next_step([long, short], {"flood": 10.0}, "long") == short


def test_priority_goes_first_among_open_jobs() -> None:
    urgent, short = job("urgent", seconds=500.0, priority=1), job("short", seconds=5.0)
    assert next_step([urgent, short], {}, "short") == urgent


def test_urgent_work_does_not_hold_an_open_job_off_for_ever() -> None:
    """Jobs of a higher priority may come one after the other; in the queue it would have risen meanwhile."""
    young = job("batch", key="b", seconds=30.0)
    batch = replace(young, waited_seconds=PRIORITY_PATIENCE_SECONDS - 1)
    urgent = job("urgent", key="a", seconds=60.0, priority=1)
    assert next_step([batch, urgent], {}, "urgent") == urgent
    tired = replace(batch, waited_seconds=PRIORITY_PATIENCE_SECONDS + 1)
    assert next_step([tired, urgent], {}, "urgent") == tired
    assert next_step([tired, urgent], {"b": 100.0}, "urgent") == urgent, "but it has no more than its share"


def test_who_works_stays_where_little_is_gained() -> None:
    assert next_step([job("a", seconds=10.0), job("b", seconds=9.8)], {}, "a").job_id == "a"
    assert next_step([job("a", seconds=100.0), job("b", seconds=95.0)], {}, "a").job_id == "a"
    assert next_step([job("a", seconds=100.0), job("b", seconds=80.0)], {}, "a").job_id == "b"
    assert next_step([job("a", seconds=10.0), job("b", seconds=9.8)], {}).job_id == "b"


def test_who_stood_still_long_enough_is_passed_no_more() -> None:
    patient = replace(job("long", seconds=100.0), waited_seconds=100.0)
    assert next_step([patient, job("short", seconds=5.0)], {}, "short") == job("short", seconds=5.0)
    tired = replace(patient, waited_seconds=100.0 + 100.0 / AGEING)
    assert next_step([tired, job("short", seconds=5.0)], {}, "short") == tired


def test_what_is_begun_beside() -> None:
    long = job("long", seconds=100.0)
    patient = replace(job("short", seconds=10.0), waited_seconds=beside_after(10.0))
    served = {"a": 100.0}
    assert worth_beside(job("any", seconds=1e6), [], {}), "nobody needs the device"
    assert worth_beside(patient, [long], served)
    assert not worth_beside(replace(patient, waited_seconds=0.0), [long], served), (
        "perhaps another device is idle"
    )
    assert not worth_beside(replace(patient, seconds=100.0 * BESIDE_SHARE + 1), [long], served)
    assert not worth_beside(patient, [long, job("other", seconds=12.0)], served), "it would wait for that one"
    assert worth_beside(replace(patient, seconds=100.0), [long], served, may_share=True)
    assert worth_beside(replace(patient, seconds=500.0, priority=1), [long], served)
    assert not worth_beside(patient, [replace(long, priority=1)], served, may_share=True)


def test_the_longer_a_job_the_longer_it_waits_for_an_idle_device() -> None:
    """Unless it is more urgent, or makes what is open there cheaper."""
    running, served = [job("film", seconds=1000.0)], {"a": 100.0}
    for seconds in (0.1, 1.0, 10.0, 100.0):
        young = replace(job("new", seconds=seconds), waited_seconds=beside_after(seconds) - 0.01)
        assert not worth_beside(young, running, served)
        assert worth_beside(replace(young, waited_seconds=beside_after(seconds)), running, served)
    enough = replace(job("clip", seconds=100.0), waited_seconds=BESIDE_AFTER_SECONDS)
    assert not worth_beside(enough, running, served)
    assert worth_beside(enough, running, served, may_share=True)
    assert worth_beside(replace(enough, priority=1), running, served)
    assert beside_after(0.0) == BESIDE_AFTER_SECONDS


def test_what_its_key_had_keeps_a_short_job_from_passing_anothers() -> None:
    other = job("other", "b", 60.0)
    short = replace(job("short", "flood", 5.0), waited_seconds=5000.0)
    assert not worth_beside(short, [other], {"flood": 300.0, "b": 60.0})
    assert worth_beside(short, [other], {"flood": 100.0, "b": 60.0})


@pytest.mark.parametrize("seed", range(20))
def test_at_most_a_few_are_open_on_a_device(seed: int) -> None:
    """Each is at most half as long as what is left of the shortest."""
    rng = random.Random(seed)
    opened = [job("first", seconds=1000.0)]
    for n in range(1000):
        new = replace(job(str(n), rng.choice("abc"), rng.uniform(1, 1000)), waited_seconds=1000.0)
        if worth_beside(new, opened, {}):
            opened.append(new)
    assert len(opened) <= 11
    lengths = [expected_seconds(candidate) for candidate in opened]
    assert all(later <= BESIDE_SHARE * earlier for earlier, later in itertools.pairwise(lengths))


def test_a_key_that_comes_anew_to_a_device_has_neither_debt_nor_credit() -> None:
    time = DeviceTime()
    time.begin("a", set())
    time.work("a", 1000.0)
    time.begin("b", {"a"})
    assert time.served_seconds == {"a": 1000.0, "b": 1000.0}
    time.work("b", 10.0)
    time.begin("b", {"a", "b"})
    assert time.served_seconds["b"] == 1010.0, "it was there"
    time.begin("c", {"a", "b"})
    assert time.served_seconds["c"] == 1000.0
    time.begin("b", set())
    assert time.served_seconds["b"] == 1010.0


def test_a_long_job_counts_as_many_short_ones() -> None:
    """Else who makes long ones would get less: what short ones had fades while a long one runs."""
    shorts = 0.0
    for _ in range(1000):
        shorts = faded(shorts, 1.0) + counted(1.0)
    assert counted(1000.0) == pytest.approx(shorts, rel=0.01)
    assert counted(0.0, 1e6) == AHEAD_SECONDS
    assert counted(10.0, -5.0) == counted(10.0)

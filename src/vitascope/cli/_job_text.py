"""What a job of the native API looks like in words. A job is the API's JSON object; unknown members are shown as they are."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from ._terminal import STAGE_WORDS, printable

FINAL = frozenset({"succeeded", "failed", "cancelled"})

COLORS = {"queued": "cyan", "running": "yellow", "succeeded": "green", "failed": "red", "cancelled": "dim"}

Job = dict[str, Any]

#: Members that `detail_rows` puts into words; any other is shown under its own name.
_WORDED = frozenset(
    """
    id status cancel_requested progress stage attempt queue_position eta_seconds model mode prompt enhance_prompt enhanced_prompt negative_prompt height
    width num_frames fps duration_seconds num_inference_steps guidance_scale scheduler seed num_videos format metadata user choices
    seconds_by_stage created_at started_at finished_at expires_in_seconds expires_at expired_at error video videos failed_videos
    """.split()
)


def one_line(text: object) -> str:
    """Show a client's text in one line, without anything that a terminal would obey."""
    return printable(" ".join(str(text).split()))


def duration(seconds: float) -> str:
    """Say a duration in its two largest units at most: 8 s, 3 min, 2 h 5 min, 4 days."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} days"


def age(job: Job) -> str:
    return duration(_seconds_since(job["created_at"]))


def _seconds_since(instant: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(instant)).total_seconds()


def size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"


def progress(job: Job) -> str:
    """Say where a job stands: percent if it runs, its place if it waits, nothing if it has ended."""
    if job["status"] == "running":
        return f"{job['progress']} %"
    if job["status"] == "queued" and job.get("queue_position") is not None:
        return f"no. {job['queue_position']}"
    return ""


def wait(job: Job) -> str:
    """Say when it will be ready, if the server does."""
    eta = job.get("eta_seconds")
    return "" if eta is None or job["status"] in FINAL else f"ready in about {duration(eta)}"


def status_words(job: Job) -> str:
    """Say all that is known of where a job stands, in one line."""
    words = [job["status"]]
    if job["status"] == "running":
        words += [f"{job['progress']} %", STAGE_WORDS.get(job["stage"], job["stage"])]
        if job.get("cancel_requested"):
            words.append("asked to stop")
    if job["status"] == "queued" and job.get("queue_position") is not None:
        words.append(f"no. {job['queue_position']} in the queue")
    words.append(wait(job))
    if job.get("attempt", 0) > 1:
        words.append(f"attempt {job['attempt']}")
    return ", ".join(printable(word) for word in words if word)


def outcome(job: Job) -> str:
    """Say in one line how a job has ended."""
    words = [job["status"]]
    if error := job.get("error"):
        words.append(f"{error.get('code')}: {error.get('message')}")
    if video := job.get("video"):
        length = f"{video['duration_seconds']:.2f} s at {video['fps']} fps"
        made = _videos(job)
        count = [f"{len(made)} of {job['num_videos']} videos"] if job.get("num_videos", 1) > 1 else []
        num_bytes = sum(one["num_bytes"] for one in made)
        words += [*count, f"{video['width']}x{video['height']}", length, size(num_bytes)]
    if job.get("started_at") and job.get("finished_at"):
        begun, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
        seconds = (ended - begun).total_seconds()
        words.append(f"took {seconds:.1f} s" if seconds < 10 else f"took {duration(seconds)}")
    return one_line(", ".join(words))


def detail_rows(job: Job, server_url: str) -> list[tuple[str, str]]:
    """List all that is known of a job as names and texts; texts may have several lines."""
    rows = [("id", job["id"]), ("status", status_words(job)), ("prompt", _text(job["prompt"]))]
    if job.get("enhanced_prompt"):
        rows.append(("written out", _text(job["enhanced_prompt"])))
    if job.get("negative_prompt"):
        rows.append(("not wanted", _text(job["negative_prompt"])))
    rows += [("model", f"{job['model']}, from {job.get('mode', '?')}"), ("video", _asked(job))]
    rows += [("made with", _made_with(job)), ("seed", _seeds(job))]
    rows += [
        (name.removesuffix("_at"), _instant(job[name]))
        for name in ("created_at", "started_at", "finished_at")
        if job.get(name)
    ]
    if kept := _kept(job):
        rows.append(("kept", kept))
    if job.get("error"):
        rows.append(("error", f"{job['error'].get('code')}: {job['error'].get('message')}"))
    rows += [("file", _file(video, server_url)) for video in _videos(job)]
    rows += [
        ("not made", f"{failed['index']}: {failed['code']}: {failed['message']}")
        for failed in job.get("failed_videos") or ()
    ]
    rows += [("choice", f"{c['name']}: {c['value']} ({c['reason']})") for c in job.get("choices", ())]
    if job.get("seconds_by_stage"):
        rows.append(("seconds", ", ".join(f"{k} {v:.2f}" for k, v in job["seconds_by_stage"].items())))
    rows += [(name, json.dumps(job[name])) for name in ("user", "metadata") if job.get(name)]
    rows += [
        (name, json.dumps(value))
        for name, value in job.items()
        if name not in _WORDED and value not in (None, "", [], {})
    ]
    return [(one_line(name), "\n".join(printable(line) for line in text.split("\n"))) for name, text in rows]


def _videos(job: Job) -> list[dict[str, Any]]:
    """All that were made; an older server shows one only."""
    return job.get("videos") or ([job["video"]] if job.get("video") else [])


def _text(prompt: str) -> str:
    return "\n".join(prompt.splitlines())


def _asked(job: Job) -> str:
    seconds = job.get("duration_seconds", 0)
    frames = f"{job.get('num_frames')} frames at {job.get('fps')} fps ({seconds:.2f} s)"
    count = f"{job['num_videos']} times " if job.get("num_videos", 1) > 1 else ""
    return f"{count}{job.get('width')}x{job.get('height')}, {frames}, {job.get('format')}"


def _seeds(job: Job) -> str:
    seed, count = job.get("seed"), job.get("num_videos", 1)
    return str(seed) if count == 1 else f"{seed} and the {count - 1} that follow"


def _made_with(job: Job) -> str:
    scheduler = f", {job['scheduler']}" if job.get("scheduler") else ""
    improved = job.get("improved_sampling")
    rounds = f"{improved['iterations']} times " if improved else ""
    speed = f", {job['speed']}" if job.get("speed", "lossless") != "lossless" else ""
    return f"{rounds}{job.get('num_inference_steps')} steps, guidance {job.get('guidance_scale')}{scheduler}{speed}"


def _instant(text: str) -> str:
    local = datetime.fromisoformat(text).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S} ({duration(_seconds_since(text))} ago)"


def _kept(job: Job) -> str:
    """Say until when a job's files are there."""
    if job.get("expired_at"):
        return f"no more: removed {_instant(job['expired_at'])}"
    if job.get("expires_at"):
        left = -_seconds_since(job["expires_at"])
        until = f"{datetime.fromisoformat(job['expires_at']).astimezone():%Y-%m-%d %H:%M:%S}"
        return f"until {until} (for {duration(left)} more)" if left > 0 else f"until {until}: no more"
    if seconds := job.get("expires_in_seconds"):
        return f"for {duration(seconds)} once it has ended"
    return ""


def _file(video: dict[str, Any], server_url: str) -> str:
    facts = f"{video['width']}x{video['height']}, {video['num_frames']} frames at {video['fps']} fps, {size(video['num_bytes'])}"
    return f"{server_url}{video['url']}\n{facts}, {video['media_type']}, SHA-256 {video['sha256']}"

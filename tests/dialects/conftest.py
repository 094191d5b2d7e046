"""A real server on a loopback port, over a real store and storage; a tiny worker in place of an engine."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from vitascope import app, settings
from vitascope.domain.cost import Speed
from vitascope.domain.job import Job, JobError, Lease
from vitascope.domain.video import Picture, Video
from vitascope.settings import Settings
from vitascope.storage import Storage
from vitascope.store import Store

CARD = """
id = "small"
source = "folder:/nowhere"
pipeline = "WanPipeline"
modes = { text = "WanPipeline", image = "WanImageToVideoPipeline" }
size = { native = ["96x64"], multiple = 32, max_pixels = 0 }
frames = { multiple = 4, offset = 1, minimum = 5, maximum = 17, default = 17 }
fps = 8
steps = { default = 12, minimum = 1, maximum = 100 }
guidance = { default = 4.0, minimum = 1.0, maximum = 20.0 }
schedulers = ["UniPCMultistepScheduler"]
aliases = ["sora-2", "sora-2-pro"]
"""

SHORT_CARD = """
id = "short"
source = "folder:/nowhere"
pipeline = "WanPipeline"
modes = { text = "WanPipeline" }
size = { native = ["96x64"], multiple = 32, max_pixels = 0 }
frames = { multiple = 4, offset = 1, minimum = 5, maximum = 17, default = 17 }
fps = 8
steps = { default = 12, minimum = 1, maximum = 100 }
guidance = { default = 4.0, minimum = 1.0, maximum = 20.0 }
"""

EVERY_CARD = """
id = "every"
source = "folder:/nowhere"
pipeline = "WanPipeline"
modes = { text = "A", image = "B", last_image = "C", video = "D", reference = "E" }
size = { native = ["96x64"], multiple = 32, max_pixels = 0 }
frames = { multiple = 4, offset = 1, minimum = 5, maximum = 17, default = 17 }
fps = 8
steps = { default = 12, minimum = 1, maximum = 100 }
guidance = { default = 4.0, minimum = 1.0, maximum = 20.0 }
strength = { default = 0.6, minimum = 0.1, maximum = 0.9 }
clip_layers = 12
"""

CONTENT = bytes(range(256)) * 40


def content_of(number: int) -> bytes:
    """A job's files are of one size and differ: three of each video, the video first."""
    return CONTENT[number:] + CONTENT[:number]


@dataclass
class Server:
    """A running server, and what the tests look at behind it."""

    url: str
    settings: Settings
    store: Store
    files: Storage
    client: httpx.Client
    folder: Path
    _stop: threading.Event = field(default_factory=threading.Event)
    _workers: list[threading.Thread] = field(default_factory=list)

    def finish(self, lease: Lease, speed: Speed | None = None) -> None:
        """Put files and end the job with them."""
        videos = [self._put_video(lease.job, index) for index in range(lease.job.plan.num_videos)]
        self.store.succeed(
            lease, videos, {"choices": [], "seconds": {"denoise": 1.0}}, speed=speed, device="cpu"
        )

    def _put_video(self, job: Job, index: int) -> Video:
        plan = job.plan
        stem = f"videos/{job.id}" if index == 0 else f"videos/{job.id}.{index}"
        pictures = {
            "thumbnail": (f"{stem}.thumbnail.webp", "image/webp"),
            "spritesheet": (f"{stem}.spritesheet.jpg", "image/jpeg"),
        }
        return Video(
            index=index,
            media_type={"mp4": "video/mp4", "gif": "image/gif"}[plan.format],
            height=plan.height,
            width=plan.width,
            num_frames=plan.num_frames,
            fps=plan.fps,
            **self._put(f"{stem}.{plan.format}", 3 * index),
            **{
                name: Picture(media_type=kind, height=64, width=96, **self._put(key, 3 * index + number))
                for number, (name, (key, kind)) in enumerate(pictures.items(), 1)
            },
        )

    def _put(self, key: str, number: int) -> dict[str, Any]:
        key = self.files.key_for_new(key)
        path = self.folder / "file.part"
        path.write_bytes(content_of(number))
        self.files.put(path, key)
        return {"key": key, "num_bytes": len(CONTENT), "sha256": f"c0ffee{number or ''}"}

    def claim(self) -> Lease:
        lease = self.store.claim("test", 60)
        assert lease is not None
        return lease

    def start_worker(self) -> None:
        """Work in a thread: half, then all; a prompt of "fail" fails."""

        def work() -> None:
            while not self._stop.is_set():
                lease = self.store.claim("test", 60)
                if lease is None:
                    self._stop.wait(0.01)
                elif lease.job.request.prompt == "fail":
                    self.store.fail(lease, JobError("out_of_memory", "The device ran out of memory."))
                else:
                    self.store.report(lease, 50, "denoise")
                    self._stop.wait(0.7)  # longer than the SDK waits between two looks
                    self.finish(lease)

        self._workers.append(threading.Thread(target=work))
        self._workers[-1].start()

    def stop(self) -> None:
        self._stop.set()
        for worker in self._workers:
            worker.join()


class Servers:
    """Starts servers; each has a data folder of its own."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._running: list[tuple[Server, uvicorn.Server, threading.Thread]] = []

    def __len__(self) -> int:
        return len(self._running)

    def __call__(self, **sections: dict[str, object]) -> Server:
        folder = self._folders.mktemp("server")
        (folder / "cards").mkdir()
        (folder / "cards" / "small.toml").write_text(CARD)
        (folder / "cards" / "short.toml").write_text(SHORT_CARD)
        (folder / "cards" / "every.toml").write_text(EVERY_CARD)
        loaded = settings.load(home=folder, **{"engine": {"default_model": "small"}, **sections})
        web = uvicorn.Server(
            uvicorn.Config(
                app.create_web_app(loaded),
                log_config=None,
                access_log=False,
                ws="none",
                timeout_keep_alive=app.server.KEEP_ALIVE_SECONDS,
            )
        )
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]})
        thread.start()
        client = httpx.Client(base_url=url, trust_env=False, timeout=60)
        assert client.get("/livez").status_code == 200  # the socket listens: this waits for the start
        store = app.open_store(loaded)
        server = Server(url, loaded, store, app.open_places(loaded, store), client, folder)
        self._running.append((server, web, thread))
        return server

    def stop(self, kept: int = 0) -> None:
        """Stop all but the first ones."""
        stopped, self._running = self._running[kept:], self._running[:kept]
        for _, web, _ in stopped:
            web.should_exit = True
        for server, _, thread in stopped:
            server.stop()
            server.client.close()
            server.store.close()
            thread.join()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory)
    yield servers
    servers.stop()


@pytest.fixture(autouse=True)
def _stop_what_the_test_has_started(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each server asks its database for work all the time: hundreds of them kept two cores busy. A module's own stay."""
    servers = request.getfixturevalue("serve") if "serve" in request.fixturenames else None
    kept = 0 if servers is None else len(servers)
    yield
    if servers is not None:
        servers.stop(kept)


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server]) -> Server:
    """One server for the tests of a module; nothing works there but what a test does itself."""
    return serve()


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """A server as `vitascope web` runs it; its address."""
    servers: list[uvicorn.Server] = []
    started = threading.Event()

    class Watched(app.server._Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            servers.append(self)
            started.set()

    monkeypatch.setattr(app.server, "_Server", Watched)
    with caplog.at_level(logging.INFO, logger="vitascope.app"):
        thread = threading.Thread(
            target=app.run_web, args=(settings.load(home=tmp_path, server={"port": 0}),)
        )
        thread.start()
        assert started.wait(30)
    (record,) = [record for record in caplog.records if record.message == "listening"]
    yield record.url  # type: ignore[attr-defined]
    servers[0].should_exit = True
    thread.join()

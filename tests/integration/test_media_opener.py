"""What strangers send is opened in another process, which has nothing and can do nothing."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from vitascope import media
from vitascope.domain.errors import QueueFull, UnreadableImage
from waiting import eventually


def photo(height: int = 24, width: int = 32, format: str = "PNG", **options: object) -> bytes:
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 8, columns * 6, 255 - rows * 4 - columns * 3], axis=-1).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format, **options)
    return content.getvalue()


@pytest.fixture
def opener() -> Iterator[media.Opener]:
    opener = media.Opener(media.Limits(processes=1))
    yield opener
    opener.close()


def process_of(opener: media.Opener) -> psutil.Process:
    """The opening process of an opener that is not busy."""
    return psutil.Process(opener._idle[0]._process.pid)


def test_the_server_loads_no_decoder_to_store_a_picture(tmp_path: Path) -> None:
    """In a process of its own, as the tests' process has long loaded them."""
    (tmp_path / "photo").write_bytes(photo())
    program = f"""
import sys
from pathlib import Path
import vitascope.app
from vitascope import media
picture = media.open_picture(Path({str(tmp_path / "photo")!r}).read_bytes(), size=(8, 8))
Path({str(tmp_path / "out.png")!r}).write_bytes(picture.to_png())
loaded = sorted({{name.split(".")[0] for name in sys.modules}} & {{"PIL", "av", "torch"}})
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    with Image.open(tmp_path / "out.png") as stored:
        assert (stored.size, stored.mode) == ((8, 8), "RGB")


def test_our_png_keeps_every_pixel(opener: media.Opener) -> None:
    picture = opener.open_picture(photo())
    with Image.open(io.BytesIO(picture.to_png())) as written:
        assert np.array_equal(np.asarray(written), picture.frame())


def test_pictures_cover_the_size_that_is_asked_for(opener: media.Opener) -> None:
    whole = opener.open_picture(photo(240, 320)).frame()
    for format in ("PNG", "WEBP"):
        small = opener.open_picture(photo(240, 320, format, lossless=True), size=(60, 60)).frame()
        shown = media.fit_frame(whole, height=60, width=60, fit="crop")
        difference = np.abs(small.astype(int) - shown)  # Pillow and FFmpeg round differently
        assert difference.mean() < 1.5
    jpeg = opener.open_picture(photo(960, 1280, "JPEG", quality=95), size=(60, 60)).frame()
    assert jpeg.shape == (60, 60, 3), "decoded at a fraction of its size"


def test_a_turned_photo_covers_its_size_upright(opener: media.Opener) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for format in ("PNG", "JPEG", "WEBP"):
        upright = opener.open_picture(photo(40, 80, format, exif=exif)).frame()
        assert upright.shape == (80, 40, 3)
        small = opener.open_picture(photo(40, 80, format, exif=exif), size=(20, 10)).frame()
        assert np.abs(small.astype(int) - upright[::4, ::4]).mean() < 24


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"%PDF-1.7\n", "a PDF document"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG file"),
        (b"\xef\xbb\xbf <svg/>", "an SVG file"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"#EXTM3U\n#EXT-X-VERSION:3\nfile:///etc/passwd\n", "a playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "a playlist"),
        (b'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>', "a playlist"),
        (b"II*\0" + bytes(8), "a TIFF file"),
        (b"8BPS" + bytes(8), "a Photoshop file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a PostScript file"),
        (b"PK\x03\x04" + bytes(30), "an archive"),
        (bytes(257) + b"ustar\0" + bytes(250), "an archive"),
        (b"\x1f\x8b\x08", "an archive"),
        (b"\0\0\0\x18ftypheic", "a HEIC picture"),
        (b"\0\0\0\x18ftypavif", "an AVIF picture"),
        (b"\0\0\0\x18ftypisom", "a video"),
        (b"\x7fELF", "a program"),
    ],
)
def test_other_files_are_refused_by_name_before_any_process_sees_them(
    opener: media.Opener, content: bytes, what: str
) -> None:
    with pytest.raises(UnreadableImage, match=f"^the file is {what}.*, not a picture") as caught:
        opener.open_picture(content)
    assert caught.value.hint == "send a PNG, JPEG, WebP or GIF file"
    assert opener.started == 0


@pytest.mark.parametrize(
    "behind",
    [
        b"PK\x05\x06" + bytes(18),
        b"<script>alert(1)</script>",
        b"<?PHP system('id'); ?>",
        b'<svg xmlns="http://www.w3.org/2000/svg">',
        b"#EXTM3U\n",
        b"Rar!\x1a\x07\0",
    ],
)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF"])
def test_polyglots_are_refused(opener: media.Opener, format: str, behind: bytes) -> None:
    with pytest.raises(UnreadableImage, match="a picture and something else at once"):
        opener.open_picture(photo(format=format) + behind)
    with pytest.raises(UnreadableImage, match="a picture and something else at once"):
        opener.open_picture(photo(format="JPEG", comment=b"%PDF-1.4 "))


def test_what_phones_put_behind_a_photo_is_left_out(opener: media.Opener) -> None:
    moving = photo(format="JPEG") + b"\0\0\0\x18ftypisom" + os.urandom(5000)
    assert opener.open_picture(moving).height == 24


def test_one_process_reads_many_files_each_in_a_fork(opener: media.Opener) -> None:
    for _ in range(20):
        opener.open_picture(photo())
    assert opener.started == 1
    assert process_of(opener).children() == []


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="it lets nobody but root look into it"
)
def test_the_process_has_nothing(opener: media.Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITASCOPE_API_KEY", "secret")
    with Path(__file__).open("rb") as mine:  # a descriptor that must not be inherited
        os.set_inheritable(mine.fileno(), True)
        opener.open_picture(photo())
    process = process_of(opener)
    assert set(process.environ()) <= {"PYTHONPATH", "LC_ALL"}
    assert not Path(process.cwd()).exists()
    assert process.open_files() == []
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Threads:\t1" in status
    assert process.num_fds() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux knows them")
def test_a_fork_can_open_nothing_and_start_nothing() -> None:
    """As an attacker who runs code in a decoder would try; here the code stands in for the decoder."""
    program = """
import os, socket, resource, signal
from vitascope.media import opening_process
opening_process._limit({"seconds": 5, "memory_bytes": 512 << 20})
for attempt in (lambda: open("/etc/passwd"), socket.socket, os.pipe, lambda: os.dup(1)):
    try:
        attempt()
    except OSError:
        continue
    os._exit(1)
try:
    bytearray(1 << 30)
except MemoryError:
    os._exit(0)
os._exit(2)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def large_photo() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (7000, 7000)).save(content, "PNG", compress_level=1)
    return content.getvalue()


def test_memory_that_is_not_granted_is_a_refusal() -> None:
    opener = media.Opener(media.Limits(memory_bytes=160 << 20))
    try:
        with pytest.raises(UnreadableImage, match="more memory than is allowed"):
            opener.open_picture(large_photo())
        assert opener.open_picture(photo()).height == 24, "the next one is read"
        assert opener.started == 1
    finally:
        opener.close()


def test_time_that_is_not_granted_is_a_refusal() -> None:
    opener = media.Opener(media.Limits(seconds=1))
    try:
        opener.open_picture(photo())
        process = process_of(opener)
        process.suspend()  # the clock goes on
        with pytest.raises(UnreadableImage, match="takes longer than is allowed"):
            opener.open_picture(photo())
        assert not process.is_running()
        assert opener.open_picture(photo()).height == 24, "the next one gets a new process"
        assert opener.started == 2
    finally:
        opener.close()


def test_a_fork_that_is_killed_costs_its_own_file_only(opener: media.Opener) -> None:
    opener.open_picture(photo())
    process = process_of(opener)
    failed: list[UnreadableImage] = []

    large = large_photo()

    def read_large() -> None:
        try:
            opener.open_picture(large)
        except UnreadableImage as error:
            failed.append(error)

    thread = threading.Thread(target=read_large)
    thread.start()
    fork = eventually(process.children, pause_seconds=0.001)[0]
    with contextlib.suppress(psutil.NoSuchProcess):
        fork.send_signal(signal.SIGSEGV)
    thread.join()
    assert [error.message for error in failed] == ["the picture is damaged: its reader failed on it"]
    assert opener.open_picture(photo()).height == 24
    assert opener.started == 1


def test_a_process_that_was_killed_is_replaced(opener: media.Opener) -> None:
    opener.open_picture(photo())
    process = process_of(opener)
    process.kill()
    eventually(lambda: process.status() == psutil.STATUS_ZOMBIE)
    assert opener.open_picture(photo()).height == 24
    assert opener.started == 2


def test_processes_end_with_the_server(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(photo())
    program = f"""
import os, signal
from pathlib import Path
from vitascope import media
media.open_picture(Path({str(tmp_path / "photo")!r}).read_bytes())
from vitascope.media import reading
print(reading._shared._idle[0]._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=120, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    eventually(lambda: not psutil.pid_exists(int(done.stdout)))


def test_many_at_once_take_turns_and_too_many_are_told_to_come_later() -> None:
    opener = media.Opener(media.Limits(processes=2, waiting=2))
    content = photo(1500, 1500)
    results: list[int | QueueFull] = []
    together = threading.Barrier(12)

    def read() -> None:
        together.wait()
        try:
            results.append(opener.open_picture(content).height)
        except QueueFull as error:
            results.append(error)

    threads = [threading.Thread(target=read) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opener.close()
    read_ones = [result for result in results if result == 1500]
    assert len(results) == 12
    assert len(read_ones) >= 4
    assert all(isinstance(result, QueueFull) for result in results if result != 1500)
    assert opener.started <= 2


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can become somebody else")
def test_all_formats_are_read_by_who_may_start_no_thread() -> None:
    """For root the limit on processes and threads does not hold: a decoder that wants one would work in tests only."""
    program = """
import os
from bench.fuzz.files import valid_files, valid_videos
from vitascope.media import decode, decode_video, opening_process
from vitascope.media.signature import picture_kind
pictures, videos = valid_files(), valid_videos()
opening_process._warm_up()
if pid := os.fork():  # making the files has started threads, which a limited user would be charged for
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
opening_process._limit({"memory_bytes": 1280 << 20, "seconds": 20})
for content in pictures.values():
    decode.decode(content, picture_kind(content), decode.Wish(10**6, (16, 24)))
for kind, content in videos.items():
    limits = decode_video.VideoLimits(9, 10**6, 9.0)
    assert len(list(decode_video.decode_video(content, kind, limits, size=(16, 24)))) == 6
try:
    os.fork()
except OSError:
    os._exit(0)
os._exit(9)
"""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": path}, check=False, timeout=120)
    assert done.returncode == 0

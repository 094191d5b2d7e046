"""Videos that strangers send come in the same way as pictures."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from vitascope import media
from vitascope.domain.errors import UnreadableVideo

ASKED = {"size": (24, 32), "max_frames": 20, "max_seconds": 10.0}


@pytest.fixture(scope="module")
def opener() -> Iterator[media.Opener]:
    opener = media.Opener(media.Limits(processes=1))
    yield opener
    opener.close()


def frames(count: int = 12, height: int = 48, width: int = 64) -> Iterator[media.Frame]:
    for index in range(count):
        frame = np.full((height, width, 3), 20 * index, np.uint8)
        frame[: height // 2] = (200, 30, 30)
        yield frame


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = tmp_path_factory.mktemp("video") / "a.mp4"
    media.write_video(frames(), path, fps=8, format="mp4")
    return path.read_bytes()


def webm(codec: str = "libvpx-vp9", container: str = "webm") -> bytes:
    content = io.BytesIO()
    with av.open(content, "w", format=container) as output:
        stream = output.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in frames():
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    return content.getvalue()


def test_videos_are_read(opener: media.Opener, mp4: bytes) -> None:
    for content in (mp4, webm()):
        shown = opener.open_video(content, **ASKED)
        assert [round(one.seconds * 8) for one in shown] == list(range(12))
        for index, one in enumerate(shown):
            frame = one.picture.frame()
            assert frame.shape == (24, 32, 3)
            assert np.abs(frame[18:].astype(int) - 20 * index).max() < 12
            assert np.abs(frame[:6].astype(int) - (200, 30, 30)).max() < 16


def test_a_phones_turned_video_is_upright(opener: media.Opener, mp4: bytes) -> None:
    start = mp4.index(b"tkhd") + 4 + 40  # version and flags, times, ids and so on stand before the matrix
    one = 1 << 16
    turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)  # a quarter clockwise
    assert struct.unpack(">9i", mp4[start : start + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    content = mp4[:start] + turned + mp4[start + 36 :]
    first = opener.open_video(content, size=(64, 48), max_frames=20, max_seconds=10)[0].picture.frame()
    assert np.abs(first[:, 28:].astype(int) - (200, 30, 30)).max() < 16, "what was above is right"


def test_videos_are_measured(opener: media.Opener, mp4: bytes) -> None:
    sent = opener.measure_video(mp4, max_frames=20, max_seconds=10)
    assert (sent.height, sent.width, sent.num_frames) == (48, 64, 12)
    assert sent.fps == pytest.approx(8)
    with pytest.raises(UnreadableVideo, match="more than 11 frames"):
        opener.measure_video(mp4, max_frames=11, max_seconds=10)
    with pytest.raises(UnreadableVideo, match="damaged"):
        opener.measure_video(mp4[:-400].replace(b"moov", b"free"), max_frames=20, max_seconds=10)


@pytest.mark.parametrize(
    ("fps", "shown"),
    [
        (8, list(range(12))),
        (4, [0, 2, 4, 6, 8, 10]),
        (16, [index // 2 for index in range(23)]),
        (6, [0, 1, 2, 4, 5, 6, 8, 9, 10]),
    ],
)
def test_a_video_is_read_at_another_rate(
    opener: media.Opener, mp4: bytes, fps: int, shown: list[int]
) -> None:
    pictures = opener.open_video(mp4, **ASKED, fps=fps, num_pictures=23)
    greys = [float(one.picture.frame()[18:].mean()) for one in pictures]
    assert [round(grey / 20) for grey in greys] == shown


def test_a_stored_video_is_as_long_as_it_is_needed(tmp_path: Path, mp4: bytes) -> None:
    (tmp_path / "sent").write_bytes(mp4)
    asked = {"size": (24, 32), "fps": 8, "max_frames": 20, "max_seconds": 10}
    clip = media.read_video(tmp_path / "sent", num_frames=15, **asked)  # type: ignore[arg-type]
    assert clip.shape == (15, 24, 32, 3)
    assert np.array_equal(clip[11], clip[14]), "its last picture is held"
    assert media.read_video(tmp_path / "sent", num_frames=5, **asked).shape[0] == 5  # type: ignore[arg-type]
    with pytest.raises(UnreadableVideo, match="no such video"):
        media.read_video(tmp_path / "gone", num_frames=5, **asked)  # type: ignore[arg-type]


def test_a_stored_video_has_time_for_each_of_its_frames(
    tmp_path: Path, mp4: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = media.Opener(media.Limits(processes=1, seconds=1))
    monkeypatch.setattr("vitascope.media.reading._shared", hasty)
    (tmp_path / "sent").write_bytes(mp4)
    limits = {"max_frames": 20, "max_seconds": 10}
    clip = media.read_video(tmp_path / "sent", size=(1080, 1920), fps=30, num_frames=40, **limits)  # type: ignore[arg-type]
    hasty.close()
    assert len(clip) == 40


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"max_frames": 11}, "more than 11 frames"), ({"max_seconds": 1.0}, "lasts longer than 1 s")],
)
def test_long_videos_are_refused(
    opener: media.Opener, mp4: bytes, limits: dict[str, float], message: str
) -> None:
    with pytest.raises(UnreadableVideo, match=message):
        opener.open_video(mp4, **{**ASKED, **limits})  # type: ignore[arg-type]


def test_large_videos_are_refused(opener: media.Opener, mp4: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitascope.media.opener.MAX_VIDEO_PIXELS", 64 * 48 - 1)
    with pytest.raises(UnreadableVideo, match="the video is 64x48, but at most"):
        opener.open_video(mp4, **ASKED)


def test_other_codecs_and_containers_are_refused(opener: media.Opener) -> None:
    with pytest.raises(UnreadableVideo):
        opener.open_video(webm("ffv1", "matroska"), **ASKED)
    for content in (
        b"#EXTM3U\nfile:///etc/passwd",
        b"RIFF\0\0\0\0AVI LIST",
        b"\x89PNG\r\n\x1a\n",
        b"ffconcat version 1.0",
    ):
        with pytest.raises(UnreadableVideo, match="in a format that can be read"):
            opener.open_video(content, **ASKED)


def test_a_playlist_in_a_videos_clothes_is_refused(opener: media.Opener) -> None:
    with pytest.raises(UnreadableVideo, match="something else at once"):
        opener.open_video(b"\0\0\0\x18ftypisom\n#EXTM3U\nfile:///etc/passwd\n", **ASKED)

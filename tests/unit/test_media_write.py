"""A written file is what a player, a browser and a disk expect."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vitascope import media
from vitascope.domain.errors import StorageError, WriteFailed
from vitascope.domain.video import sheet_frames

HEIGHT, WIDTH = 48, 64


def moving_square(
    num_frames: int, height: int = HEIGHT, width: int = WIDTH, pixels: float = 2.0
) -> media.Frames:
    """A textured square that moves right over a smooth background, `pixels` a frame."""
    rows, columns = np.mgrid[:height, :width]
    background = np.stack([rows * 2 + 40, columns + 60, 160 - rows], axis=-1)
    clip = np.repeat(background[None], num_frames, axis=0).astype(np.uint8)
    for index in range(num_frames):
        left = round(4 + pixels * index)
        clip[index, 12:28, left : left + 16] = (230, 200, 40)
        clip[index, 16:24, left + 4 : left + 8] = (40, 20, 120)
    return clip


def psnr(left: media.Frames, right: media.Frames) -> float:
    error = np.mean((left.astype(np.float64) - right) ** 2)
    return float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize("fps", [1, 8, 24, 25, 60])
def test_mp4_has_exact_frames_rate_and_duration(tmp_path: Path, fps: int) -> None:
    path = tmp_path / "a.mp4"
    media.write_video(iter(moving_square(13)), path, fps=fps, format="mp4")
    assert media.probe(path) == media.VideoInfo(
        height=HEIGHT, width=WIDTH, num_frames=13, fps=fps, duration_seconds=13 / fps, codec="h264"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_mp4_shows_the_frames_that_were_written(tmp_path: Path) -> None:
    clip = moving_square(9)
    media.write_video(clip, tmp_path / "a.mp4", fps=8, format="mp4")
    decoded = media.read_frames(tmp_path / "a.mp4")
    assert decoded.shape == clip.shape
    assert psnr(decoded, clip) > 28  # 28.4 is all that 4:2:0 leaves of these colour edges, even without loss
    assert [psnr(decoded[i], clip[i]) > psnr(decoded[i], clip[i - 1]) for i in range(1, 9)] == [True] * 8


def test_enlarged_frames_are_written_as_well_with_less_search(tmp_path: Path) -> None:
    small = moving_square(9)
    clip = np.stack(list(media.fit_frames(small, height=192, width=256, fit="scale")))
    media.write_video(clip, tmp_path / "whole.mp4", fps=8, format="mp4")
    media.write_video(clip, tmp_path / "quick.mp4", fps=8, format="mp4", is_enlarged=True)
    whole, quick = (media.read_frames(tmp_path / name) for name in ("whole.mp4", "quick.mp4"))
    assert psnr(quick, clip) > psnr(whole, clip) - 0.5
    for name, subme in (("whole.mp4", b"subme=7"), ("quick.mp4", b"subme=2")):  # x264 tells its settings
        assert subme in (tmp_path / name).read_bytes()


@pytest.mark.parametrize(("height", "width"), [(96, 128), (24, 32), (48, 64)])
@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_frames_are_stretched_on_the_way_as_they_would_be_before(
    tmp_path: Path, format: str, height: int, width: int
) -> None:
    clip = moving_square(5)
    before = np.stack(list(media.fit_frames(clip, height=height, width=width, fit="scale")))
    for name, frames, size in (("before", before, None), ("way", clip, (height, width))):
        media.write_video(frames, tmp_path / name, fps=8, format=format, size=size)  # type: ignore[arg-type]
    found, expected = (media.read_frames(tmp_path / name) for name in ("way", "before"))
    assert found.shape == before.shape
    # beyond the range of a channel the one cuts off before the picture is made, the other after
    assert np.array_equal(found, expected) or psnr(found, expected) > 38


def test_pictures_may_be_written_before_the_video_is_whole(tmp_path: Path) -> None:
    passed: list[str] = []

    def frames() -> Iterator[media.Frame]:
        for index, frame in enumerate(moving_square(30)):
            passed.append(str(index))
            yield frame

    stills = media.Stills(30, lambda: passed.append("shown"), lambda: passed.append("tiled"))
    media.write_video(frames(), tmp_path / "a.mp4", fps=8, format="mp4", stills=stills)
    assert [passed[passed.index(what) - 1] for what in ("shown", "tiled")] == [
        "15",
        str(sheet_frames(30)[-1]),
    ]


def test_mp4_plays_while_it_loads_and_starts_at_zero(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    media.write_video(moving_square(9), path, fps=24, format="mp4")
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.start_time == 0
        assert stream.average_rate == 24
        assert stream.pix_fmt == "yuv420p"
        times = [frame.time for frame in container.decode(stream)]
    assert times == pytest.approx([index / 24 for index in range(9)])


@pytest.mark.parametrize(
    "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)]
)
def test_mp4_keeps_colours_in_tagged_bt709(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    clip = np.full((2, 32, 32, 3), colour, np.uint8)
    path = tmp_path / "a.mp4"
    media.write_video(clip, path, fps=8, format="mp4")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        picture = next(container.decode(video=0))
        luma = np.asarray(picture.planes[0])[0]
    assert tags == (1, 1, 1, 1)  # BT.709 three times, limited range
    red, green, blue = (value / 255 for value in colour)
    assert luma == pytest.approx(16 + 219 * (0.2126 * red + 0.7152 * green + 0.0722 * blue), abs=1)
    assert np.abs(media.read_frames(path).astype(int) - colour).max() <= 2


@pytest.mark.parametrize(
    ("fps", "total"), [(8, 1500), (10, 1200), (12, 1000), (24, 500), (25, 480), (50, 240)]
)
def test_gif_has_exact_frames_and_duration(tmp_path: Path, fps: int, total: int) -> None:
    path = tmp_path / "a.gif"
    media.write_video(iter(moving_square(12)), path, fps=fps, format="gif")
    delays = []
    with Image.open(path) as image:
        assert image.info["loop"] == 0  # for ever
        for index in range(image.n_frames):
            image.seek(index)
            delays.append(image.info["duration"])
    assert len(delays) == 12
    assert sum(delays) == total
    assert max(delays) - min(delays) <= 10
    assert media.probe(path).num_frames == 12


def test_gif_palette_is_made_for_the_frames(tmp_path: Path) -> None:
    clip = moving_square(6)
    media.write_video(clip, tmp_path / "a.gif", fps=10, format="gif")
    assert psnr(media.read_frames(tmp_path / "a.gif"), clip) > 36  # a fixed palette gets 22


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_same_frames_make_the_same_file(tmp_path: Path, format: str) -> None:
    """Whatever the memory held before: x264 once read what nobody had written."""
    files = set()
    for size in range(20):
        np.random.default_rng(size).integers(0, 255, 5000 * size, np.uint8)  # leaves its bytes behind
        media.write_video(moving_square(4), tmp_path / "a", fps=8, format=format)  # type: ignore[arg-type]
        files.add((tmp_path / "a").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("format", ["mp4", "gif"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, RuntimeError])
def test_interrupted_writing_leaves_what_was_there(
    tmp_path: Path, format: str, error: type[BaseException]
) -> None:
    def interrupted() -> Iterator[media.Frame]:
        yield from moving_square(5)
        raise error

    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")
    with pytest.raises(error):
        media.write_video(interrupted(), path, fps=8, format=format)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_full_disk_is_said_and_leaves_nothing(tmp_path: Path, format: str) -> None:
    """A limit on file size stands in for a small disk: the system refuses the same writes."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 96, 96, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(WriteFailed, match="larger than the system allows"):
            media.write_video(noise, tmp_path / "a", fps=8, format=format)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_said_without_paths(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match="folder for the file does not exist") as caught:
        media.write_video(moving_square(2), tmp_path / "no" / "a.mp4", fps=8, format="mp4")
    assert caught.value.hint is not None
    assert str(tmp_path) not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("error", "message"),
    [(PermissionError(13, ""), "cannot be written to"), (OSError(28, ""), "disk is full")],
    ids=["permission", "full"],
)
def test_refusals_of_the_system_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    """Raised by hand: root, who runs tests in containers, may write anywhere."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(WriteFailed, match=message):
        media.check_target(tmp_path / "a.mp4")


def test_names_that_are_taken_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(WriteFailed, match="name is taken"):
            media.check_target(tmp_path / name)
    media.check_target(tmp_path / "free.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(tmp_path / "real.mp4")
    media.write_video(moving_square(2), tmp_path / "link.mp4", fps=8, format="mp4")
    assert (tmp_path / "link.mp4").is_symlink()
    assert media.probe(tmp_path / "real.mp4").num_frames == 2


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match="no frames"):
        media.write_video([], tmp_path / "a.mp4", fps=8, format="mp4")
    with pytest.raises(WriteFailed, match="even sides, not 33x32"):
        media.write_video(np.zeros((1, 32, 33, 3), np.uint8), tmp_path / "a.mp4", fps=8, format="mp4")
    with pytest.raises(WriteFailed, match="at most 50"):
        media.write_video(moving_square(2), tmp_path / "a.gif", fps=60, format="gif")
    with pytest.raises(ValueError, match="follows frames"):
        media.write_video([*moving_square(1), *moving_square(1, 64)], tmp_path / "a.mp4", fps=8, format="mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_single_frame_is_a_video(tmp_path: Path) -> None:
    media.write_video(moving_square(1), tmp_path / "a.mp4", fps=8, format="mp4")
    assert media.probe(tmp_path / "a.mp4").duration_seconds == 1 / 8
    media.write_video(moving_square(1), tmp_path / "a.gif", fps=8, format="gif")
    with Image.open(tmp_path / "a.gif") as image:
        image.load()
        assert image.size == (WIDTH, HEIGHT)


def test_what_is_no_video_cannot_be_probed(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 100)
    for name in ("a.mp4", "missing.mp4"):
        with pytest.raises(StorageError, match="cannot be read"):
            media.probe(tmp_path / name)

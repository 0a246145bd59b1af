"""A film of frames: pace, size, and what is no frame."""

import io

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from sb3_rfm.experiments import film as films
from sb3_rfm.experiments.film import Film


class Screen:
    """Draws a square that moves, on grey or on noise."""

    def __init__(self, height=48, width=64, noise=False):
        self.drawn = 0
        self.height, self.width = height, width
        self.noise = np.random.default_rng(0) if noise else None

    def __call__(self):
        shape = (self.height, self.width, 3)
        frame = np.full(shape, 128, np.uint8)
        if self.noise is not None:
            frame = self.noise.integers(0, 256, shape, dtype=np.uint8)
        place = self.drawn % (min(shape[:2]) - 1)
        frame[place : place + 8, place : place + 8] = (255, 0, 0)
        self.drawn += 1
        return frame


def filmed(screen, rate, steps):
    """A film's MP4 and GIF, and its frames in each."""
    with Film(screen, rate) as film:
        for _ in range(steps):
            film.step()
        return film.mp4(), film.gif()


def _stop():
    raise KeyboardInterrupt


def seen(mp4, path):
    """Frames, seconds and size of an MP4."""
    path.write_bytes(mp4)
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    reader = imageio_ffmpeg.read_frames(str(path))
    size = next(reader)["size"]
    reader.close()
    return frames, seconds, size


def opened(gif):
    """A GIF, and the seconds that it takes."""
    image = Image.open(io.BytesIO(gif))
    pauses = []
    for frame in range(image.n_frames):
        image.seek(frame)
        pauses.append(image.info["duration"])
    return image, sum(pauses) / 1000


@pytest.mark.parametrize(
    ("rate", "steps", "frames", "gif_frames", "gif_seconds"),
    [
        (30, 90, 90, 30, 3.0),  # Pendulum: each step, and each third in the GIF
        (100, 200, 100, 20, 2.0),  # cheetah: each second step, 50 frames a second
        (125, 126, 42, 9, 1.08),  # Hopper of Gymnasium: 41.7 a second, the GIF's 8.3
        (25, 500, 500, 100, 12.0),  # fish: the GIF ends after 100 frames
        (4, 8, 8, 8, 2.0),  # a slow one is shown as slowly
    ],
)
def test_a_film_goes_at_the_environments_pace(
    rate, steps, frames, gif_frames, gif_seconds, tmp_path
):
    screen = Screen()
    mp4, gif = filmed(screen, rate, steps)
    written, seconds, size = seen(mp4, tmp_path / "film.mp4")
    assert (written, screen.drawn, size) == (frames, frames, (64, 48))
    assert seconds == pytest.approx(steps / rate, rel=0.02, abs=0.02)
    image, shown = opened(gif)
    assert (image.n_frames, image.size, image.info["loop"]) == (gif_frames, (64, 48), 0)
    assert shown == pytest.approx(gif_seconds)


def test_the_beginning_of_an_mp4_says_what_follows():
    mp4, _ = filmed(Screen(), 30, 3)
    assert mp4.index(b"moov") < mp4.index(b"mdat")  # a browser need not load all of it first


@pytest.mark.parametrize(
    ("height", "width", "size"), [(360, 480, (320, 240)), (500, 250, (160, 320)), (20, 9, (9, 20))]
)
def test_a_gif_has_the_proportions_and_at_most_320_pixels(height, width, size):
    image, _ = opened(filmed(Screen(height, width), 10, 2)[1])
    assert image.size == size


def test_a_gif_that_would_be_too_large_is_smaller(monkeypatch):
    monkeypatch.setattr(films, "GIF_SIZES", (64, 32, 16))
    lengths = {}
    for limit in (10**9, 20_000, 8_000):
        monkeypatch.setattr(films, "GIF_BYTES", limit)
        gif = filmed(Screen(noise=True), 10, 8)[1]
        assert len(gif) <= limit
        lengths[opened(gif)[0].size] = len(gif)
    assert list(lengths) == [(64, 48), (32, 24), (16, 12)]
    assert lengths[64, 48] > 20_000 > lengths[32, 24] > 8_000  # else it had no reason


def test_the_smallest_gif_of_pure_noise_is_of_at_most_a_megabyte():
    size, draws = films.GIF_SIZES[-1], np.random.default_rng(0)
    noise = draws.integers(0, 256, (films.GIF_FRAMES, size, size, 3), dtype=np.uint8)
    gif = films._gif([Image.fromarray(frame) for frame in noise], 100)
    assert films.GIF_BYTES // 4 < len(gif) <= films.GIF_BYTES == 1_000_000
    assert opened(gif)[0].n_frames == films.GIF_FRAMES == 100


def test_colours_stay(tmp_path):
    mp4, gif = filmed(Screen(), 30, 1)
    (tmp_path / "film.mp4").write_bytes(mp4)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "film.mp4"))
    next(reader)
    frame = np.frombuffer(next(reader), np.uint8).reshape(48, 64, 3).astype(int)
    reader.close()
    shown = np.asarray(opened(gif)[0].convert("RGB")).astype(int)
    for picture in (frame, shown):
        np.testing.assert_allclose(picture[2:6, 2:6].mean((0, 1)), (255, 0, 0), atol=12)
        np.testing.assert_allclose(picture[20:, 20:].mean((0, 1)), 128, atol=6)


@pytest.mark.parametrize(("height", "width"), [(31, 17), (1, 1)])
def test_odd_sides_are_made_even(height, width, tmp_path):
    mp4, _ = filmed(lambda: np.full((height, width, 3), 90, np.uint8), 10, 3)
    assert seen(mp4, tmp_path / "film.mp4")[::2] == (
        3,
        (height + height % 2, width + width % 2)[::-1],
    )


def test_nothing_is_left_when_a_film_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    filmed(Screen(), 30, 2)
    screen = Screen()
    with pytest.raises(KeyboardInterrupt):
        filmed(lambda: screen() if screen.drawn < 2 else _stop(), 30, 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, "must be an array of bytes .uint8., got None"),
        ([1, 2], r"must be an array of bytes .uint8., got \[1, 2\]"),
        (np.zeros((4, 4, 3)), r"must be an array of bytes .uint8., got float64 \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), r"the shape \(height, width, 3\), got uint8 \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"the shape \(height, width, 3\), got uint8 \(0, 4, 3\)"),
    ],
)
def test_what_is_no_frame_is_named(frame, message):
    with Film(lambda: frame, 30) as film, pytest.raises(ValueError, match=message):
        film.step()


def test_frames_of_two_sizes_are_named():
    screen = Screen()
    with Film(screen, 30) as film:
        film.step()
        screen.width = 32
        with pytest.raises(ValueError, match=r"the shape \(48, 64, 3\), got uint8 \(48, 32, 3\)"):
            film.step()


def test_a_film_without_a_frame_is_none():
    with Film(Screen(), 30) as film:
        for make in (film.mp4, film.gif):
            with pytest.raises(ValueError, match="at least 1 frame, got 0"):
                make()


@pytest.mark.parametrize("damage", ["gone", "half"])
def test_an_encoder_that_did_not_write_all_is_an_error(damage, monkeypatch):
    with Film(Screen(), 30) as film:
        for _ in range(3):
            film.step()
        film._end()
        if damage == "gone":
            film._path.write_bytes(b"")
        film.frames += damage == "half"
        expected = {"gone": "has written no film", "half": "has written 3 of 4 frames"}
        with pytest.raises(OSError, match=expected[damage]):
            film.mp4()

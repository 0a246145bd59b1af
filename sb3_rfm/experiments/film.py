"""What an environment shows, as an MP4 and as a GIF that is small enough for a page."""

import io
import math
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FASTEST = 60
"""Frames a second of an MP4, at most: as many as common screens show."""
QUALITY = 6
"""Of an MP4, from 1 to 10, as imageio-ffmpeg counts: a rate factor of 20 of x264."""
GIF_FRAMES = 100
"""Frames of a GIF, at most: the first of the film."""
GIF_FASTEST = 10
"""Frames a second of a GIF, at most."""
GIF_COLOURS = 64
"""Colours of a GIF, shared by all its frames."""
GIF_SIZES = (320, 240, 180, 120, 80)
"""Pixels of a GIF's longer side: the first with which it is small enough."""
GIF_BYTES = 1_000_000
"""Bytes of a GIF, at most."""
PALETTE_FRAMES = 8
"""Frames from which the colours of a GIF are taken."""


class Film:
    """
    Frames of an environment, drawn while it is played and shown at the pace of its own clock.

    Used as ``with Film(draw, rate) as film:``, with ``film.step()`` before each step. Frames go to
    the encoder as they come: a long film needs no more memory than a short one.

    :param draw: gives what is to be seen now: bytes of shape (height, width, 3)
    :param rate: steps of the environment in a second of its own time
    """

    def __init__(self, draw: Callable[[], Any], rate: float) -> None:
        self._draw = draw
        self.every = math.ceil(rate / FASTEST)
        """Steps from one frame to the next."""
        self.rate = rate / self.every
        """Frames a second."""
        self.gif_every = math.ceil(self.rate / GIF_FASTEST)
        """Frames from one of the GIF's to its next."""
        self.frames = 0
        self._steps = 0
        self._shape: tuple[int, ...] = ()
        self._encoder: Generator[None, bytes, None] | None = None
        self._small: list[Image] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Film":
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sb3_rfm_"))
        self._path = Path(folder) / "film.mp4"
        self._stack.callback(self._end)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def step(self) -> None:
        """
        Note that the environment is about to make a step, and draw a frame where one is due.

        :raises ValueError: what is drawn is no frame
        :raises OSError: the encoder fails
        """
        if self._steps % self.every == 0:
            self._add(_checked(self._draw(), self._shape))
        self._steps += 1

    def _add(self, frame: np.ndarray) -> None:
        """
        Show one more frame.

        :param frame: bytes of shape (height, width, 3)
        """
        from PIL import Image

        if self._encoder is None:
            self._shape = frame.shape
            self._encoder = _encoder(self._path, frame.shape, self.rate)
        self._encoder.send(_even(frame).tobytes())
        if self.frames % self.gif_every == 0 and len(self._small) < GIF_FRAMES:
            self._small.append(_within(Image.fromarray(frame), GIF_SIZES[0]))
        self.frames += 1

    def _end(self) -> None:
        """Let the encoder finish its file."""
        if self._encoder is not None:
            self._encoder.close()

    def mp4(self) -> bytes:
        """
        The film as H.264, which every browser plays; no frame can be added afterwards.

        :return: the file
        :raises ValueError: there is no frame
        :raises OSError: the encoder has not written all of them
        """
        import imageio_ffmpeg

        if not self.frames:
            raise ValueError("a film must have at least 1 frame, got 0.")
        self._end()
        try:
            written, _ = imageio_ffmpeg.count_frames_and_secs(str(self._path))
        except RuntimeError as error:
            raise OSError(f"the encoder has written no film: {error}") from error
        if written != self.frames:
            raise OSError(f"the encoder has written {written} of {self.frames} frames.")
        return self._path.read_bytes()

    def gif(self) -> bytes:
        """
        The beginning of the film as a GIF of at most a megabyte.

        :return: the file
        :raises ValueError: there is no frame
        """
        if not self._small:
            raise ValueError("a film must have at least 1 frame, got 0.")
        # hundredths of a second, the unit of a GIF; browsers slow down what is under two
        pause = 10 * max(2, round(100 * self.gif_every / self.rate))
        content = b""
        for size in GIF_SIZES:
            content = _gif([_within(frame, size) for frame in self._small], pause)
            if len(content) <= GIF_BYTES:
                break
        return content


def _checked(frame: Any, shape: tuple[int, ...]) -> np.ndarray:
    """
    A frame that can be shown.

    :param frame: what an environment has drawn
    :param shape: of the frames before; empty where there is none
    :return: the frame
    :raises ValueError: it is no array of bytes of shape (height, width, 3), or of another size
    """
    got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else repr(frame)[:60]
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        raise ValueError(f"a frame must be an array of bytes (uint8), got {got}.")
    if frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise ValueError(f"a frame must have the shape (height, width, 3), got {got}.")
    if shape not in ((), frame.shape):
        raise ValueError(f"each frame of a film must have the shape {shape}, got {got}.")
    return frame


def _encoder(path: Path, shape: tuple[int, ...], rate: float) -> Generator[None, bytes, None]:
    """
    What writes an MP4.

    :param path: of the file
    :param shape: of the frames
    :param rate: frames a second
    :return: takes frames of even sides by ``send``, and is ended by ``close``
    :raises OSError: there is no encoder
    """
    import imageio_ffmpeg

    encoder = imageio_ffmpeg.write_frames(
        str(path),
        (shape[1] + shape[1] % 2, shape[0] + shape[0] % 2),
        fps=rate,
        quality=QUALITY,
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-movflags", "+faststart"],  # it is shown while it is loaded
    )
    try:
        encoder.send(None)
    except RuntimeError as error:
        raise OSError(f"no MP4 can be written: {error}") from error
    return encoder


def _even(frame: np.ndarray) -> np.ndarray:
    """
    A frame of even sides, which H.264 needs for colours that every player shows.

    :param frame: of any size
    :return: the same, with the last row or column twice where their number is odd
    """
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _within(image: "Image", size: int) -> "Image":
    """
    An image that is no larger.

    :param image: of any size
    :param size: pixels of the longer side, at most
    :return: the image, smaller where need be and of the same proportions
    """
    share = min(1.0, size / max(image.size))
    width, height = (max(1, round(share * side)) for side in image.size)
    return image.resize((width, height)) if share < 1 else image


def _gif(frames: "list[Image]", pause: int) -> bytes:
    """
    A GIF that goes on for ever.

    :param frames: of one size
    :param pause: milliseconds that each is shown
    :return: the file
    """
    from PIL import Image

    some = frames[:: math.ceil(len(frames) / PALETTE_FRAMES)]
    width, height = frames[0].size
    sheet = Image.new("RGB", (width, height * len(some)))
    for place, frame in enumerate(some):
        sheet.paste(frame, (0, place * height))
    palette = sheet.quantize(GIF_COLOURS)
    # without dithering: what stands still stays the same, and costs nothing
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    file = io.BytesIO()
    first.save(
        file, "GIF", save_all=True, append_images=others, duration=pause, loop=0, optimize=False
    )
    return file.getvalue()

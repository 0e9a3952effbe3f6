"""Pictures to MP4: H.264, yuv420p, 24 frames a second, index in front, a slow push-in.

Blocking and single-threaded by design, so that the same picture gives the same bytes; the server
calls it in a pool. Nothing else imports PyAV, and nothing here knows jobs or sockets.
"""

from __future__ import annotations

import io
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ._sources import orientation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL import Image

FRAMES_PER_SECOND: Final = 24

# How far the camera goes in: at the end a fifth of the frame is cut away, off centre, so that the
# last frame clearly differs from the first while the motion stays slow.
_PUSH: Final = 0.2
_DRIFT: Final = (0.7, 0.4)


class Abandoned(Exception):
    """Nobody needs this video any more."""


def render(
    picture: bytes | None,
    size: tuple[int, int],
    duration: int,
    path: Path,
    abandoned: Callable[[], bool] = lambda: False,
) -> None:
    """Leaves at `path` an MP4 of `duration` seconds whose first frame is the whole picture.

    `None` stands for the test card. The picture is stretched to `size`, as the service does.
    `abandoned` is asked before each frame, because a long clip takes seconds; once it says so,
    `Abandoned` is raised.
    """
    av = _av()
    planes = _planes(_stretched(picture, size))
    width, height = size
    last = duration * FRAMES_PER_SECOND - 1
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(
            "libx264",
            rate=FRAMES_PER_SECOND,
            # One thread: two would make the bytes depend on the machine.
            options={"preset": "ultrafast", "crf": "23", "threads": "1"},
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame(width, height, "yuv420p")
        for number in range(last + 1):
            if abandoned():
                raise Abandoned
            frame.make_writable()
            for plane, source in zip(frame.planes, planes, strict=True):
                _fill(plane, source if number == 0 else _pushed(source, number / last))
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _stretched(picture: bytes | None, size: tuple[int, int]) -> Image.Image:
    from PIL import Image

    if picture is None:
        return _card(size)
    with Image.open(io.BytesIO(picture)) as opened:
        # A JPEG of many megapixels is decoded at the smallest scale that still fills the frame,
        # whichever way it lies.
        longest = max(size)
        opened.draft("RGB", (longest, longest))
        upright = _upright(opened)
        if upright.mode in ("RGBA", "LA", "PA", "P"):
            # Transparent parts show black, as a video has nothing behind it.
            layer = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer)
        return _resized(upright.convert("RGB"), size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _upright(picture: Image.Image) -> Image.Image:
    """The picture as a person sees it.

    Pillow's own way also writes the EXIF block anew, and breaks where that is corrupt.
    """
    from PIL import Image

    how = Image.Transpose
    turns = {
        2: how.FLIP_LEFT_RIGHT,
        3: how.ROTATE_180,
        4: how.FLIP_TOP_BOTTOM,
        5: how.TRANSPOSE,
        6: how.ROTATE_270,
        7: how.TRANSVERSE,
        8: how.ROTATE_90,
    }
    turn = turns.get(orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _card(size: tuple[int, int]) -> Image.Image:
    """A test card: bars, a grid and a circle, so that stretch and motion can be seen."""
    from PIL import Image, ImageDraw

    width, height = size
    card = Image.new("RGB", size, (24, 26, 32))
    pen = ImageDraw.Draw(card)
    bars = ("#ebebeb", "#ebc828", "#28bec8", "#3cb44b", "#c83ca0", "#d2322d", "#2846be")
    for index, colour in enumerate(bars):
        left, right = width * index // len(bars), width * (index + 1) // len(bars)
        pen.rectangle((left, height // 6, right - 1, height * 4 // 6), fill=colour)
    step = min(size) // 8
    for x in range(0, width, step):
        pen.line((x, 0, x, height), fill=(90, 95, 105), width=2)
    for y in range(0, height, step):
        pen.line((0, y, width, y), fill=(90, 95, 105), width=2)
    radius, x, y = min(size) // 3, width // 2, height // 2
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline="white", width=6)
    return card


def _planes(picture: Image.Image) -> list[Image.Image]:
    """The picture as its three yuv420p planes, so that no frame is converted twice."""
    from PIL import Image

    frame = _av().VideoFrame.from_image(picture).reformat(format="yuv420p")
    return [
        Image.frombuffer(
            "L", (plane.width, plane.height), bytes(plane), "raw", "L", plane.line_size, 1
        )
        for plane in frame.planes
    ]


def _pushed(plane: Image.Image, share: float) -> Image.Image:
    """The plane as the camera sees it after this share of its way."""
    from PIL import Image

    width, height = plane.size
    cut = _PUSH * share
    left, top = width * cut * _DRIFT[0], height * cut * _DRIFT[1]
    box = (left, top, left + width * (1 - cut), top + height * (1 - cut))
    return _resized(plane, (width, height), Image.Resampling.BILINEAR, box=box)


def _resized(
    plane: Image.Image,
    size: tuple[int, int],
    how: Image.Resampling,
    **words: Any,  # noqa: ANN401 - Pillow's own
) -> Image.Image:
    # Pillow types a size with numpy's arrays too, which type checkers cannot see without numpy.
    resize = plane.resize  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return resize(size, how, **words)


def _fill(plane: Any, source: Image.Image) -> None:  # noqa: ANN401 - as in _av
    """Copies the picture into the plane, whose lines may be longer than the picture's."""
    data = source.tobytes()
    width, line = source.width, plane.line_size
    if line != width:
        padding = bytes(line - width)
        data = b"".join(
            data[start : start + width] + padding for start in range(0, len(data), width)
        )
    plane.update(data)


def _av() -> Any:  # noqa: ANN401 - PyAV's own types are partly unknown to strict checkers
    return import_module("av")

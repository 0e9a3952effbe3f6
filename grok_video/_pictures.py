"""The sources of a picture that is sent as data: memory, data URI, path, Pillow image.

Each is opened, sniffed and measured here, and then gives any part of itself as base64. Everything
is plain calls that may wait for a disk or an encoder, and `_images` decides in which thread; what
must never happen here: a picture that is held a second time, and a file that stays open between
two pieces (ten thousand waiting creates would need as many descriptors). Open files of the caller
are `_openfiles`.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import hashlib
import io
import os
import stat
import threading
import time
import weakref
from datetime import UTC, datetime
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote_to_bytes

from grok_video._arguments import refuse
from grok_video._base64 import encode, encoded_size, validator
from grok_video._errors import InvalidRequest
from grok_video._requests import SNIFF_LENGTH, require_picture

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from grok_video._requests import Image

__all__ = [
    "SMALL",
    "DataPicture",
    "MemoryPicture",
    "PathPicture",
    "Picture",
    "changed",
    "difference",
    "encode_pil",
    "hash_pil",
    "is_another",
    "lock_of",
    "open_memory",
    "read_exactly",
    "reason_of",
    "require_file",
    "require_rest",
]

#: Bytes that are handled without a worker thread: 64 KiB take the slower encoder 0.2 ms.
SMALL: Final = 64 * 2**10
#: Characters of base64 that are looked at in one call: the GIL is held for it, here 0.15 ms.
_VALIDATED_AT_ONCE: Final = 256 * 2**10
#: Pixels that are hashed at once: some 0.2 ms.
_HASHED_AT_ONCE: Final = 2**16


class Picture(Protocol):
    """A measured picture; `encoded` may be called again and again, in any order."""

    mime: str
    #: Bytes of picture, before base64.
    size: int
    needs_thread: bool

    def encoded(self, offset: int, *sizes: int) -> list[bytes]:
        """Return the base64 of neighbouring parts of these sizes, the first from `offset`.

        All but the end of the picture are multiples of 3, so that the parts of the base64 join.
        Raises `InvalidRequest` if the source no longer has what was measured.
        """
        ...


class MemoryPicture:
    """A picture whose bytes are in memory; they are sliced, never copied."""

    __slots__ = ("_view", "mime", "needs_thread", "size")

    def __init__(self, content: bytes | bytearray | memoryview, image: Image) -> None:
        self._view = view = memoryview(content)
        self.size = view.nbytes
        self.mime = require_picture(bytes(view[:SNIFF_LENGTH]), image, self.size)
        self.needs_thread = self.size > SMALL

    def encoded(self, offset: int, *sizes: int) -> list[bytes]:
        return encode(self._view[offset : offset + sum(sizes)], sizes)


def open_memory(image: Image) -> MemoryPicture | None:
    """Return the picture that an `io.BytesIO` has now; None while a file over it moves it.

    Neither moved nor copied: what it has is shared until somebody writes to it. It cannot wait for
    a disk, and needs no thread of its own.
    """
    lock = lock_of(image.source)
    if not lock.acquire():
        return None
    try:
        start, content = image.source.tell(), image.source.getvalue()
    except ValueError as error:  # it is closed
        raise refuse("image", image, f"must be a readable file ({reason_of(error)})") from None
    finally:
        lock.release()
    require_rest(start, len(content) - start, image)
    return MemoryPicture(memoryview(content)[start:], image)


def require_rest(start: int, size: int, image: Image) -> None:
    """Refuse a file that has nothing from where it stands, but has something before."""
    if size <= 0 and start:
        raise refuse("image", image, "is at its end: seek(0) first, to send what is before it")


class DataPicture:
    """A picture that came as base64: validated whole, then sent as it is."""

    __slots__ = ("_base64", "_start", "mime", "needs_thread", "size")

    def __init__(self, image: Image) -> None:
        self._base64: str | bytes = image.source
        self._start: int = image.source.index(",") + 1
        declared: str = image.source[5 : image.source.index(";")]
        shown = f"{declared} data URI of {len(image.source)} characters"
        if not self._validate():
            # Wrapped lines (base64.encodebytes, MIME) and percent-encoding (RFC 2397 asks for it)
            # are spelling, not content. They cost one more copy, and only where they occur.
            plain = unquote_to_bytes(image.source[self._start :].encode("utf-8", "replace"))
            self._base64, self._start = plain.translate(None, b"\n\r\t"), 0
            if not self._validate():
                raise refuse(
                    "image", shown, f"must be a data URI with valid base64 ({self._fault()})"
                )
        characters = len(self._base64) - self._start
        self.size = characters // 4 * 3 - self._slice(characters - 2, 2).count(b"=")
        # The bytes decide, as everywhere: a JPEG that is declared a PNG is sent as a JPEG.
        head = binascii.a2b_base64(self._slice(0, encoded_size(SNIFF_LENGTH)))
        self.mime = require_picture(head, shown, self.size)
        self.needs_thread = self.size > SMALL

    def encoded(self, offset: int, *sizes: int) -> list[bytes]:
        starts = accumulate(sizes, initial=offset)
        return [
            self._slice(start // 3 * 4, encoded_size(size))
            for start, size in zip(starts, sizes, strict=False)
        ]

    def _slice(self, offset: int, size: int) -> bytes:
        part = self._base64[self._start + offset : self._start + offset + size]
        return part.encode() if isinstance(part, str) else part

    def _validate(self) -> bool:
        is_base64 = validator()
        characters = len(self._base64) - self._start
        if characters % 4:
            return False
        for offset in range(0, characters, _VALIDATED_AT_ONCE):
            # Lets go of the GIL, or the event loop would wait 5 ms for it, and as long once more
            # for the other thread that does the same.
            time.sleep(0)
            try:
                part = self._slice(offset, _VALIDATED_AT_ONCE)
            except UnicodeEncodeError:  # a lone surrogate
                return False
            ends_here = offset + _VALIDATED_AT_ONCE >= characters
            if not is_base64(part) or (part.endswith(b"=") and not ends_here):
                return False
        return True

    def _fault(self) -> str:
        assert isinstance(self._base64, bytes)  # noqa: S101 - for the type checker
        if b" " in self._base64:
            return "it has a space in it: was a '+' decoded as a space?"
        if b"-" in self._base64 or b"_" in self._base64:
            return "it has '-' or '_' in it: use the standard alphabet, not the one for URLs"
        if (len(self._base64) - self._start) % 4:
            return "its length is no multiple of 4: it was cut, or lost its padding"
        return "only A-Z a-z 0-9 + / and the padding at the end"


class PathPicture:
    """A picture on a disk, opened for each piece anew and never between two."""

    __slots__ = ("_measured", "_path", "mime", "needs_thread", "size")

    def __init__(self, image: Image) -> None:
        with _refusing(image):
            # From here on the same file, wherever the process works when it is sent.
            self._path: Path = image.source.absolute()
            found = self._path.stat()
            _require_regular(found.st_mode, image)
            with self._file() as file:
                # Again, of what was really opened.
                found = os.fstat(file.fileno())
                _require_regular(found.st_mode, image)
                head = file.read(SNIFF_LENGTH) or b""
        self._measured = found
        self.size = found.st_size
        self.mime = require_picture(head, str(image.source), self.size)
        self.needs_thread = True

    def encoded(self, offset: int, *sizes: int) -> list[bytes]:
        size = sum(sizes)
        try:
            with self._file() as file:
                file.seek(offset)
                piece = read_exactly(file, size)
                # After the read, so that the last piece is not sent if anything changed before.
                found = os.fstat(file.fileno())
        except (OSError, ValueError) as error:
            raise changed(os.fspath(self._path), reason_of(error)) from None
        if len(piece) != size or is_another(self._measured, found):
            raise changed(os.fspath(self._path), difference(self._measured, found))
        return encode(memoryview(piece), sizes)

    def _file(self) -> io.FileIO:
        return io.FileIO(os.fspath(self._path), "rb", opener=_open_without_waiting)


def is_another(before: os.stat_result, now: os.stat_result) -> bool:
    """Return whether a file is another one than it was, or has changed."""
    if (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
        return True
    # Not by its number alone: some mounts (CIFS, FUSE) number a file anew whenever they look. What
    # was put in its place has another time of its last change as well.
    return before.st_ino != now.st_ino and before.st_ctime_ns != now.st_ctime_ns


def difference(before: os.stat_result, now: os.stat_result) -> str:
    """Return how a file can be seen to be another one than it was."""
    if before.st_size == now.st_size and before.st_mtime_ns != now.st_mtime_ns:
        try:
            then = datetime.fromtimestamp(now.st_mtime, UTC)
        except (ValueError, OverflowError, OSError):  # after the year 9999
            return "it was modified since"
        return f"it was modified since, at {then:%Y-%m-%d %H:%M:%S.%f} UTC"
    if before.st_size == now.st_size and before.st_ino != now.st_ino:
        return "another file is in its place"
    return f"{before.st_size} bytes at first, {now.st_size} bytes now"


def encode_pil(image: Image) -> Picture:
    """Return a Pillow image as PNG if it has transparency or 16 bits, else as JPEG."""
    with lock_of(image.source):
        try:
            content = _save_pil(image.source)
        except Exception as error:  # noqa: BLE001 - Pillow's plugins raise what they like
            raise refuse(
                "image", image, f"must be a PIL image that can be saved ({reason_of(error)})"
            ) from None
    return MemoryPicture(content, image)


def _save_pil(picture: Any) -> memoryview:  # noqa: ANN401 - Pillow is an extra
    from PIL import ImageOps

    if picture.getexif().get(0x0112, 1) != 1:
        # A photograph opened with Pillow lies on its side where its Exif orientation says so;
        # saving would drop that note and keep the side.
        picture = ImageOps.exif_transpose(picture)
    mode = picture.mode
    options: dict[str, Any] = {"format": "JPEG", "quality": 95}
    if mode in ("I", "F"):
        message = f"mode {mode} says nothing about what is white; convert it to L or RGB"
        raise ValueError(message)
    if mode.startswith("I;16"):
        options = {"format": "PNG"}  # 16 bits of grey: a JPEG has eight
    elif picture.has_transparency_data:
        # Pillow converts premultiplied grey only by way of plain grey.
        picture = picture.convert("LA" if mode == "La" else "RGBA").convert("RGBA")
        if picture.getchannel("A").getextrema()[0] < 255:
            # Level 1: the default of 6 takes several times as long for a few percent.
            options = {"format": "PNG", "compress_level": 1}
        else:
            picture = picture.convert("RGB")
    elif mode not in ("L", "RGB"):
        picture = picture.convert("L" if mode == "1" else "RGB")
    if mode == picture.mode and "icc_profile" in picture.info:
        options["icc_profile"] = picture.info["icc_profile"]
    content = io.BytesIO()
    picture.save(content, **options)
    return content.getbuffer()


def hash_pil(image: Image) -> str:
    """Return the hash of a Pillow image's pixels, the same for the same picture."""
    with lock_of(image.source):
        try:
            return _hash_of_pixels(image.source)
        except Exception as error:  # noqa: BLE001 - Pillow's plugins raise what they like
            raise refuse(
                "image", image, f"must be a PIL image that can be read ({reason_of(error)})"
            ) from None


def _hash_of_pixels(picture: Any) -> str:  # noqa: ANN401 - Pillow is an extra
    picture.load()  # of some formats it changes the mode
    width, height = picture.size
    palette = None
    if picture.mode in ("P", "PA"):
        palette = picture.palette.mode, picture.getpalette(None)  # with the alpha it may have
    beside = (
        picture.getexif().get(0x0112, 1),
        picture.info.get("transparency"),
        picture.info.get("icc_profile"),
        palette,
    )
    digest = hashlib.sha256(f"{picture.mode} {width} {height} {beside}".encode())
    # In strips: the GIL is held for each, and the whole would be a second picture in memory.
    rows = max(1, _HASHED_AT_ONCE // max(1, width))
    for top in range(0, height, rows):
        digest.update(picture.crop((0, top, width, min(height, top + rows))).tobytes())
    return digest.hexdigest()


def require_file(image: Image) -> None:
    """Refuse the picture of a path if it is not there, cannot be read or is empty.

    Nothing is opened: what its bytes are is found out when it is sent.
    """
    with _refusing(image):
        found = os.stat(image.source)  # noqa: PTH116 - any PathLike
        _require_regular(found.st_mode, image)
        if not os.access(image.source, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if not found.st_size:
        require_picture(b"", str(image.source), 0)


@contextlib.contextmanager
def _refusing(image: Image) -> Generator[None]:
    """Make what a disk says of a picture the refusal of that picture."""
    try:
        yield
    except InvalidRequest:
        raise
    except FileNotFoundError:
        raise refuse("image", str(image.source), "must be a file that exists") from None
    except (OSError, ValueError) as error:
        raise refuse(
            "image", str(image.source), f"must be a file that can be read ({reason_of(error)})"
        ) from None


def _require_regular(mode: int, image: Image) -> None:
    if stat.S_ISDIR(mode):
        raise refuse("image", str(image.source), "must be a file, and this is a folder")
    if not stat.S_ISREG(mode):
        raise refuse("image", str(image.source), "must be a regular file, not a pipe or a device")


def _open_without_waiting(path: str, flags: int) -> int:
    # O_NONBLOCK: a pipe that took the file's place since it was looked at would wait for a writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def read_exactly(file: IO[bytes], size: int) -> bytes:
    """Return `size` bytes, or fewer if the file ends before."""
    piece = file.read(size)
    if len(piece) == size:
        return piece
    whole = bytearray(piece)
    while len(whole) < size and (piece := file.read(size - len(whole))):
        whole += piece
    return bytes(whole)


def changed(name: str, what: str) -> InvalidRequest:
    """Return what is told of a picture that is another one now than was measured."""
    limit = "must not change while it is being sent"
    return InvalidRequest(
        f"image {limit}; {name!r} did ({what}). The connection was cut before the end of the "
        f"request, so that no job was made and nothing was billed.",
        field="image",
        value=name,
        limit=limit,
    )


def reason_of(error: BaseException) -> str:
    """Return the words of an error, short."""
    return getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__


# By identity, as pictures need not be hashable; each entry lives as long as what is done with it,
# and with it the picture, so that the number cannot be given away meanwhile.
_locks: weakref.WeakValueDictionary[int, _Lock] = weakref.WeakValueDictionary()


#: Seconds for which a picture thread may be held up by who reads the same.
_MOMENT: Final = 0.05


class _Lock:
    """A lock that can be weakly held."""

    __slots__ = ("__weakref__", "_lock", "_of")

    def __init__(self, thing: object) -> None:
        self._lock = threading.Lock()
        self._of = thing

    def acquire(self) -> bool:
        """Take it, if that can be done in a moment; return whether it was."""
        return self._lock.acquire(timeout=_MOMENT)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def lock_of(thing: object) -> _Lock:
    """Return the lock of a picture, or of what lies under a file."""
    return _locks.setdefault(id(thing), _Lock(thing))


if hasattr(os, "register_at_fork"):
    # A thread that held one of them does not exist in the child.
    os.register_at_fork(after_in_child=_locks.clear)

"""Pictures to a request body that streams: opened, sniffed and measured first, then sent in pieces.

Here live the six sources of a picture and the one body that carries any of them. What must never
happen here: an event loop that waits for a disk or an encoder, a picture that is held a second
time, a file that stays open between two pieces (ten thousand waiting creates would need as many
descriptors), and a body that is shorter or longer than the Content-Length it announced.
"""

from __future__ import annotations

import binascii
import contextlib
import functools
import inspect
import io
import json
import logging
import os
import stat
import string
import threading
import weakref
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, TypeVar, TypeVarTuple, Unpack
from urllib.parse import unquote_to_bytes

import anyio
import anyio.lowlevel
import anyio.to_thread

from grok_video._errors import APIConnectionError, CreateOutcomeUnknown, InvalidRequest
from grok_video._requests import SNIFF_LENGTH, refuse, require_picture
from grok_video._wire import write_create

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from grok_video._requests import Image, VideoRequest

__all__ = ["create_body"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Logging, not `warnings`: nothing is wrong with the calling code, a batch would show it only once,
# and a program run with -W error must not lose a job to an opinion about size.
_log = logging.getLogger("grok_video")

#: Bytes of picture from which a create is logged as large: the provider's gRPC client stops at
#: 20 MiB a message, and no page states a limit for this route (contract.md, section 5).
LARGE_PICTURE: Final = 20 * 2**20
#: Bytes of picture that are read and encoded in one visit to a worker thread; a multiple of 3. One
#: visit costs 0.1 ms of CPU. A picture of 10 MiB alone took 9.1 ms of CPU in pieces of 384 KiB and
#: 7.6 in pieces of 768 KiB; fifty at once took 10.6, 7.1 and, in pieces of 1536 KiB, 12 ms each,
#: and 9, 12 and 24 MiB together (`benchmarks/upload.py`).
LARGE_PIECE: Final = 768 * 2**10
#: Large pieces that all uploads of an event loop hold together: with 4, a server that stops reading
#: leaves 8 MiB in them (each is there twice, the second time in the socket's buffer). Two cost 20 %
#: more CPU, eight save none. Fifty uploads that such a server stalls hold 21 MiB in all.
LARGE_PIECES: Final = 4
#: Seconds to wait for one of them before going on with a small piece: some visits to a thread.
PATIENCE: Final = 0.02
#: Bytes of a piece that needs no turn: over aiohttp's 64 KiB when encoded, so that it waits for
#: the socket after each.
SMALL_PIECE: Final = 60 * 2**10
#: Bytes that are handled without a worker thread: 64 KiB take the slower encoder 0.2 ms.
SMALL: Final = 64 * 2**10
#: Worker threads that read and encode pieces, in each event loop: two, so that one reads while the
#: other encodes. With 8 the longest stall of the loop was 10 to 15 ms, with 2 it is 2 to 5 (the
#: standard library's encoder holds the GIL).
THREADS: Final = 2
#: Bytes of a file that cannot seek, which has to be held in memory to be measured.
LARGEST_UNSEEKABLE: Final = 128 * 2**20


@contextlib.asynccontextmanager
async def create_body(request: VideoRequest) -> AsyncGenerator[CreateBody, None]:
    """Open, sniff and measure the picture of a request; what comes out can be sent, repeatedly.

    Raises `InvalidRequest` on entering if the picture is missing, empty, unreadable or no JPEG,
    PNG or WebP: nothing was sent then. A picture that changes while it is sent raises the same
    error out of `chunks()`, and out of this context in place of the transport's complaint about
    the body that ended early: its last byte was never sent, so that no server can have accepted
    it. Nothing stays open afterwards.
    """
    before, after = write_create(request)
    image = request.image
    if image is None:
        body = CreateBody(before)
    elif image.kind == "url":
        body = CreateBody(before + _json_text(image) + after)
    else:
        picture = await _open(image)
        _warn_if_large(picture)
        prefix = f"data:{picture.mime};base64,".encode()
        body = CreateBody(before + prefix, picture, after)
    try:
        yield body
    except (APIConnectionError, CreateOutcomeUnknown):
        if body.failure is not None:
            raise body.failure from None
        raise
    finally:
        body.sent()


class CreateBody:
    """The body of one create: a `Body` whose picture is encoded while it is sent.

    `failure` is why the last round of `chunks()` broke off on this side, or None. A transport sees
    such a break as a broken connection; where this is set, the server has not had a whole request.
    """

    __slots__ = ("_after", "_before", "_held", "_picture", "failure", "length")

    def __init__(self, before: bytes, picture: Picture | None = None, after: bytes = b"") -> None:
        self._before = before
        self._picture = picture
        self._after = after
        self._held: Uploads | None = None
        self.failure: InvalidRequest | None = None
        encoded = 0 if picture is None else encoded_size(picture.size)
        self.length = len(before) + encoded + len(after)

    def chunks(self) -> AsyncIterator[bytes]:
        """Return an iterator over the body from its beginning; each call starts over."""
        self.failure = None
        self.sent()
        return _Chunks(self, self._before, self._picture, self._after)

    async def piece(self, picture: Picture, offset: int) -> tuple[bytes, bytes, int]:
        """Return the next encoded piece in two parts, and where the piece after it begins."""
        uploads = Uploads.of_this_loop()
        left = picture.size - offset
        size = min(left, SMALL_PIECE)
        if size < left and await uploads.large_piece():
            self._held = uploads
            size = min(left, LARGE_PIECE)
        try:
            if picture.needs_thread or not codec_is_known():
                parts = await uploads.in_thread(_two_parts, picture, offset, size)
            else:
                parts = _two_parts(picture, offset, size)
        except InvalidRequest as error:
            self.failure = error
            raise
        return *parts, offset + size

    def sent(self) -> None:
        """Give up what the last piece held: the transport has taken it, or never will."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def __repr__(self) -> str:
        return f"<body of {self.length} bytes>"


class _Chunks:
    """One pass over a body.

    An object, not an async generator: a transport that drops it half-way (an early answer) leaves
    nothing that an event loop would have to finalize.
    """

    __slots__ = ("_after", "_body", "_next", "_offset", "_picture")

    def __init__(
        self, body: CreateBody, before: bytes, picture: Picture | None, after: bytes
    ) -> None:
        self._body = body
        # By itself, before the first visit to a thread: transports send it with the headers.
        self._next = before
        self._picture = picture
        self._after = after
        self._offset = 0

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        self._body.sent()
        part, self._next = self._next, b""
        picture = self._picture
        if not part and picture is not None and self._offset < picture.size:
            part, self._next, self._offset = await self._body.piece(picture, self._offset)
        elif not part:
            part, self._after = self._after, b""
        if not part:
            raise StopAsyncIteration
        return part


class Uploads:
    """What all uploads of one event loop share: the worker threads and the memory for pieces."""

    __slots__ = ("_encoders", "_large", "_threads")

    def __init__(self) -> None:
        # Not anyio's default limiter: its 40 threads are the application's, and a piece waiting
        # for a thread costs nothing while 40 threads fighting for the GIL would stall the loop.
        self._threads = anyio.CapacityLimiter(THREADS)
        # Apart from them: a large PNG takes seconds, and uploads must not wait for it.
        self._encoders = anyio.CapacityLimiter(THREADS)
        self._large = anyio.Semaphore(LARGE_PIECES)

    @classmethod
    def of_this_loop(cls) -> Uploads:
        """Return those of the running event loop."""
        found = _uploads.get(None)
        if found is None:
            found = cls()
            _uploads.set(found)
        return found

    async def large_piece(self) -> bool:
        """Return whether a large piece may be made now; then it is to be released.

        The wait is short and ends with a no, so that uploads that stall cannot hold up the others:
        those go on in small pieces, which cost more and hold little.
        """
        try:
            self._large.acquire_nowait()
        except anyio.WouldBlock:
            with anyio.move_on_after(PATIENCE):
                await self._large.acquire()
                return True
            return False
        return True

    def release(self) -> None:
        """Give a large piece to the next."""
        self._large.release()

    async def in_thread(self, function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Return what the function returns, called in one of the worker threads."""
        # Not abandoned when cancelled: a thread that goes on would hold a file open.
        return await anyio.to_thread.run_sync(function, *args, limiter=self._threads)

    async def encode(self, image: Image) -> Picture:
        """Return a Pillow image as the file that is sent."""
        return await anyio.to_thread.run_sync(_encode_pil, image, limiter=self._encoders)


_uploads: anyio.lowlevel.RunVar[Uploads | None] = anyio.lowlevel.RunVar("grok_video_uploads", None)


# --- sources -------------------------------------------------------------------------------------


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


async def _open(image: Image) -> Picture:
    uploads = Uploads.of_this_loop()
    if image.kind == "bytes":
        return MemoryPicture(image.source, image)
    if image.kind == "data":
        if len(image.source) <= SMALL and codec_is_known():
            return DataPicture(image)
        return await uploads.in_thread(DataPicture, image)
    if image.kind == "path":
        return await uploads.in_thread(PathPicture, image)
    if image.kind == "pil":
        return await uploads.encode(image)
    return await _open_file(image, uploads)


async def _open_file(image: Image, uploads: Uploads) -> Picture:
    if inspect.iscoroutinefunction(getattr(image.source, "read", None)):
        raise refuse(
            "image",
            image,
            "must be a file whose read() returns bytes; pass the plain file under it",
        )
    if await uploads.in_thread(_can_seek, image):
        return await uploads.in_thread(FilePicture, image)
    # Abandoned when cancelled, and not one of the few picture threads: a pipe may be silent for
    # hours, and its bytes are lost to others in any case.
    content = await anyio.to_thread.run_sync(_read_to_end, image, abandon_on_cancel=True)
    return MemoryPicture(content, image)


class MemoryPicture:
    """A picture whose bytes are in memory; they are sliced, never copied."""

    __slots__ = ("_view", "mime", "needs_thread", "size")

    def __init__(self, content: bytes | bytearray | memoryview, image: Image) -> None:
        view = memoryview(content)
        if view.nbytes:
            view = view.cast("B") if view.c_contiguous else memoryview(bytes(view))
        self._view = view
        self.size = view.nbytes
        self.mime = require_picture(bytes(view[:SNIFF_LENGTH]), image, self.size)
        self.needs_thread = self.size > SMALL

    def encoded(self, offset: int, *sizes: int) -> list[bytes]:
        return _encode(self._view[offset : offset + sum(sizes)], sizes)


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
        is_base64 = _validator()
        characters = len(self._base64) - self._start
        if characters % 4:
            return False
        for offset in range(0, characters, _VALIDATED_AT_ONCE):
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


#: Characters of base64 that are looked at in one call: the GIL is held for it, here 0.15 ms.
_VALIDATED_AT_ONCE: Final = 256 * 2**10


class PathPicture:
    """A picture on a disk, opened for each piece anew and never between two."""

    __slots__ = ("_measured", "_path", "mime", "needs_thread", "size")

    def __init__(self, image: Image) -> None:
        self._path: os.PathLike[str] = image.source
        try:
            found = os.stat(self._path)  # noqa: PTH116 - any PathLike
            _require_regular(found.st_mode, image)
            with self._file() as file:
                # Again, of what was really opened.
                found = os.fstat(file.fileno())
                _require_regular(found.st_mode, image)
                head = file.read(SNIFF_LENGTH) or b""
        except InvalidRequest:
            raise
        except FileNotFoundError:
            raise refuse("image", str(image.source), "must be a file that exists") from None
        except (OSError, ValueError) as error:
            raise refuse(
                "image", str(image.source), f"must be a file that can be read ({_reason(error)})"
            ) from None
        self._measured = (found.st_size, found.st_mtime_ns)
        self.size = found.st_size
        self.mime = require_picture(head, str(image.source), self.size)
        self.needs_thread = True

    def encoded(self, offset: int, *sizes: int) -> list[bytes]:
        size = sum(sizes)
        try:
            with self._file() as file:
                file.seek(offset)
                piece = _read_exactly(file, size)
                # After the read, so that the last piece is not sent if anything changed before.
                found = os.fstat(file.fileno())
        except (OSError, ValueError) as error:
            raise _changed(os.fspath(self._path), _reason(error)) from None
        if len(piece) != size or (found.st_size, found.st_mtime_ns) != self._measured:
            raise _changed(
                os.fspath(self._path), f"{self.size} bytes at first, {found.st_size} bytes now"
            )
        return _encode(memoryview(piece), sizes)

    def _file(self) -> io.FileIO:
        return io.FileIO(os.fspath(self._path), "rb", opener=_open_without_waiting)


class FilePicture:
    """A picture in an open file of the caller, which is left at the position it was found at."""

    __slots__ = ("_file", "_lock", "_start", "mime", "needs_thread", "size")

    def __init__(self, image: Image) -> None:
        self._file: Any = image.source
        self._lock = _lock_of(image.source)
        try:
            with self._lock:
                self._start: int = self._file.tell()
                try:
                    self._file.seek(0, os.SEEK_END)
                    self.size: int = max(0, self._file.tell() - self._start)
                    self._file.seek(self._start)
                    head = self._file.read(SNIFF_LENGTH)
                finally:
                    self._file.seek(self._start)
        except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
            raise refuse("image", image, f"must be a readable file ({_reason(error)})") from None
        _require_bytes(head, image)
        self.mime = require_picture(bytes(head), image, self.size)
        self.needs_thread = True

    def encoded(self, offset: int, *sizes: int) -> list[bytes]:
        size = sum(sizes)
        try:
            # Locked and put back each time: two creates may read the same file object, and the
            # second must find its start where the caller left it.
            with self._lock:
                try:
                    self._file.seek(self._start + offset)
                    piece = _read_exactly(self._file, size)
                    if offset + size == self.size and self._file.read(1):
                        raise _changed(type(self._file).__name__, "it grew")
                finally:
                    self._file.seek(self._start)
        except InvalidRequest:
            raise
        except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
            raise _changed(type(self._file).__name__, _reason(error)) from None
        if len(piece) != size:
            raise _changed(type(self._file).__name__, f"it ends before its {self.size} bytes")
        return _encode(memoryview(piece), sizes)


def _encode_pil(image: Image) -> Picture:
    """Return a Pillow image as PNG if it has transparency or 16 bits, else as JPEG."""
    with _lock_of(image.source):
        try:
            content = _save_pil(image.source)
        except Exception as error:  # noqa: BLE001 - Pillow's plugins raise what they like
            raise refuse(
                "image", image, f"must be a PIL image that can be saved ({_reason(error)})"
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


# --- helpers -------------------------------------------------------------------------------------


def encoded_size(size: int) -> int:
    """Return the length of the base64 of `size` bytes, padding included."""
    return (size + 2) // 3 * 4


def _two_parts(picture: Picture, offset: int, size: int) -> tuple[bytes, bytes]:
    """Return an encoded piece and, apart from it, its last few characters.

    aiohttp and httpx keep what they were last given while they wait for what comes next: fifty
    uploads that wait for their turn would hold fifty large pieces. What they keep is these few.
    """
    rest = size % 3 or 3
    if size <= SMALL_PIECE:
        return picture.encoded(offset, size)[0], b""
    large, last = picture.encoded(offset, size - rest, rest)
    return large, last


def _encode(content: memoryview, sizes: tuple[int, ...]) -> list[bytes]:
    encode = _encoder()
    _validator()  # both are known from here on, and no event loop will import
    starts = accumulate(sizes, initial=0)
    return [
        encode(content[start : start + size]) for start, size in zip(starts, sizes, strict=False)
    ]


@functools.cache
def _encoder() -> Callable[[Any], bytes]:
    """Return the fastest encoder there is, found at its first use and in a worker thread then."""
    try:
        import pybase64
    except ImportError:
        return functools.partial(binascii.b2a_base64, newline=False)
    return pybase64.b64encode


@functools.cache
def _validator() -> Callable[[bytes], bool]:
    """Return the fastest test of whether text is base64, with padding only at its end."""
    try:
        import pybase64
    except ImportError:
        return _is_base64

    def decodes(part: bytes) -> bool:
        try:
            pybase64.b64decode(part, validate=True)
        except ValueError:
            return False
        return True

    return decodes


def _is_base64(part: bytes) -> bool:
    # A quarter of what decoding with the standard library costs: 6 ms for 10 MiB, not 29.
    rest = part.translate(None, _ALPHABET)
    return rest in (b"", b"=", b"==") and part.endswith(rest)


_ALPHABET: Final = (string.ascii_letters + string.digits + "+/").encode()


def codec_is_known() -> bool:
    """Return False if pybase64 would be imported now: that reads files, so a thread must do it."""
    return bool(_encoder.cache_info().currsize and _validator.cache_info().currsize)


def forget_codec() -> None:
    """Look again for pybase64 at the next picture: for tests and benchmarks of both codecs."""
    _encoder.cache_clear()
    _validator.cache_clear()


def _json_text(image: Image) -> bytes:
    try:
        image.source.encode()
    except UnicodeEncodeError:
        raise refuse(
            "image", image, "must be a URL that UTF-8 can hold (no lone surrogates)"
        ) from None
    return json.dumps(image.source)[1:-1].encode()


def _warn_if_large(picture: Picture) -> None:
    if picture.size > LARGE_PICTURE:
        _log.warning(
            "the picture has %.1f MiB; over %d MiB the provider may refuse it",
            picture.size / 2**20,
            LARGE_PICTURE // 2**20,
        )


def _require_regular(mode: int, image: Image) -> None:
    if stat.S_ISDIR(mode):
        raise refuse("image", str(image.source), "must be a file, and this is a folder")
    if not stat.S_ISREG(mode):
        raise refuse("image", str(image.source), "must be a regular file, not a pipe or a device")


def _open_without_waiting(path: str, flags: int) -> int:
    # O_NONBLOCK: a pipe that took the file's place since it was looked at would wait for a writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _read_exactly(file: IO[bytes], size: int) -> bytes:
    """Return `size` bytes, or fewer if the file ends before."""
    piece = file.read(size)
    if len(piece) == size:
        return piece
    whole = bytearray(piece)
    while len(whole) < size and (piece := file.read(size - len(whole))):
        whole += piece
    return bytes(whole)


def _can_seek(image: Image) -> bool:
    try:
        return bool(image.source.seekable())
    except AttributeError:
        return False
    except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
        raise refuse("image", image, f"must be a readable file ({_reason(error)})") from None


def _read_to_end(image: Image) -> bytearray:
    content = bytearray()
    while True:
        try:
            piece = image.source.read(LARGE_PIECE)
        except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
            raise refuse("image", image, f"must be a readable file ({_reason(error)})") from None
        _require_bytes(piece, image)
        if not piece:
            return content
        content += piece
        if len(content) > LARGEST_UNSEEKABLE:
            raise refuse(
                "image",
                image,
                f"given as a file that cannot seek must not be over {LARGEST_UNSEEKABLE} bytes",
            )


def _require_bytes(piece: object, image: Image) -> None:
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise refuse(
            "image",
            image,
            f"must be a file opened in binary mode: its read() gave {type(piece).__name__}",
        )


def _changed(name: str, what: str) -> InvalidRequest:
    limit = "must not change while it is being sent"
    return InvalidRequest(
        f"image {limit}; {name!r} did ({what}). The connection was cut before the end of the "
        f"request, so that no job was made and nothing was billed.",
        field="image",
        value=name,
        limit=limit,
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__


# By identity, as files and pictures of strangers need not be hashable; each entry lives as long as
# a body that uses it, and with it the object, so that the number cannot be given away meanwhile.
_locks: weakref.WeakValueDictionary[int, _Lock] = weakref.WeakValueDictionary()


class _Lock:
    """A lock that can be weakly held."""

    __slots__ = ("__weakref__", "_lock", "_of")

    def __init__(self, thing: object) -> None:
        self._lock = threading.Lock()
        self._of = thing

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _lock_of(thing: object) -> _Lock:
    return _locks.setdefault(id(thing), _Lock(thing))


if hasattr(os, "register_at_fork"):
    # A thread that held one of them does not exist in the child.
    os.register_at_fork(after_in_child=_locks.clear)

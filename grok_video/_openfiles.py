"""Pictures in open files of the caller, each read in one thread of its own that can be left alone.

Such a file may be a network's and never answer, and several may share one place (readers over the
same file). What must never happen here: two threads at once in what lies under a file, because
pieces of one picture would be sent and paid for as another's; and a file that is silent in the way
of another upload, or of the end of its own call.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import threading
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, cast

import anyio

from grok_video._arguments import refuse
from grok_video._base64 import encode
from grok_video._errors import InvalidRequest
from grok_video._pictures import (
    MemoryPicture,
    changed,
    lock_of,
    read_exactly,
    reason_of,
    require_rest,
)
from grok_video._requests import SNIFF_LENGTH, require_picture
from grok_video._transports._loops import caller_of, context_without_loop, running_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from grok_video._requests import Image

__all__ = ["FilePicture", "StreamPicture", "hash_file", "open_file"]

T = TypeVar("T")

#: Bytes of a file that cannot seek, which has to be held in memory to be measured.
LARGEST_UNSEEKABLE: Final = 128 * 2**20
#: Bytes of a file that are hashed at once.
_HASHED_AT_ONCE: Final = 2**20
#: Files that are looked for under one (a tar in a gzip in a buffer over a file has six).
_MOST_UNDER: Final = 32


async def open_file(image: Image, at_once: int) -> FilePicture | StreamPicture:
    """Return the measured picture of a file; one that cannot seek is read `at_once` bytes a time.

    Raises `InvalidRequest` if it cannot be read or has no picture.
    """
    thread = _thread_for(image)
    return await thread.run(partial(_open, image, thread, at_once))


async def hash_file(image: Image) -> str:
    """Return the hash of what a file has from its position on, where it is left.

    Raises `InvalidRequest` if it cannot be read, or not twice.
    """
    is_left = threading.Event()
    return await _thread_for(image).run(partial(_hash, image, is_left), is_left)


def _hash(image: Image, is_left: threading.Event) -> str:
    if not _can_seek(image):
        raise refuse(
            "key",
            image,
            "must be given with a picture out of a file that cannot seek, whose content is known "
            "only once it was read: (key, request), or BatchItem(key, request)",
        )
    digest, file = hashlib.sha256(), image.source
    try:
        start, size = file.tell(), 0
        try:
            while not is_left.is_set() and (piece := file.read(_HASHED_AT_ONCE)):
                digest.update(piece)
                size += len(piece)
        finally:
            file.seek(start)
    except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
        raise refuse("image", image, f"must be a readable file ({reason_of(error)})") from None
    require_rest(start, size, image)
    return digest.hexdigest()


def _thread_for(image: Image) -> FileThread:
    if inspect.iscoroutinefunction(getattr(image.source, "read", None)):
        raise refuse(
            "image",
            image,
            "must be a file whose read() returns bytes; pass the plain file under it",
        )
    return FileThread.of(image.source)


def _open(image: Image, thread: FileThread, at_once: int) -> FilePicture | StreamPicture:
    if _can_seek(image):
        return FilePicture(image, thread)
    return StreamPicture(image, at_once)


class FilePicture:
    """A picture in an open file of the caller, which is left at the position it was found at.

    Made in the thread of its file, where all of it is read.
    """

    __slots__ = ("_file", "_start", "_thread", "mime", "size")

    def __init__(self, image: Image, thread: FileThread) -> None:
        self._file: Any = image.source
        self._thread = thread
        try:
            self._start: int = self._file.tell()
            try:
                self._file.seek(0, os.SEEK_END)
                self.size: int = max(0, self._file.tell() - self._start)
                self._file.seek(self._start)
                head = self._file.read(SNIFF_LENGTH)
            finally:
                self._file.seek(self._start)
        except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
            raise refuse("image", image, f"must be a readable file ({reason_of(error)})") from None
        _require_bytes(head, image)
        require_rest(self._start, self.size, image)
        self.mime = require_picture(bytes(head), image, self.size)

    async def run(self, work: Callable[[], T]) -> T:
        """Return what the work returns, which may call `encoded`: done in the file's thread."""
        return await self._thread.run(work)

    def encoded(self, offset: int, *sizes: int) -> list[bytes]:
        """Return the base64 of neighbouring parts of these sizes, the first from `offset`.

        Raises `InvalidRequest` if the file no longer has what was measured.
        """
        return encode(memoryview(self._read(offset, sum(sizes))), sizes)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            # Put back each time: another create may read the same file, and must find its start
            # where the caller left it.
            try:
                self._file.seek(self._start + offset)
                piece = read_exactly(self._file, size)
                if offset + size == self.size and self._file.read(1):
                    raise changed(type(self._file).__name__, "it grew")
            finally:
                self._file.seek(self._start)
        except InvalidRequest:
            raise
        except (SystemExit, KeyboardInterrupt) as error:
            # In a task of a transport it would end the loop and be told to nobody: in this one's
            # place, `submit` raises it.
            raise changed(type(self._file).__name__, reason_of(error)) from error
        except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
            raise changed(type(self._file).__name__, reason_of(error)) from None
        if len(piece) != size:
            raise changed(type(self._file).__name__, f"it ends before its {self.size} bytes")
        return piece


# --- what cannot seek -----------------------------------------------------------------------------


class StreamPicture(MemoryPicture):
    """A picture out of a file that cannot seek; its content stays until a create of it is accepted.

    A create that was not taken may be sent again, by this call or by the batch that it is of, and
    nobody can read the file a second time.
    """

    __slots__ = ("_stream",)

    def __init__(self, image: Image, at_once: int) -> None:
        self._stream = _stream_of(image.source)
        content = self._stream.content(image, at_once)
        try:
            super().__init__(content, image)
        except InvalidRequest:
            self._stream.forget()  # it is no picture, and is not sent
            raise

    def spend(self) -> None:
        """It was accepted, and nobody needs what was read any more."""
        self._stream.forget()


class _Stream:
    """What was read of a file that cannot seek."""

    __slots__ = ("_content", "_is_begun")

    def __init__(self) -> None:
        self._content: bytearray | None = None
        self._is_begun = False

    def content(self, image: Image, at_once: int) -> bytearray:
        """Return all that the file had, read to its end now if nobody has yet."""
        if self._content is None:
            if self._is_begun:
                raise refuse(
                    "image",
                    image,
                    "given as a file that cannot seek can be sent once, and was read already; "
                    "pass its bytes to send it again",
                )
            self._is_begun = True
            self._content = _read_to_end(image, at_once)
        return self._content

    def forget(self) -> None:
        self._content = None


#: By identity, as strangers' files need not be hashable; each as long as its file.
_streams: Final[dict[int, tuple[weakref.ref[Any], _Stream]]] = {}


def _stream_of(file: Any) -> _Stream:  # noqa: ANN401 - any object can be a file
    number = id(file)
    found = _streams.get(number)
    if found is not None and found[0]() is file:
        return found[1]
    stream = _Stream()
    with contextlib.suppress(TypeError):  # of a class that has no room for it: then it is not known
        _streams[number] = weakref.ref(file, lambda _: _streams.pop(number, None)), stream
    return stream


def _can_seek(image: Image) -> bool:
    """Return whether the file can be measured without being read."""
    try:
        return bool(image.source.seekable())
    except AttributeError:
        return False
    except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
        raise refuse("image", image, f"must be a readable file ({reason_of(error)})") from None


def _read_to_end(image: Image, at_once: int) -> bytearray:
    content = bytearray()
    while True:
        try:
            piece = image.source.read(at_once)
        except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
            raise refuse("image", image, f"must be a readable file ({reason_of(error)})") from None
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


# --- threads --------------------------------------------------------------------------------------


class FileThread:
    """Where all is done that is asked of one file, and of all that share its place: one at a time.

    A daemon, and none as long as nothing is asked. A file may be silent for hours: none of the few
    picture threads waits for it, and none of anyio's own, which a process waits for when it ends.
    """

    __slots__ = ("__weakref__", "_places", "_visits", "_works")

    def __init__(self, roots: list[object]) -> None:
        # They hold the roots as well, so that their numbers cannot be given away meanwhile.
        self._places = [lock_of(root) for root in roots]
        self._visits: deque[_Visit[Any]] = deque()
        #: Held while there is a thread. Never waited for: the event loop asks.
        self._works = threading.Lock()

    @classmethod
    def of(cls, file: object) -> FileThread:
        """Return the one for this file."""
        roots = _roots_of(file)
        return _threads.setdefault(tuple(map(id, roots)), cls(roots))

    async def run(self, work: Callable[[], T], is_left: threading.Event | None = None) -> T:
        """Return what the work returns; whoever is cancelled leaves it alone, soon if it was begun.

        `is_left` is set then, for work that goes on for long and need not.
        """
        visit = _Visit(work)
        self._visits.append(visit)
        try:
            self._start()
            return await visit.result()
        except BaseException:
            if is_left is not None:
                is_left.set()
            if visit.leave():
                with contextlib.suppress(ValueError):  # it is taken out at this moment
                    self._visits.remove(visit)
            else:
                # The file is the caller's again, who must not find it moved by us.
                with anyio.move_on_after(_GRACE, shield=True):
                    await visit.is_over.wait()
            raise

    def _start(self) -> None:
        if self._works.acquire(blocking=False):
            try:
                _Reader.free().take(self._work)
            except BaseException:
                self._works.release()
                raise

    def _work(self) -> None:
        while True:
            while self._visits:
                self._do_next()
            self._works.release()
            # What came since the last look has found it held.
            if not self._visits or not self._works.acquire(blocking=False):
                return

    def _do_next(self) -> None:
        with contextlib.ExitStack() as held:
            # Files that share some of their places, and not all, have threads of their own: here
            # one of them waits, which may be for a file that is silent.
            for place in self._places:
                held.enter_context(place)
            try:
                visit = self._visits.popleft()
            except IndexError:
                return  # it was left since the last look
            visit.do()


class _Reader:
    """A thread that does one thing after another, whatever file it is of.

    Between two pieces of an upload it is not ended: the event loop would wait for the start of the
    next one, with a busy thread beside it for as long as that is let run.
    """

    __slots__ = ("_is_given", "_work")

    #: Those that wait for work. Only single steps are taken with it, as many threads do.
    idle: ClassVar[list[_Reader]] = []

    def __init__(self) -> None:
        self._work: Callable[[], None] | None = None
        #: Released when there is work.
        self._is_given = threading.Lock()
        self._is_given.acquire()
        threading.Thread(target=self._run, name="grok_video reading a file", daemon=True).start()

    @classmethod
    def free(cls) -> _Reader:
        """Return one that has nothing to do."""
        try:
            return cls.idle.pop()
        except IndexError:
            return cls()

    def take(self, work: Callable[[], None]) -> None:
        """Have it do this, once."""
        self._work = work
        self._is_given.release()

    def _run(self) -> None:
        while self._comes():
            work, self._work = self._work, None
            assert work is not None  # noqa: S101 - for the type checker
            work()
            del work  # it holds a file
            self.idle.append(self)

    def _comes(self) -> bool:
        """Return True once there is work, False if there will be none."""
        while not self._is_given.acquire(timeout=_IDLE):
            try:
                self.idle.remove(self)
            except ValueError:
                continue  # it is about to be given some
            return False
        return True


#: Seconds for which a call that has ended waits for what it has begun with a file: a healthy disk
#: needs less for a piece.
_GRACE: Final = 1.0
#: Seconds that a reader waits for work: more than there are between most pieces of an upload.
_IDLE: Final = 1.0


class _Visit(Generic[T]):
    """Something that is asked of a file."""

    __slots__ = ("_call_soon", "_claim", "_context", "_failure", "_results", "_work", "is_over")

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._context = context_without_loop()
        self._call_soon = caller_of(running_loop())
        self._results: list[T] = []
        self._failure: BaseException | None = None
        #: Taken once: by who begins it, or by who leaves it before.
        self._claim = threading.Lock()
        #: Set in its loop once it was done.
        self.is_over = anyio.Event()

    def leave(self) -> bool:
        """Nobody waits for it any more; return whether it never begins."""
        return self._claim.acquire(blocking=False)

    def do(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        try:
            self._results.append(self._context.run(self._work))
        except BaseException as error:  # noqa: BLE001 - raised below, where it is waited for
            self._failure = error
        with contextlib.suppress(RuntimeError):  # the loop may be gone
            self._call_soon(self.is_over.set)

    async def result(self) -> T:
        await self.is_over.wait()
        if self._failure is not None:
            raise self._failure
        return self._results.pop()


#: By identity, as above; each entry lives as long as a picture that uses it.
_threads: weakref.WeakValueDictionary[tuple[int, ...], FileThread] = weakref.WeakValueDictionary()
if hasattr(os, "register_at_fork"):
    # None of them exists in the child.
    os.register_at_fork(after_in_child=_threads.clear)
    os.register_at_fork(after_in_child=_Reader.idle.clear)


def _roots_of(file: object) -> list[object]:
    """Return what lies under a file, or under many, and moves when one of them is read.

    In the one order in which all who want several of them take their locks.
    """
    seen: dict[int, object] = {id(file): file}
    roots: dict[int, object] = {}
    waiting = [file]
    while waiting:
        one = waiting.pop(0)
        under = _under(one)
        new = [held for held in under if id(held) not in seen]
        if len(seen) + len(new) > _MOST_UNDER:
            new = []
        seen |= {id(held): held for held in new}
        waiting += new
        if not under:
            roots[id(one)] = one
    # Those that lie under each other are all of them.
    return [one for _, one in sorted((roots or seen).items())]


def _under(file: Any) -> list[object]:  # noqa: ANN401 - any object can be a file
    """Return the files that this one may read from."""
    found: list[object] = []
    with contextlib.suppress(Exception):  # any object can stand there, or none any more
        beside: dict[str, object] = getattr(file, "__dict__", {})
        for held in (getattr(file, "raw", None), *beside.values()):
            kind = type(cast("object", held))  # its own attributes may be asked of a network
            if hasattr(kind, "read") and hasattr(kind, "seek"):
                found.append(held)
    return found

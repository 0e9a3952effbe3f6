"""The file on disk while a video is fetched: checked, locked, resumable, renamed when it is whole.

Everything here blocks and is called in worker threads. Nothing here knows HTTP, and nothing but
`finish` ever touches the final name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import define, evolve, field

from grok_video import _disk
from grok_video._destination import Destination
from grok_video._errors import DestinationError
from grok_video._partrecord import Record
from grok_video._place import TAKEN, TAKEN_MEANWHILE, Place, refusal
from grok_video._ranges import Version

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Batch", "PartFile", "kept_words"]

#: Bytes read at once while a kept part is hashed again, and bytes for each call: a call cannot be
#: cancelled, and 16 MiB take about 10 ms.
_BLOCK: Final = 2**20
_STRETCH: Final = 16 * 2**20
#: Buffers in one write: IOV_MAX is 1024 on Linux and macOS.
_MOST_BUFFERS: Final = 512
#: Attempts to get hold of a part whose last holder renames or removes it just then.
_HOLDS: Final = 10


@define
class Batch:
    """What waits to be written. The thread that wrote something takes it out of here."""

    #: Set when the file begins anew with these chunks.
    restart: Version | None = None
    chunks: list[bytes] = field(factory=list[bytes])
    size: int = 0

    def add(self, chunk: bytes) -> None:
        """Append a chunk."""
        self.chunks.append(chunk)
        self.size += len(chunk)

    def begin(self, version: Version) -> None:
        """Forget what waits: the file begins anew, in this version."""
        self.restart = version
        self.chunks.clear()
        self.size = 0


#: The parts that this process holds. A forked child has their descriptors too, and would go on
#: holding them when the parent has let go.
_held: weakref.WeakSet[PartFile] = weakref.WeakSet()


def _forget_all() -> None:
    for part in list(_held):
        part.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class PartFile:
    """`NAME.part` beside the destination, held by one download at a time.

    Each method takes the lock, because a cancelled caller may leave its thread still writing when
    `close` is called from another.
    """

    def __init__(
        self,
        destination: str | os.PathLike[str],
        *,
        overwrite: bool,
        sha256: bool,
        request_id: str,
        adopt: bool = False,
    ) -> None:
        """See the class; `adopt` takes what has the destination's name for the video if it is."""
        self._destination = Destination.of(destination)
        self._place: Place  # made by `open`
        self._record: Record
        self._overwrite = overwrite
        self._adopt = adopt
        self._request_id = request_id
        self._mutex = threading.Lock()
        self._descriptor = -1
        self._closed = False
        #: True where what the part holds is nothing, or this job's and known for what it is.
        self._is_own = False
        self._wants_hash = sha256
        #: None where nothing is to be hashed: it costs about as much as all the rest of a download.
        self._hash = hashlib.sha256() if sha256 else None
        self._hashed = 0
        #: The hash of what was kept, as the record has it; None where it has none.
        self._sealed: str | None = None
        #: Bytes on disk, and which.
        self.size = 0
        self.version = Version()
        self.saved = False

    def forget(self) -> None:
        """The part is another process's: this one was forked from it."""
        # Without the lock, which a thread that is not here may hold.
        self._closed = True
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def path(self) -> Path:
        """The destination, as the caller named it while that leads there."""
        return Path(self._destination.name_now())

    @property
    def part(self) -> Path:
        """The part file, beside the destination as the caller named it while that leads there."""
        return self.path.parent / self._place.part.name

    @property
    def sha256(self) -> str | None:
        """The hash of the bytes written, in hexadecimal; None where it was not asked for."""
        return self._hash.hexdigest() if self._wants_hash and self._hash is not None else None

    def open(self) -> None:
        """Hold the part: what an earlier try of the same job kept is found again.

        Raises `DestinationError` if the destination cannot be written, or another download is
        writing there.
        """
        with self._mutex:
            if self._closed:
                return
            self._place = Place(self._destination)
            problem = self._place.check(overwrite=self._overwrite, adopt=self._adopt)
            if problem is not None:
                raise self._refuse(problem)
            self._record = Record(self._place.record, self._request_id)
            try:
                self._record.check()  # before a part is made that nobody would remove
                _held.add(self)
                self._hold()
                self._recall()
            except BaseException as error:
                self._release()  # so that `close` removes nothing that may not be ours
                if isinstance(error, OSError):
                    raise self._refuse(_disk.words(error)) from error
                raise

    @property
    def is_hashed(self) -> bool:
        """True if the hash covers what is on disk, or none is needed."""
        return self._hash is None or self._hashed == self.size

    def rehash(self) -> None:
        """Hash the next stretch of what was kept, and forget it if it is not what was kept."""
        with self._mutex:
            if self._closed or self._hash is None:
                return
            end = min(self.size, self._hashed + _STRETCH)
            try:
                self._hashed = self._feed(self._hash.update, self._hashed, end)
            except OSError as error:
                raise self._refuse(_disk.words(error)) from error
            if self._hashed < end:  # somebody cut the file: go on from what is there
                self.size = self._hashed
            if not self.is_hashed:
                return
            if self._sealed not in (None, self._hash.hexdigest()):
                self.size = self._hashed = 0
                self.version = Version()
            if not self._wants_hash:
                self._hash = None

    def store(self, batch: Batch) -> None:
        """The batch is written (not yet synced) and empty. Raises `DestinationError` if not."""
        with self._mutex:
            if not self._closed:
                self._store(batch)

    def finish(self, batch: Batch) -> None:
        """The whole file is under its final name, synced, and the part is gone.

        Raises `DestinationError` if it cannot be put there; the part is kept then, unless it could
        not be synced.
        """
        with self._mutex:
            if self._closed:
                return
            self._store(batch)
            try:
                self._sync()
                self._note_length()
                if os.name == "nt":  # an open file cannot be renamed there
                    self._release()
                self._rename()
            except FileExistsError as error:
                raise self._refuse(TAKEN if self._adopt else TAKEN_MEANWHILE) from error
            except OSError as error:
                raise self._refuse(_disk.words(error)) from error
            self.saved = self._closed = True
            self._release()
            self._record.remove()
            try:
                _disk.sync_folder(self._place.file.parent)
            except OSError as error:
                problem = (
                    f"it is there and whole, but may not outlast a power cut ({error.strerror})"
                )
                raise self._refuse(problem) from error

    def close_unopened(self) -> bool:
        """Return whether there is nothing to close, and `open` will open nothing any more.

        Does not block, so that who never got as far as a thread needs none to leave.
        """
        if not self._mutex.acquire(blocking=False):
            return False  # a cancelled caller's thread is at work
        try:
            self._closed = self._closed or self._descriptor < 0
            return self._descriptor < 0
        finally:
            self._mutex.release()

    def close(self, batch: Batch) -> int:
        """Nothing is open any more. Return how many bytes are kept for the next try.

        What waits is written first. A part that no later try could use is removed, but not what
        another job may have kept there before this one had anything to put in its place.
        """
        with self._mutex:
            self._closed = True
            if self._descriptor < 0:
                return 0
            try:
                return self._close(batch)
            except OSError:
                return 0
            finally:
                self._release()

    def _close(self, batch: Batch) -> int:
        with contextlib.suppress(DestinationError, OSError):
            self._store(batch)
        is_here = _disk.is_at(self._descriptor, self._place.part)
        is_whole = is_here and os.fstat(self._descriptor).st_size == self.size
        kept = self.size if is_whole and self.version.serves_again(self.size) else 0
        if not is_here:
            pass  # what has its name now is somebody's
        elif kept:
            with contextlib.suppress(OSError):
                self._seal()
        elif self._is_own:
            if os.name == "nt":  # an open file cannot be removed there
                self._release()
            with contextlib.suppress(OSError):
                self._place.part.unlink(missing_ok=True)
            self._record.remove()
        return kept

    # --- under the lock --------------------------------------------------------------------------

    def _hold(self) -> None:
        """The part is open, and only this download has it."""
        part = self._place.part
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        for _ in range(_HOLDS):
            # Known at once: what is forked from now on closes its own.
            self._descriptor = os.open(part, flags, 0o666)
            problem = _disk.hindrance(self._descriptor)
            if problem is not None:
                raise self._refuse(f"{part.name} {problem}")
            if self._is_at(self._descriptor, part):
                return
            self._release()
        raise self._refuse(f"{part.name} is renamed or removed by somebody all the time")

    def _is_at(self, descriptor: int, part: Path) -> bool:
        """Return whether the locked file still has the part's name, and no other.

        Whoever held it before may have given it the final name, or removed it. A second name means
        that a process died in the middle of `_rename`, unless the file is not ours: writing would
        change the finished one, wherever that was moved since.
        """
        if not _disk.is_at(descriptor, part):
            return False
        if os.fstat(descriptor).st_nlink > 1:
            if self._place.is_foreign():
                raise self._refuse(self._place.foreign_words)
            part.unlink()
            return False
        return True

    def _recall(self) -> None:
        """Read what the part holds; forget it if it is not provably of this job."""
        size = os.fstat(self._descriptor).st_size
        self._is_own = not size
        if not size:
            return
        try:
            kept = self._record.read(size)
        except FileNotFoundError:
            # The record is written before the first byte, so a part without one is not ours.
            raise self._refuse(self._place.foreign_words) from None
        self._is_own = kept is not None or self._record.is_spent
        if kept is None:
            return
        self.size, (self.version, self._sealed) = size, kept
        if self._sealed is not None and self._hash is None:
            self._hash = hashlib.sha256()  # to be compared, and then no more

    def _seal(self) -> None:
        """The record has a seal, so that the next try knows if somebody changed the part."""
        if self._record.is_sealed:
            return
        digest = self._hash if self._wants_hash and self.is_hashed else None
        if digest is None:
            digest = hashlib.sha256()
            if self._feed(digest.update, 0, self.size) < self.size:
                return
        self._record.seal(self.size, digest.hexdigest())

    def _feed(self, update: Callable[[bytes], None], start: int, end: int) -> int:
        """Hash what is on disk from here to there. Return where that ended: the file may be cut."""
        os.lseek(self._descriptor, start, os.SEEK_SET)
        while start < end:
            block = os.read(self._descriptor, min(_BLOCK, end - start))
            if not block:
                break
            update(block)
            start += len(block)
        return start

    def _store(self, batch: Batch) -> None:
        try:
            if batch.restart is not None:
                self._begin(batch.restart)
                batch.restart = None
            self._append(batch)
        except OSError as error:
            raise self._refuse(_disk.words(error)) from error

    def _begin(self, version: Version) -> None:
        if self._adopt and not self._overwrite and self._is_of_another_length(version):
            raise self._refuse(TAKEN)  # known before the first byte of what would be for nothing
        # What is there gives way to it, whoever's it is.
        needed = (version.total or 0) - _disk.taken_space(self._descriptor)
        free = _disk.free_space(self._place.file.parent) if needed > 0 else None
        if free is not None and free < needed:
            problem = f"the disk is full (the video needs {needed} bytes more, {free} are free)"
            raise self._refuse(problem) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._is_own = True
        os.ftruncate(self._descriptor, 0)
        self.size = self._hashed = 0
        self._hash = hashlib.sha256() if self._wants_hash else None
        self.version = version
        self._record.write(version)

    def _append(self, batch: Batch) -> None:
        chunks = batch.chunks
        if chunks:
            self._require_unchanged()
            self._record.unseal()
            os.lseek(self._descriptor, self.size, os.SEEK_SET)
        while chunks:
            written = _disk.write(self._descriptor, chunks[:_MOST_BUFFERS])
            self.size += written
            batch.size -= written
            done = 0
            while done < len(chunks) and written >= len(chunks[done]):
                self._digest(chunks[done])
                written -= len(chunks[done])
                done += 1
            if written:
                self._digest(memoryview(chunks[done])[:written])
                chunks[done] = chunks[done][written:]
            del chunks[:done]

    def _digest(self, data: bytes | memoryview) -> None:
        if self._hash is not None:
            self._hash.update(data)
            self._hashed += len(data)

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError:
            # What could not be written is told of once, and may be gone from memory as well: the
            # next sync would say that all is well. So nothing of this part is believed any more.
            self.version = Version()
            raise

    def _note_length(self) -> None:
        """The record says how long the video is, where only its end has told that.

        So the next try knows that the part is all of it, should the name be taken.
        """
        if self.version.total is None:
            self.version = evolve(self.version, total=self.size)
            with contextlib.suppress(OSError):  # a whole video is not given up for its record
                self._record.write(self.version)

    def _rename(self) -> None:
        part, file = self._place.part, self._place.file
        if self._descriptor >= 0:  # on Windows nobody else can have changed it
            self._require_unchanged()
            if not _disk.is_at(self._descriptor, part):
                raise self._changed()
        if self._overwrite:
            os.replace(part, file)  # noqa: PTH105 - the function's name says that it is atomic
            return
        try:
            if os.name == "nt":
                part.rename(file)  # refuses an existing file there
            else:
                _disk.rename_without_replacing(part, file)
        except FileExistsError:
            if not (self._adopt and _disk.is_alike(part, file)):
                raise
            part.unlink()  # the other one is the video, from before a death

    def _is_of_another_length(self, version: Version) -> bool:
        """Return whether what has the destination's name cannot be the video, by its length."""
        try:
            return version.total not in (None, self._place.file.lstat().st_size)
        except FileNotFoundError:
            return False

    def _require_unchanged(self) -> None:
        if os.fstat(self._descriptor).st_size != self.size:
            raise self._changed()

    def _changed(self) -> DestinationError:
        name = self._place.part.name
        return self._refuse(f"{name} was changed by somebody while it was written")

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            _disk.let_go(descriptor)

    def _refuse(self, problem: str) -> DestinationError:
        return refusal(self._destination, problem, self._request_id)


def kept_words(kept: int, part: Path) -> str:
    """Return the sentence that says what is kept."""
    return f"{kept} bytes are kept in {part}; downloading again continues there."

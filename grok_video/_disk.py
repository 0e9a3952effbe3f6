"""What the operating system offers for files, made alike: locks, renames, syncs, reasons in words.

One function for each, with what differs between systems inside it. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@functools.cache
def boot() -> str | None:
    """Return what names this boot of the machine; None where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def hindrance(descriptor: int) -> str | None:
    """Return why this file cannot be written by this download alone, or None once it is locked."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return "is not a file of ours; move it away"
    # Some network file systems have no locks at all; two downloads of one job would then write the
    # same bytes to the same places.
    held = lock(descriptor, or_else=True)
    return None if held else "is being written by another download at this moment"


def lock(descriptor: int, *, or_else: bool | None = None) -> bool:
    """Return whether the file is now held by this descriptor alone, until it is closed.

    Where the file system has no locks it is `or_else`, or an `OSError` without that.
    """
    if os.name == "nt":
        return _lock_on_windows(descriptor)
    import fcntl

    try:
        # flock, not lockf: it belongs to the open file, so two of one process exclude each other as
        # two processes do.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        lacking = error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
        if or_else is None or not lacking:
            raise
        return or_else
    return True


def _lock_on_windows(descriptor: int) -> bool:
    import msvcrt

    locking: Callable[[int, int, int], None] = getattr(msvcrt, "locking")  # noqa: B009
    try:
        os.lseek(descriptor, 2**40, os.SEEK_SET)  # far behind any byte that is read or written
        locking(descriptor, getattr(msvcrt, "LK_NBLCK"), 1)  # noqa: B009
    except OSError:
        return False
    return True


def share(descriptor: int, start: int, length: int) -> bool:
    """Return whether nobody can have this range of the file alone now; where locks are lacking too.

    POSIX: the lock is the whole process's, whichever descriptor it was taken with. A fork does not
    inherit it, and it is gone when the process closes the file anywhere.
    """
    if os.name == "nt":
        return True
    import fcntl

    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, length, start)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def let_go(descriptor: int) -> None:
    """The file is closed, and its lock is free.

    Also where a child has the descriptor, which it does not know of if it was forked while the file
    was opened. (A child that gives up its own must only close it: the lock is one for both.)
    """
    try:
        if os.name != "nt":
            import fcntl

            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def is_still(path: Path, file: os.stat_result) -> bool:
    """Return whether this name still leads to the file that it led to then."""
    try:
        return os.path.samestat(path.stat(), file)
    except OSError:
        return False


def may(path: Path, mode: int) -> bool:
    """Return whether this process may use it so (`os.access`), as who it is now."""
    # A file system may refuse for reasons of its own (/proc does).
    as_now = os.access in os.supports_effective_ids
    return os.access(path, mode, effective_ids=as_now)


def its_owners(path: Path) -> str | None:
    """Return in words that only another user may replace what is there, as in /tmp, or None."""
    if os.name == "nt":
        return None
    try:
        folder, file = path.parent.stat(), path.lstat()
    except FileNotFoundError:
        return None
    if not folder.st_mode & stat.S_ISVTX or os.geteuid() in (0, folder.st_uid, file.st_uid):
        return None
    return f"{path.name} is another user's, and its folder lets nobody else replace it"


def refused(path: Path) -> str | None:
    """Return why this user cannot go on with the file and rename it, or None."""
    problem = its_owners(path)
    if problem is None and not may(path, os.R_OK | os.W_OK) and os.path.lexists(path):
        problem = _refused(path)
    return problem


def _refused(path: Path) -> str:
    return f"{path.name} may not be read and written by this user; move it away"


def write(descriptor: int, chunks: list[bytes]) -> int:
    # Gathered by the system: joining 1 MiB first would copy every byte once more.
    if hasattr(os, "writev"):
        return os.writev(descriptor, chunks)
    return os.write(descriptor, chunks[0])


def rename_without_replacing(part: Path, file: Path) -> None:
    """Give the part its final name unless something has that name. Raises `FileExistsError`."""
    try:
        file.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links (FAT, some network ones), or something that forbids this
        # one: there are too many words for that to list. Claim the name, then replace what was
        # claimed; what else is wrong is told by that. A process killed between the two leaves an
        # empty file.
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            part.replace(file)
        except OSError:
            file.unlink()
            raise
    else:
        part.unlink()


def is_alike(one: Path, other: Path, block: int = 2**20) -> bool:
    """Return whether two files have the same bytes; False for what is no plain file."""
    for path in (one, other):
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
    with one.open("rb") as first, other.open("rb") as second:
        while chunk := first.read(block):
            if second.read(block) != chunk:
                return False
        return not second.read(1)


def sync_folder(folder: Path) -> None:
    """Make the new name durable, where the system lets a folder be synced."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def free_space(folder: Path) -> int | None:
    if not hasattr(os, "statvfs"):
        return None
    facts = os.statvfs(folder)
    # A file system that counts nothing (some FUSE ones) says zero blocks in all.
    return facts.f_bavail * facts.f_frsize if facts.f_blocks else None


def taken_space(descriptor: int) -> int:
    """Return the bytes of the disk that the open file has: of one with holes, fewer than it reads.

    Zero where the system does not say, which is where it does not tell `free_space` either.
    """
    return getattr(os.fstat(descriptor), "st_blocks", 0) * 512  # whatever its st_blksize


def words(error: OSError) -> str:
    """Return the reason in words: the system's own, but for the usual ones."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk is full"
        case errno.EFBIG:
            return "the file would be larger than this process or file system allows"
        case errno.EROFS:
            return "the file system is read-only"
        case errno.EACCES | errno.EPERM:
            # Of a renaming there are two names, and it is their folder that refuses.
            if error.filename is not None and error.filename2 is None:
                file = Path(os.fsdecode(error.filename))
                if os.path.lexists(file):
                    return _refused(file)
            return "the folder cannot be written to"
        case errno.ELOOP:
            return "the part file's name is a symbolic link; move it away"
        case _:
            return error.strerror or type(error).__name__

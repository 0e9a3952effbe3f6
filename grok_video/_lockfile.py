"""A file that says who is writing: held by one process at a time, and let go by its death.

The kernel keeps the lock and releases it when the process ends, however it ends; the words in the
file only serve the message to the second one. A lock must never be judged by its words alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from grok_video import _disk

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Held", "LockFile"]

#: Bytes read of a lock file: its words are about a hundred.
_LONGEST: Final = 4096


class Held(Exception):
    """Somebody else holds the lock; the message says who, as far as is known."""


class LockFile:
    """A lock that this process holds until `release`, or until it dies."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        _held.add(self)

    @classmethod
    def take(cls, path: Path) -> Self:
        """Return the lock. Raises `Held` if another has it, `OSError` if there can be no file."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        while True:
            descriptor = os.open(path, flags, 0o666)
            try:
                _hold(descriptor)
                # Whoever let it go has removed the file: what was locked may have no name now.
                if _disk.is_at(descriptor, path):
                    _sign(descriptor)
                    return cls(path, descriptor)
            except BaseException:
                _disk.let_go(descriptor)
                raise
            _disk.let_go(descriptor)

    def is_in_place(self) -> bool:
        """Return whether the file that is held still has its name."""
        return self._descriptor >= 0 and _disk.is_at(self._descriptor, self._path)

    def release(self, *, keep: bool = False) -> None:
        """Anybody may take the lock, and the file is gone unless it is to be kept."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        # An open file cannot be removed on Windows; its words stay behind there. So they do where
        # its folder cannot be looked into any more.
        if os.name != "nt" and not keep:
            with contextlib.suppress(OSError):
                if _disk.is_at(descriptor, self._path):
                    self._path.unlink()
        _disk.let_go(descriptor)

    def forget(self) -> None:
        """The lock is another process's: this one was forked from it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _hold(descriptor: int) -> None:
    if not _disk.lock(descriptor):
        raise Held(_holder(descriptor))


#: The locks of this process. A forked child has their descriptors too, and would hold them on
#: after the death of its parent.
_held: weakref.WeakSet[LockFile] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _sign(descriptor: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    words = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    with contextlib.suppress(OSError):  # a full disk: the lock holds without words
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(words).encode() + b"\n")


def _holder(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        words: Any = json.loads(os.read(descriptor, _LONGEST))
        return f"process {words['pid']} on {words['host']}, since {words['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # which has not signed yet

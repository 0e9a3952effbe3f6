"""The record of a part on disk, `NAME.part.json`: which video of which job its bytes are.

It is never followed through a link, and what is not ours under its name is never changed.
Everything here blocks, and only who holds the part writes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from grok_video import _disk
from grok_video._ranges import Version, strong
from grok_video._rawanswer import is_object

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_FORMAT: Final = 1
#: How every record of ours begins, of whatever format.
_BEGINNING: Final = b'{"format": '
_OURS: Final = re.compile(re.escape(_BEGINNING) + rb"\d+[,}]")
#: Longer than any record of ours: the headers of an answer have 100 kB at most (h11).
_LONGEST: Final = 2**20
# No link is followed, and a pipe is not waited for. Windows lacks both flags.
_FLAGS: Final = (
    getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)


class NotOurs(OSError):
    """Somebody else has something under the record's name; it was not touched."""


class Record:
    """`NAME.part.json`: a line that says which version the part is of, and perhaps a seal.

    The seal is the part's length and hash as the last try left it.
    """

    def __init__(self, path: Path, request_id: str) -> None:
        self._path = path
        self._request_id = request_id
        #: Where the seal begins; None where there is none.
        self._seal_at: int | None = None
        #: True once it has said that the part is this job's, not all of the video, and that nothing
        #: can be added to it. Where less is known the part may be all there is of a paid video.
        self.is_spent = False

    def check(self) -> None:
        """Raise `NotOurs` if what has the record's name is not ours to write."""
        with contextlib.suppress(FileNotFoundError), self._open(os.O_RDONLY):
            pass

    def read(self, size: int) -> tuple[Version, str | None] | None:
        """Return which version a part of this size is of, and its hash if there is a seal.

        None where its bytes cannot be relied on. Raises `FileNotFoundError` if there is no record.
        """
        with self._open(os.O_RDONLY) as file:
            line, _, seal = file.read().partition(b"\n")
        try:
            facts = json.loads(line)
            sealed_size, digest = json.loads(seal) if seal else (size, None)
        except (TypeError, ValueError, RecursionError):
            return None
        version = _version(facts, self._request_id)
        if sealed_size != size or version is None or (seal and not isinstance(digest, str)):
            return None
        if version.total is not None and size > version.total:
            return None
        if not version.serves_again(size):
            self.is_spent = version.total is not None
            return None
        self._seal_at = len(line) if seal else None
        return version, digest

    def write(self, version: Version) -> None:
        """The record is of this version, and has no seal."""
        self._seal_at = None
        facts = {
            "format": _FORMAT,
            "request_id": self._request_id,
            "etag": version.etag,
            "modified": version.modified,
            "total": version.total,
            "weak": version.weak,
            "boot": _disk.boot(),
        }
        with self._open(os.O_RDWR | os.O_CREAT) as file:
            file.truncate(0)
            file.write(json.dumps(facts).encode())

    @property
    def is_sealed(self) -> bool:
        """True if the record has a seal."""
        return self._seal_at is not None

    def seal(self, size: int, digest: str) -> None:
        """Add to the record what is kept, so that the next try knows if somebody changed it.

        Added, and taken off again before anything is written: the line of the version is never
        torn, what a killed process has written is relied on, and a try that wrote nothing vouches
        for nothing.
        """
        with self._open(os.O_RDWR) as file:
            file.seek(0, os.SEEK_END)
            file.write(b"\n" + json.dumps([size, digest]).encode())

    def unseal(self) -> None:
        """The record has no seal any more."""
        if self._seal_at is not None:
            with self._open(os.O_RDWR) as file:
                file.truncate(self._seal_at)
            self._seal_at = None

    def remove(self) -> None:
        """The record is gone, or it is not ours, or the system does not let it go."""
        with contextlib.suppress(OSError):
            self.check()
            self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _open(self, flags: int) -> Generator[BinaryIO]:
        """Give the record, open at its start. Raises `NotOurs` if it is not ours."""
        if self._path.is_symlink():  # one that comes just now is refused by the flag
            raise self._not_ours()
        descriptor = os.open(self._path, flags | _FLAGS, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._not_ours()
        with os.fdopen(descriptor, "rb" if flags == os.O_RDONLY else "r+b") as file:
            if not _is_ours(file.read(_LONGEST + 1)):
                raise self._not_ours()
            file.seek(0)
            yield file

    def _not_ours(self) -> NotOurs:
        return NotOurs(errno.EEXIST, f"{self._path.name} is not a file of ours; move it away")


def _is_ours(content: bytes) -> bool:
    """Return whether a record of ours may look so, were it whole or torn.

    A crash while it is written leaves the first bytes of it, none, or zeros (its length came to the
    disk, its bytes did not).
    """
    if len(content) > _LONGEST:
        return False
    torn = _BEGINNING + b"%d" % _FORMAT
    return torn.startswith(content) or _OURS.match(content) is not None or not content.strip(b"\0")


def _version(facts: Any, request_id: str) -> Version | None:  # noqa: ANN401 - JSON of any kind
    """Return the version that a record names, or None if the part cannot be relied on."""
    if not is_object(facts) or facts.get("format") != _FORMAT:
        return None
    if facts.get("request_id") != request_id:
        return None
    # After a power cut the length of a file may be there and its bytes not (delayed allocation),
    # so only what was written since this boot counts.
    if facts.get("boot") != _disk.boot():
        return None
    etag, modified, total = facts.get("etag"), facts.get("modified"), facts.get("total")
    weak = facts.get("weak")
    return Version(
        strong(etag) if isinstance(etag, str) else None,
        modified if isinstance(modified, str) else None,
        total if isinstance(total, int) else None,
        weak if isinstance(weak, str) else None,
    )

"""What a file server's answer means to someone who has the first bytes already; no I/O.

RFC 9110 says what a range is, when the rest of a file may be added to its beginning, and when it
may not; this is the one module that knows. `judge` decides, `_transfer` acts.
"""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Final, TypeAlias

from attrs import frozen

from grok_video._errors import APIError, RateLimited, ServerError
from grok_video._refusals import read_retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Digits of a length: 2**63 has 19, and Python itself refuses to read more than 4300.
_LENGTH: Final = re.compile(r"\d{1,19}", re.ASCII)
_CONTENT_RANGE: Final = re.compile(
    r"bytes\s+(?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19}|\*)\s*", re.ASCII | re.IGNORECASE
)


@frozen
class Version:
    """Which bytes a server has, whatever link leads to them."""

    #: A strong ETag as it came, quotes included (see `strong`).
    etag: str | None = None
    #: Last-Modified as it came; asked only where there is no ETag.
    modified: str | None = None
    #: Length of the whole file in bytes; None where the server did not say.
    total: int | None = None
    #: A weak ETag as it came. Equal ones prove nothing; two that differ are of different bytes.
    weak: str | None = None

    @property
    def is_provable(self) -> bool:
        """True if a later answer can be compared with it, so that kept bytes can be used again."""
        return self.etag is not None or self.modified is not None

    def serves_again(self, size: int) -> bool:
        """Return whether its first `size` bytes are of use later: with the rest, or as all of it.

        To a whole file nothing is added, so nothing need be compared.
        """
        return self.is_provable or size == self.total

    def is_same(self, other: Version) -> bool:
        """Return whether both are provably the same bytes."""
        if None not in (self.total, other.total) and self.total != other.total:
            return False
        if self.etag is not None or other.etag is not None:
            return self.etag == other.etag
        if None not in (self.weak, other.weak) and self.weak != other.weak:
            return False  # of one second, perhaps
        return self.modified is not None and self.modified == other.modified


@frozen
class Follows:
    """The bytes from `start` on follow, of this version."""

    start: int
    version: Version
    #: Where a part of the file ends: less may come than was asked for (RFC 9110, section 15.3.7).
    #: None where the answer is the whole file.
    end: int | None = None


@frozen
class Complete:
    """There is nothing more to fetch."""


@frozen
class StartOver:
    """What is here cannot be continued with this answer: ask for the whole file."""


@frozen
class LinkDied:
    """The link leads nowhere (any more, or not yet)."""

    status: int


@frozen
class Passing:
    """The server cannot answer at this moment."""

    failure: APIError


Verdict: TypeAlias = Follows | Complete | StartOver | LinkDied | Passing


def judge(
    status: int, headers: Mapping[str, str], *, have: int, version: Version, whole: bool = False
) -> Verdict:
    """Return what a file server's answer means to someone who has the first `have` bytes.

    `version` is what those bytes are of; `whole` says that all of the file was asked for
    nevertheless. RFC 9110, sections 13.1.5 (If-Range), 14.4 (Content-Range) and 15.3.7 (206).
    """
    match status:
        case 200:
            return Follows(0, version_of(headers, total=_length(headers)))
        case 206:
            match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
            if match is None or match[1] is None:
                return StartOver()
            start, end = int(match[1]), int(match[2]) + 1
            total = int(match[3]) if match[3] != "*" else None
            if whole or not have:
                if (start, end) != (0, total):
                    return StartOver()  # a part that nobody asked for
                return Follows(0, version_of(headers, total=total), end)
            new = version_of(headers, total=version.total if total is None else total)
            # A range that cannot be is not to be added to anything (section 14.4).
            possible = start < end and (new.total is None or end <= new.total)
            if start != have or not possible or not new.is_same(version):
                return StartOver()
            return Follows(have, new, end)
        case 416:
            match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
            is_end = have > 0 and match is not None and match[3] == str(have)
            return Complete() if is_end and version.total in (None, have) else StartOver()
        case 412 | 501 if have and not whole:
            return StartOver()  # of a server that knows no ranges, or no condition
        case 408 | 425 | 429:
            return Passing(_failure(RateLimited, status, headers))
        case _ if 400 <= status < 500:
            # 400, 401, 403, 404 and 410 are all in use for a signed link that ran out, and some of
            # them for a range that is not served.
            return LinkDied(status)
        case _:
            return Passing(_failure(ServerError, status, headers))


def request_headers(have: int, version: Version) -> dict[str, str]:
    """Return the headers that ask for what is missing, and for all of it if the file changed."""
    if not have:
        return {}
    headers = {"Range": f"bytes={have}-"}
    if version.etag is not None:
        headers["If-Range"] = version.etag
    return headers


def version_of(headers: Mapping[str, str], *, total: int | None) -> Version:
    """Return the version that an answer's headers name."""
    tag = headers.get("etag", "").strip()
    etag = strong(tag)
    weak = tag if tag and etag is None else None
    return Version(etag, headers.get("last-modified") or None, total, weak)


def strong(etag: str) -> str | None:
    """Return this ETag if it can be compared and sent back, or None.

    A weak one ("W/...") promises the same meaning, not the same bytes (RFC 9110, section 8.8.1).
    One with a byte above 127 is allowed there, but httpx refuses to send it.
    """
    is_strong = len(etag) > 2 and etag[0] == etag[-1] == '"'
    return etag if is_strong and etag.isascii() and etag.isprintable() else None


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if _LENGTH.fullmatch(text) else None


def _failure(kind: type[APIError], status: int, headers: Mapping[str, str]) -> APIError:
    wish = read_retry_after(headers, now=time.time())
    return kind(f"the file server answered HTTP {status}", status=status, retry_after=wish)


class Boxes:
    """Follows the top-level boxes of an MP4 file (ISO/IEC 14496-12, section 4.2).

    Tells whether a file that came without any length can be whole: it ends where a box does, and
    has its index (`moov`). Without that nothing can be played, and what writes one puts it last.
    """

    def __init__(self) -> None:
        self._head = b""
        self._skip = 0.0
        self._has_index = False

    @property
    def is_between(self) -> bool:
        """True where a file may end."""
        return self._has_index and not self._head and self._skip in (0, math.inf)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the file."""
        at = 0
        while at < len(chunk):
            if self._skip:
                step = int(min(self._skip, len(chunk) - at))
                self._skip -= step
                at += step
                continue
            taken = chunk[at : at + self._missing]
            at += len(taken)
            self._head += taken
            if not self._missing:
                self._enter()

    @property
    def _missing(self) -> int:
        """Bytes until the head is complete: 8, or 16 where its length is the long one."""
        return (16 if self._head[:4] == b"\0\0\0\1" else 8) - len(self._head)

    def _enter(self) -> None:
        self._has_index = self._has_index or self._head[4:8] == b"moov"
        size = int.from_bytes(self._head[8:] or self._head[:4], "big")
        # Zero means: to the end of the file. A length below that of the head itself is broken.
        self._skip = max(0, size - len(self._head)) if size else math.inf
        self._head = b""

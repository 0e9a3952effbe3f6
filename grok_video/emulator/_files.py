"""Which bytes of a file a request gets: Range, If-Range and the validators, as RFC 9110 says.

Pure: headers and a size in, a status and a slice out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

_RANGE: Final = re.compile(r"bytes=\s*([0-9]*)-([0-9]*)\s*")
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')

# No file is longer, and Python reads no number of thousands of digits.
_DIGITS: Final = 18


@attrs.frozen
class Part:
    """The part of a file that is sent: from `start`, `count` bytes, under this status."""

    status: int
    start: int
    count: int


def part(headers: Mapping[str, str], size: int, etag: str, modified: str) -> Part:
    """The part asked for, 416 if it lies outside, 304 if the client has it already.

    More than one range, or a range nobody can read, is answered with the whole file, as RFC 9110,
    section 14.2, allows.
    """
    known = headers.get("if-none-match", "")
    # A list, compared weakly: RFC 9110, section 13.1.2.
    if known.strip() == "*" or etag in _TAG.findall(known):
        return Part(304, 0, 0)
    whole = Part(200, 0, size)
    wanted = headers.get("range")
    if wanted is None or headers.get("if-range", etag) not in (etag, modified):
        return whole
    match = _RANGE.fullmatch(wanted)
    if match is None or match[1] == match[2] == "":
        return whole
    if match[1] == "":
        count = min(_number(match[2]), size)
        return Part(206, size - count, count) if count else Part(416, 0, 0)
    start = _number(match[1])
    last = min(_number(match[2]), size - 1) if match[2] else size - 1
    if match[2] and _number(match[2]) < start:
        return whole
    return Part(206, start, last - start + 1) if start < size else Part(416, 0, 0)


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _DIGITS else 10**_DIGITS

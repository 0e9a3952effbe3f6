"""Base64 as a codec: its length, pieces of it that join, and whether text is base64 at all.

Here live the search for pybase64 and what the standard library does without it. What must never
happen here: a copy of the whole of anything, and an opinion about where the bytes come from.
"""

from __future__ import annotations

import binascii
import functools
import string
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "codec_is_known",
    "codec_is_quick",
    "encode",
    "encoded_size",
    "forget_codec",
    "validator",
]


def encoded_size(size: int) -> int:
    """Return the length of the base64 of `size` bytes, padding included."""
    return (size + 2) // 3 * 4


def encode(content: memoryview, sizes: tuple[int, ...]) -> list[bytes]:
    """Return the base64 of neighbouring parts of these sizes, one after the other."""
    encode_one = _encoder()
    validator()  # both are known from here on, and no event loop will import
    starts = accumulate(sizes, initial=0)
    return [
        encode_one(content[start : start + size])
        for start, size in zip(starts, sizes, strict=False)
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
def validator() -> Callable[[bytes], bool]:
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
    return bool(_encoder.cache_info().currsize and validator.cache_info().currsize)


def codec_is_quick() -> bool:
    """Return whether pybase64 was found, which takes a quarter of the standard library's time."""
    return codec_is_known() and not isinstance(_encoder(), functools.partial)


def forget_codec() -> None:
    """Look again for pybase64 at the next picture: for tests and benchmarks of both codecs."""
    _encoder.cache_clear()
    validator.cache_clear()

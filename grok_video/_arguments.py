"""What callers give, checked and refused: in words that name the argument, its value and its limit.

All refusals of the package are made here, so that they read alike and never show a picture or a
key; what is a good value is known where it is used.
"""

from __future__ import annotations

import contextlib
import math
import os
from typing import TYPE_CHECKING, Any, Final, cast

from grok_video._errors import InvalidRequest
from grok_video._redaction import SCAN_LIMIT, lift, redact, veil_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = [
    "problem_of_id",
    "refuse",
    "refuse_unknown",
    "require_flags",
    "require_one_of",
    "require_path",
    "require_positive",
    "require_request_id",
    "require_seconds",
    "require_whole",
]

#: Bits of the largest int that is shown with its digits.
_SHOWN_BITS: Final = 256
#: Arguments that people bring from other SDKs, and what to use here.
_FOREIGN_ARGUMENTS: Final = {
    "size": "this endpoint has no size: use aspect_ratio (such as '16:9') and resolution ('720p')",
    "seconds": "use duration (an int, 1 to 15)",
    "image_url": "use image (a URL string is fine)",
    "ratio": "use aspect_ratio",
    "n": "one create makes one video: call submit once for each",
}


def refuse(name: str, value: object, limit: str) -> InvalidRequest:
    """Return the refusal of one argument; its message names field, value and limit."""
    shown = _show(value)
    return InvalidRequest(
        f"{name} {limit}; got {shown}. Nothing was sent.", field=name, value=shown, limit=limit
    )


def require_positive(name: str, value: float, limit: str = "must be a number above 0") -> float:
    """Return a positive, finite number, or refuse it."""
    if not isinstance(value, bool) and isinstance(value, int | float):
        with contextlib.suppress(OverflowError):  # an int may be more than any float
            if 0 < value < math.inf:
                return float(value)
    raise refuse(name, value, limit)


def require_seconds(name: str, value: float | None) -> float | None:
    """Return a positive, finite number of seconds, or None for no end; or refuse it."""
    if value is None:
        return None
    return require_positive(name, value, "must be a number of seconds above 0, or None")


def require_whole(name: str, value: int) -> None:
    """Refuse what is no int of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise refuse(name, value, "must be a whole number, 1 or more")


def require_one_of(name: str, value: object, known: Collection[str]) -> None:
    """Refuse what is none of these."""
    if value not in known:
        raise refuse(name, value, f"must be one of {', '.join(known)}")


def require_path(name: str, value: object) -> None:
    """Refuse what no file can be named by."""
    kinds: tuple[type, ...] = (str, os.PathLike)
    # The length of a text alone: another kind may raise where it is compared.
    empty = isinstance(value, str) and not value
    if empty or not isinstance(value, kinds):
        raise refuse(name, value, "must be a path (a str or os.PathLike) that is not empty")


def require_flags(**flags: bool) -> None:
    """Refuse what is neither True nor False: the text "no" would mean yes."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise refuse(name, value, "must be True or False")


def require_request_id(request_id: str) -> str:
    """Return an id as it is. Raises `InvalidRequest` if it can be none."""
    problem = problem_of_id(request_id)
    if problem is not None:
        raise refuse("request_id", request_id, problem)
    return request_id


def problem_of_id(request_id: object) -> str | None:
    """Return why something can be no id, or None: ids are opaque, but never blank."""
    if not isinstance(request_id, str) or not request_id.strip():
        return "must be a str that is not blank"
    if request_id.strip().lower().startswith(("http://", "https://")):
        return "must be the id alone, which is what stands after /videos/ in an address"
    # Names of folders in the path of a URL (RFC 3986, section 5.2.4): another job is not there.
    return "must not be a dot or two" if request_id in (".", "..") else None


def refuse_unknown(function: Callable[..., object], unknown: dict[str, Any]) -> None:
    """Refuse leftover keyword arguments of a function, with what to use instead if that is known.

    They are veiled from then on, in the frames of whoever was given them.

    Raises `InvalidRequest` for what other SDKs have, and `TypeError`, as Python does, otherwise.
    """
    veil_all(unknown)
    for name, value in unknown.items():
        if name in _FOREIGN_ARGUMENTS:
            raise refuse(name, lift(value), f"is not an argument: {_FOREIGN_ARGUMENTS[name]}")
        # Both are of use to mistakes alone.
        import difflib
        import inspect

        known = [each for each in inspect.signature(function).parameters if each != "self"]
        near = difflib.get_close_matches(name, known, 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        message = (
            f"{function.__name__}() got an unexpected keyword argument {name!r}.{meant} Nothing "
            "was sent."
        )
        raise TypeError(message)


def _show(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(cast('bytes', value))} bytes"
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return f"an int of {value.bit_length()} bits"  # Python may refuse to spell it
    if isinstance(value, str) and len(value) > SCAN_LIMIT:
        # The rest is not copied: the event loop would wait for that.
        return redact(repr(value[:SCAN_LIMIT]), limit=120, length=len(value))
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 - of the value's own class: what is refused is still refused
        return f"a {type(value).__name__} that cannot be shown"
    return redact(shown, limit=120)

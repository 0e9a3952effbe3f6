"""The hash of a request: off the event loop, and where a create was lost, without a way to fail.

What must never happen here: an error that takes the place of what is to be told of a create that
may have been paid for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grok_video._threads import Threads

if TYPE_CHECKING:
    from grok_video._requests import VideoRequest

__all__ = ["fingerprint_of", "last_fingerprint", "late_fingerprint"]

#: Length of a picture in memory from which it is hashed in a worker thread: 64 KiB take 0.05 ms.
_LARGE: Final = 2**16
#: For what is in memory alone: whoever waits for one of them waits for no disk.
_HASHES: Final = Threads(2, "hashes")


async def fingerprint_of(request: VideoRequest) -> str:
    """Return the hash of a request without holding the event loop."""
    image = request.image
    if image is not None and image.kind in ("bytes", "data") and len(image.source) > _LARGE:
        # A picture of 20 MiB takes 15 ms: not in the event loop.
        return await _HASHES.run(request.fingerprint)
    return request.fingerprint()


async def late_fingerprint(request: VideoRequest) -> str:
    """Return the hash of a request whose create was lost, empty where there is none."""
    try:
        return await fingerprint_of(request)
    except Exception:  # noqa: BLE001 - a `ValueError`, say, would be taken for a refusal
        return ""


def last_fingerprint(request: VideoRequest) -> str:
    """Return the same where nothing can be waited for any more."""
    try:
        return request.fingerprint()
    except Exception:  # noqa: BLE001 - as above
        return ""

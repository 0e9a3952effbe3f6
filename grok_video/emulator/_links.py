"""Links to files: issued by the thousand, remembered by none.

A file's name carries the job's serial number and the moment it was issued, signed, so that a link
can be checked, and found too old, without a table of links. Knows no jobs and no clock.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Links:
    """Names under one secret; the same secret after a restart knows them again."""

    def __init__(self, secret: bytes, life: float, killed: Iterable[str] = ()) -> None:
        self._secret = secret
        self._life = life
        self._last = 0
        self._killed = set(killed)

    def issue(self, serial: int, now: float) -> str:
        """A fresh file name for this job; no two are equal."""
        self._last = max(self._last + 1, int(now * 1_000_000))
        token = f"{serial:x}-{self._last:x}"
        return f"xai-video-{token}-{self._sign(token)}.mp4"

    def read(self, name: str, now: float) -> int | None:
        """The serial of the job a file name was issued for; `None` if it is dead or invented."""
        try:
            serial, issued, signature = (
                name.removeprefix("xai-video-").removesuffix(".mp4").split("-")
            )
            found, age = int(serial, 16), now - int(issued, 16) / 1_000_000
        except ValueError:
            return None
        if signature != self._sign(f"{serial}-{issued}") or age > self._life:
            return None
        return None if name in self._killed else found

    def kill(self, name: str) -> None:
        """From now on this link is dead; others of the same job live on."""
        self._killed.add(name)

    def _sign(self, token: str) -> str:
        return hashlib.blake2s(token.encode(), key=self._secret, digest_size=8).hexdigest()

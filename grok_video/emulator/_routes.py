"""Which request belongs to which phase: one table, asked by the server and by the connections.

A connection asks before aiohttp has parsed anything, for a fault that strikes inside a request;
were its answer another one than the server's, a cut would hit what it was not meant for.
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import attrs

from ._scripts import Phase

CREATE_PATH: Final = "/videos/generations"
POLL_PATH: Final = "/videos/"
FILE_PATH: Final = "/files/"
# Not part of the API: how a test in another process asks and steers this emulator.
CONTROL_PATH: Final = "/_emulator"

# The longest first line that aiohttp takes; what is longer is refused by it, as a line.
_LONGEST: Final = 8190


@attrs.frozen
class Place:
    """A phase, and the methods it is asked with."""

    phase: Phase
    methods: tuple[str, ...]


_CREATE: Final = Place("create", ("POST",))
_POLL: Final = Place("poll", ("GET",))
_DOWNLOAD: Final = Place("download", ("GET", "HEAD"))
_METHODS: Final = ("GET", "HEAD", "POST")


@attrs.frozen
class Routes:
    """The addresses of one emulator."""

    base_path: str

    def place(self, path: str, *, files: bool) -> Place | None:
        """The place at this path, unquoted, of the API or of the origin that has only files."""
        if path.startswith(FILE_PATH):
            return _DOWNLOAD
        if files or not path.startswith(self.base_path + POLL_PATH):
            return None
        return _CREATE if path == self.base_path + CREATE_PATH else _POLL

    def request_id(self, path: str) -> str:
        """The id in the path of a poll."""
        return path[len(self.base_path + POLL_PATH) :]

    def phase(self, method: str, path: str, *, files: bool) -> Phase | None:
        """The phase of a request to this path, unquoted; `None` if it belongs to none."""
        place = self.place(path, files=files)
        return place.phase if place is not None and method in place.methods else None

    def phase_of(self, data: bytes, *, files: bool) -> Phase | Literal["unclear"] | None:
        """The phase of a request by its first bytes; `"unclear"` if there are too few."""
        line, ended, _ = data[: _LONGEST + 1].partition(b"\n")
        words = line.decode("latin-1").split(" ", 2)
        method = words[0]
        if len(words) < 3:
            # What cannot become a method of ours is none of our requests: it is not held back.
            known = any(
                one == method or (len(words) == 1 and one.startswith(method)) for one in _METHODS
            )
            return "unclear" if known and not ended and len(line) <= _LONGEST else None
        target = words[1]
        try:
            return self.phase(method, unquote(urlsplit(target).path), files=files)
        except ValueError:
            return None

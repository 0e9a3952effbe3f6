"""What an emulator remembers of what it saw: values, bounded in number.

Tests read these from another thread; nothing here holds a picture, a body or a socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, TypeVar

import attrs

from ._scripts import Phase


@attrs.frozen
class Create:
    """One create that was accepted, and would have been billed."""

    request_id: str
    price: Decimal
    """USD, by the provider's list."""
    fields: Mapping[str, Any]
    """What the caller sent; a data URI is cut to its type and length."""
    fingerprint: str
    """SHA-256 of the body as received."""
    at: float
    """Unix seconds of the accepting."""


@attrs.define
class Request:
    """One request that reached the emulator, whatever became of it."""

    number: int
    """From 1, in order of arrival."""
    method: str
    path: str
    origin: Literal["api", "files"]
    """Which of the emulator's two origins it came to."""
    headers: Mapping[str, str]
    """All headers as received, names in lower case."""
    at: float
    """Unix seconds of its arrival."""
    connection: int
    """Number of the connection it came on, from 1."""
    phase: Phase | None = None
    """What it is for; `None` if the API has nothing there, or not for this method."""
    received: int = 0
    """Bytes of its body; of the whole request where a fault cut it."""
    status: int | None = None
    """Status of the answer, or `None` if none was sent."""
    answered: float | None = None
    """Unix seconds at which the answer began."""
    sent: int = 0
    """Bytes of the answer, headers included."""
    retry_after: float | None = None
    """Seconds the answer told the client to wait, if it did."""
    fault: object | None = None
    """The fault it met."""
    request_id: str | None = None
    """The job it created, polled or downloaded."""

    @property
    def authorization(self) -> str | None:
        """The value of its Authorization header."""
        return self.headers.get("authorization")


class Records:
    """Counters that only grow and logs that keep the newest `keep` entries.

    Written by the server's thread alone and read by any, without a lock: a reader must never make
    the server wait.
    """

    def __init__(self, keep: int) -> None:
        self._creates: deque[Create] = deque(maxlen=keep)
        self._requests: deque[Request] = deque(maxlen=keep)
        self.accepted = 0
        self.bill = Decimal(0)
        self.seen = 0
        self.polls = 0
        self.downloads = 0
        self.connections = 0

    def accept(self, create: Create) -> None:
        """Counts an accepted create and its price."""
        self.accepted += 1
        self.bill += create.price
        self._creates.append(create)

    def see(self, request: Request) -> None:
        """Adds a request to the log."""
        self._requests.append(request)

    def creates(self) -> tuple[Create, ...]:
        """The newest accepted creates, oldest first."""
        return _copy(self._creates)

    def requests(self) -> tuple[Request, ...]:
        """The newest requests, oldest first."""
        return _copy(self._requests)

    def early(self) -> tuple[Request, ...]:
        """The creates that came while an earlier answer's `Retry-After` had time left."""
        found: list[Request] = []
        waits: list[tuple[float, float]] = []
        for request in self.requests():
            if request.phase != "create":
                continue
            if any(answered < request.at < until for answered, until in waits):
                found.append(request)
            if request.retry_after and request.answered is not None:
                waits.append((request.answered, request.answered + request.retry_after))
        return tuple(found)


_T = TypeVar("_T")


def _copy(log: deque[_T]) -> tuple[_T, ...]:
    while True:
        try:
            return tuple(log)
        except RuntimeError:  # the server appended meanwhile
            continue

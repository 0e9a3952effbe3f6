"""What can be made to go wrong, as values: one class for each way, nothing that happens.

A script is a list of these for one phase (`"create"`, `"poll"` or `"download"`), consumed strictly
in order, one for each request of the phase; `Pass()` lets a request through. `accepted` says what
a fault in the create phase means for the bill: `True` when the job was accepted and is billed all
the same, `False` when nothing was. What is sent and when is the server's business.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from typing import Literal, TypeAlias, cast, get_args

import attrs
from attrs import validators

Header: TypeAlias = tuple[str, str]
ModerationShape: TypeAlias = Literal["flag", "poll", "failed", "top-level", "envelope"]
MODERATION_SHAPES: tuple[ModerationShape, ...] = get_args(ModerationShape)

# A stall must end by itself, whatever a test forgets: ten minutes is what clients wait in all.
_LONGEST = 600.0


def _seconds(default: float) -> float:
    return attrs.field(default=default, validator=[validators.ge(0.0), validators.le(_LONGEST)])


def _count(default: int) -> int:
    return attrs.field(default=default, validator=validators.ge(0))


@attrs.frozen
class Fault:
    """The common parent."""

    accepted: bool = attrs.field(default=True, init=False, repr=False, kw_only=True)
    """Whether a create that meets this fault is accepted and billed."""


@attrs.frozen
class Pass(Fault):
    """Nothing goes wrong: the request is answered as if no script were there."""


# ---------------------------------------------------------------------------- at the socket


@attrs.frozen
class Refuse(Fault):
    """Connections are refused for `seconds`; nothing is accepted.

    It begins when it heads its phase and the phase can be reached: a create at any time, a poll
    once a job was accepted, a download once a poll was answered `done`. Idle connections are
    closed, so that the next request has to connect. A refused connection leaves no trace at a
    server, so this fault counts as consumed when its time is over.
    """

    seconds: float = _seconds(0.2)
    accepted: bool = attrs.field(default=False, init=False, repr=False, kw_only=True)


@attrs.frozen
class CloseOnAccept(Fault):
    """The next new connection is taken and closed before a byte is read; nothing is accepted.

    It is armed like `Refuse`, and consumed by the connection that meets it.
    """

    reset: bool = False
    """Reset (RST) instead of closed (FIN)."""
    accepted: bool = attrs.field(default=False, init=False, repr=False, kw_only=True)


@attrs.frozen
class CutRequest(Fault):
    """The connection ends after `after` bytes of the request, or after all of it (`None`).

    A request shorter than `after` is cut when it is complete.
    """

    after: int | None = None
    reset: bool = True
    """Reset (RST) instead of closed (FIN)."""
    accepted: bool = attrs.field(default=False, kw_only=True)
    """Whether a create that arrived whole was accepted before the connection ended."""

    def __attrs_post_init__(self) -> None:
        if self.accepted and self.after is not None:
            raise ValueError("a create cut before its end cannot have been accepted")


@attrs.frozen
class CutAnswer(Fault):
    """The real answer ends after `after` bytes, counted from its status line.

    A create is accepted and billed. An answer shorter than `after` is sent whole before the
    connection ends.
    """

    after: int = _count(0)
    reset: bool = True


@attrs.frozen
class Stall(Fault):
    """Nothing more comes for `seconds`, then the connection ends or, with `resume`, goes on."""

    seconds: float = _seconds(1.0)
    after: int | None = None
    """Bytes of the answer that are sent before the stall; `None` stalls before the answer."""
    resume: bool = False
    """Whether the answer goes on after the stall; then a create is accepted in any case."""
    accepted: bool = attrs.field(default=False, kw_only=True)
    """Whether a create was accepted; always so when any of the answer is sent."""

    def __attrs_post_init__(self) -> None:
        if self.after is not None or self.resume:
            object.__setattr__(self, "accepted", True)


# ---------------------------------------------------------------------------- in HTTP


def _body(value: bytes | str | dict[str, object] | list[object] | None) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return b"" if value is None else json.dumps(value).encode()


def _headers(value: Iterable[Header] | Mapping[str, str]) -> tuple[Header, ...]:
    pairs = cast("Mapping[str, str]", value).items() if isinstance(value, Mapping) else value
    return tuple(pairs)


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))


@attrs.frozen
class Answer(Fault):
    """This answer is sent in place of the real one."""

    status: int = attrs.field(
        validator=[validators.instance_of(int), validators.ge(200), validators.le(599)]
    )
    body: bytes = attrs.field(default=b"", converter=_body)
    """Bytes, text, or a value to be written as JSON."""
    headers: tuple[Header, ...] = attrs.field(default=(), converter=_headers)
    """Pairs, or a mapping."""
    content_type: str = "application/json"
    accepted: bool = attrs.field(default=False, kw_only=True)
    """Whether a create was accepted and billed before this answer hid it."""
    retry_after: Literal["none", "seconds", "date", "ms"] = "none"
    """How `retry_after_seconds` is written: `Retry-After` in seconds or as a date, or
    `retry-after-ms`. Seconds are whole there (RFC 9110, 10.2.3); a fraction comes in
    `retry-after-ms` beside them."""
    retry_after_seconds: float = attrs.field(
        default=0.0, validator=[validators.ge(0.0), validators.lt(math.inf)]
    )

    def all_headers(self) -> tuple[Header, ...]:
        """The headers with `Retry-After` as of now: a date must be in the future when sent."""
        seconds = self.retry_after_seconds
        match self.retry_after:
            case "none":
                return self.headers
            case "seconds":
                whole = ("Retry-After", str(math.ceil(seconds)))
                rest = () if seconds == int(seconds) else (("retry-after-ms", _ms(seconds)),)
                return (*self.headers, whole, *rest)
            case "date":
                date = formatdate(time.time() + seconds, usegmt=True)
                return (*self.headers, ("Retry-After", date))
            case "ms":
                return (*self.headers, ("retry-after-ms", _ms(seconds)))


@attrs.frozen
class WrongLength(Fault):
    """The real answer's Content-Length is off by `delta`; a create is accepted.

    A length that is too long ends with a closed connection; one that is too short leaves bytes on
    the wire behind the answer.
    """

    delta: int = 10


@attrs.frozen
class EndlessHeaders(Fault):
    """Headers that never end, one each `interval` seconds for `seconds`; then it is closed."""

    seconds: float = _seconds(1.0)
    interval: float = _seconds(0.005)
    accepted: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class HugeJSON(Fault):
    """A JSON body of `size` bytes that starts like an answer and is streamed."""

    size: int = _count(1 << 30)
    status: int = 200
    accepted: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class DeepJSON(Fault):
    """A JSON body nested `depth` levels deep, enough to break a recursive reader."""

    depth: int = _count(100_000)
    status: int = 200
    accepted: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class GzipBomb(Fault):
    """A small gzip body that unpacks to `size` bytes of JSON."""

    size: int = _count(1 << 30)
    status: int = 200
    accepted: bool = attrs.field(default=False, kw_only=True)


# ---------------------------------------------------------------------------- in a job's life


@attrs.frozen
class LifeFault(Fault):
    """Something in the job's life, answered well-formed.

    In the create phase it strikes the job being created, which is accepted and billed; in the poll
    phase the job being polled. It stays with the job: later polls say the same.
    """


@attrs.frozen
class UnknownStatus(LifeFault):
    """The job answers a status word nobody documented, for so many polls."""

    word: str = "reticulating"
    polls: int = _count(1)


@attrs.frozen
class DoneWithoutURL(LifeFault):
    """The job is done and its `video.url` is empty."""


@attrs.frozen
class Moderated(LifeFault):
    """The job ends refused by moderation, and billed, in one of the shapes seen.

    `"flag"`: done, no URL, `respect_moderation` false. `"poll"`: the poll answers 400
    `imagine:content-moderated`. `"failed"`: status failed with an error. `"top-level"`: 200 with
    `{code, error}`. `"envelope"`: an envelope with FAILURE, whatever the form.
    """

    shape: ModerationShape = "flag"


@attrs.frozen
class TaskNotExist(LifeFault):
    """The gateway does not know the job yet: for so many polls, and for so many seconds."""

    polls: int = _count(1)
    seconds: float = _seconds(0.0)
    """Seconds from the create on, real and not scaled."""


@attrs.frozen
class StuckProgress(LifeFault):
    """The job says `processing` at the same percentage for so many polls, whatever its age."""

    percent: int = 35
    polls: int = _count(5)


@attrs.frozen
class Backwards(LifeFault):
    """The job goes back: each poll says one of these percentages; 0 says `queued` again."""

    percents: tuple[int, ...] = attrs.field(default=(60, 20, 0, 35), converter=tuple)


@attrs.frozen
class Expired(LifeFault):
    """The job has expired."""


@attrs.frozen
class Failed(LifeFault):
    """The job has failed with this error."""

    code: str = "internal_error"
    message: str = "Video generation failed."


# ---------------------------------------------------------------------------- in the file


@attrs.frozen
class FileFault(Fault):
    """Something about the file; only for the download phase."""


@attrs.frozen
class CutFile(FileFault):
    """The connection ends after `at` bytes of the body, though the length promised more."""

    at: int = _count(1024)
    reset: bool = False
    """Reset in the middle instead of truncated by a plain close."""


@attrs.frozen
class OtherVersion(FileFault):
    """From this request on the file has another ETag and other bytes."""


@attrs.frozen
class IgnoreRange(FileFault):
    """The range is ignored: 200 and the whole file."""


@attrs.frozen
class LinkDied(FileFault):
    """This link answers 403 from now on; the next poll gives a fresh one."""


@attrs.frozen
class Redirect(FileFault):
    """The file is elsewhere: by default at the emulator's second origin."""

    to: str | None = None
    """Another address, or `None` for the same file at the second origin."""
    status: int = 302

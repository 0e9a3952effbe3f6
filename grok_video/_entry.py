"""One item as the ledger knows it, and how its texts are written there.

An item's state is the sum of its events. What a stranger wrote (an id, an error) is brought into a
form that the database gives back as it was. No file and no thread is known here.
"""

from __future__ import annotations

import copy
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from grok_video._errors import CreateOutcomeUnknown
from grok_video._ledgerfile import iso
from grok_video._lifecycle import Event, State, advance
from grok_video._outcomes import Outcome
from grok_video._redaction import redact

if TYPE_CHECKING:
    from grok_video._models import Video
    from grok_video._outcomes import OutcomeState
    from grok_video._requests import Image, VideoRequest

__all__ = ["Entry", "is_retryable", "plain", "read_id", "written_id"]

#: Characters kept of a prompt and of an error.
_LONGEST_PROMPT: Final = 8000
_LONGEST_ERROR: Final = 1000
#: Errors that the same request would meet again, as the ledger names them; a new attempt at what
#: moderation refused may be billed once more.
_FOR_GOOD: Final = frozenset({"BadRequest", "ModerationRefused"})
#: What belongs to a create, and comes back where the next one was not taken.
_OF_A_CREATE: Final = (
    "fingerprint",
    "request_id",
    "id_was_found",
    "sent_at",
    "accepted_at",
    "seconds",
    "open_usd",
    "earlier_usd",
    "is_delivered",
    "is_elsewhere",
    "path",
    "size",
    "sha256",
    "error_type",
    "error",
)
_NOTHING: Final = Decimal(0)
#: What leads back from sending to where an item was that was sent again; else it had failed.
_AS_BEFORE: Final = {State.IN_DOUBT: Event.ANSWER_LOST, State.EXPIRED: Event.LAPSED}


@define(eq=False)
class Entry:
    """One item as the ledger knows it: its state, and what was learned on the way."""

    key: str
    fingerprint: str
    #: Number of the item's row; 0 as long as it has none.
    item: int = 0
    state: State = State.PLANNED
    request_id: str | None = None
    #: True where a person found the id; the answer to a create gave it otherwise.
    id_was_found: bool = False
    #: Unix seconds at which a create was last sent, and was accepted; None before.
    sent_at: float | None = None
    accepted_at: float | None = None
    #: Creates sent, those that were not taken included.
    attempts: int = 0
    polls: int = 0
    #: Seconds from the create to the end of the item.
    seconds: float | None = None
    #: What the provider said it charges, over all attempts; None where it said nothing.
    cost_usd: Decimal | None = None
    #: List price of the last create, as long as it may be billed and nobody has said how much; and
    #: of all those before it.
    open_usd: Decimal = _NOTHING
    earlier_usd: Decimal = _NOTHING
    #: True if the last create asked for `output.upload_url`: done, it has no link.
    is_delivered: bool = False
    #: True once that job was done without a link: its video is where the create asked for it, and
    #: nothing more is to be heard of it.
    is_elsewhere: bool = False
    path: str | None = None
    size: int | None = None
    sha256: str | None = None
    error_type: str | None = None
    error: str | None = None
    #: True once somebody was told the link of the last job.
    was_told: bool = False
    #: True if an earlier run may have died right after a fetch: a file in its place may be its own,
    #: and is if it has the same bytes.
    may_be_saved: bool = False
    #: The row of `request` that is to be written with the next event.
    request_row: tuple[Any, ...] | None = field(default=None, repr=False)
    #: What the next create costs by the list, whether it asks for `output.upload_url`, its hash.
    _next: tuple[Decimal, bool, str] | None = field(default=None, repr=False)
    #: What it was before a person's word let it be sent again, until that create is taken.
    _former: Entry | None = field(default=None, repr=False)

    def describe(
        self, request: VideoRequest, estimate_usd: Decimal, fingerprint: str | None = None
    ) -> None:
        """Set what its next create asks for, as far as a person should read it, and its price.

        `output` and `user` may be secrets.
        """
        image = request.image
        fingerprint = fingerprint or self.fingerprint
        self._next = (estimate_usd, request.is_delivered, fingerprint)
        self.request_row = (
            plain(self.key),
            fingerprint,
            redact(request.prompt, limit=_LONGEST_PROMPT),
            plain(_described(image)) if image is not None else None,
            request.model,
            request.duration,
            request.resolution,
            request.aspect_ratio,
            float(estimate_usd),
        )

    def advance(self, event: Event) -> None:
        """Take one step in the table of states. Raises `IllegalEvent` if it has no such row."""
        before, self.state = self.state, advance(self.state, event)
        if event is Event.SENDING_BEGAN:
            self.attempts += 1
            self.sent_at = time.time()
            self.is_elsewhere = False
            if self._next is not None:
                self.open_usd, self.is_delivered, self.fingerprint = self._next
        elif event is Event.ACCEPTED:
            self.accepted_at = time.time()
            self.id_was_found = self.was_told = False
            self._former = None
        elif event is Event.NOT_TAKEN or (event is Event.REFUSED and self.request_id is None):
            self.open_usd = _NOTHING
        elif event is Event.ID_FOUND:
            self.accepted_at = None
            self.id_was_found, self.was_told = True, False
        elif event is Event.TOLD:
            self.was_told = True
        elif event is Event.FETCHING_BEGAN:
            self.fail(None)
        elif event is Event.RELEASED:
            self._former = copy.copy(self)
            self._former.state, self._former._former = before, None  # noqa: SLF001 - its own kind
            self.earlier_usd, self.open_usd = self.unstated_usd, _NOTHING
            self.request_id = self.accepted_at = self.seconds = None
            self.path = self.size = self.sha256 = self.error_type = self.error = None

    def take_back(self) -> Event:
        """Return the event of a create that was not taken; but for its number all is as before it.

        An item that a person let be sent again is in doubt, expired, or has failed, as it was then.
        """
        former, self._former = self._former, None
        if former is None:
            return Event.NOT_TAKEN
        for name in _OF_A_CREATE:
            setattr(self, name, getattr(former, name))
        return _AS_BEFORE.get(former.state, Event.REFUSED)

    @property
    def was_in_doubt(self) -> bool:
        """True if a create before the one on its way may have been accepted."""
        return self._former is not None and self._former.state is State.IN_DOUBT

    def charge(self, cost_usd: Decimal | None) -> None:
        """The provider has named the price of the last create; None where it charges nothing."""
        if self.id_was_found and self.earlier_usd:
            # It may be the id of any of them. A video costs at most its list price, so the others
            # cost at most what is left of the sum.
            if cost_usd is not None:
                self.earlier_usd = max(_NOTHING, self.unstated_usd - cost_usd)
                self.open_usd = _NOTHING
        else:
            self.open_usd = _NOTHING
        if cost_usd is not None:
            self.cost_usd = cost_usd + (self.cost_usd or 0)

    @property
    def unstated_usd(self) -> Decimal:
        """List prices of all its creates that may be billed without a price that was named."""
        return self.open_usd + self.earlier_usd

    @property
    def is_retryable(self) -> bool:
        """True where `retry_failed` would send it again."""
        return is_retryable(self.state, self.error_type)

    def fail(self, error: BaseException | None) -> None:
        """Set what went wrong, or that nothing did."""
        self.error_type = type(error).__name__ if error is not None else None
        self.error = plain(redact(str(error), limit=_LONGEST_ERROR)) if error is not None else None

    def unknown(self, message: str) -> CreateOutcomeUnknown:
        """Return the error that says so of its last create."""
        return CreateOutcomeUnknown(
            message,
            fingerprint=self.fingerprint,
            sent_at=self.sent_at or 0.0,
            phase="awaiting the answer",
        )

    def outcome(
        self,
        state: OutcomeState,
        *,
        video: Video | None,
        error: Exception | None,
        is_changed: bool,
    ) -> Outcome:
        """Return what became of the item, with what is known of it."""
        return Outcome(
            self.key,
            state,
            request_id=self.request_id,
            video=video,
            error=error,
            cost_usd=self.cost_usd,
            attempts=self.attempts,
            polls=self.polls,
            seconds=self.seconds,
            retryable=self.is_retryable,
            is_changed=is_changed,
        )

    def row(self, event: Event) -> tuple[Any, ...]:
        """Return the event's row, with all that is known now."""
        return (
            iso(time.time()),
            self.item,
            event,
            self.state,
            written_id(self.request_id) if self.request_id is not None else None,
            self.attempts,
            self.polls,
            round(self.seconds, 3) if self.seconds is not None else None,
            float(self.cost_usd) if self.cost_usd is not None else None,
            self.path,
            self.size,
            self.sha256,
            self.error_type,
            self.error,
            float(self.open_usd),
            float(self.earlier_usd),
            int(self.is_delivered) + int(self.is_elsewhere),
        )


def is_retryable(state: str, error_type: str | None) -> bool:
    """Return whether it ended without a video, and the same request may come to another end."""
    return state in (State.FAILED, State.EXPIRED) and error_type not in _FOR_GOOD


def _described(image: Image) -> str:
    """Return what stands for a picture; a file by its whole name, to be found from any folder."""
    name = image.describe()
    if image.kind != "path":
        return name
    try:
        return str(Path(name).absolute())
    except OSError:  # the working folder is gone
        return name


def plain(text: str) -> str:
    """Return text that SQLite can hold: a file name may have bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def written_id(request_id: str) -> str:
    """Return an id as the ledger has it: SQLite cuts at a null and holds no half of a character."""
    if request_id.isprintable() and not request_id.startswith('"'):
        return request_id
    return json.dumps(request_id)


def read_id(text: str | None) -> str | None:
    """Return the id that was written."""
    if text is None or not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:  # of an earlier version, which wrote all of them as they were
        return text

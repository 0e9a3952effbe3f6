"""What a batch is given and what it tells: items, outcomes, and the summary of them all.

The tally behind the summary counts without remembering: it takes the same memory after a hundred
items and after a million. Nothing here waits or writes.
"""

import enum
import math
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from attrs import define, field, frozen

from grok_video._arguments import refuse
from grok_video._models import Video
from grok_video._public import publish
from grok_video._requests import VideoRequest

__all__ = ["BatchItem", "BatchSummary", "Outcome", "OutcomeState"]

#: Characters of a key at most: long enough for any path.
LONGEST_KEY: Final = 1000
#: Keys that a summary names of those in doubt, of those left, of those that failed, and of those
#: that were changed.
NAMED: Final = 1000
#: Characters that a summary has of why an item failed; its outcome and the ledger have more.
_LONGEST_REASON: Final = 500
#: Width of the buckets in which latencies are counted: quantiles are right to 2 percent.
_STEP: Final = math.log(1.02)


class OutcomeState(enum.StrEnum):
    """What became of one item of a batch."""

    SAVED = "saved"  #: its file is here, whole
    DONE = "done"  #: the video exists, at its link or its upload_url; nothing was to be downloaded
    SKIPPED = "skipped"  #: an earlier run had saved it, or was done with it
    FAILED = "failed"  #: refused, or ended without a video
    EXPIRED = "expired"  #: the provider dropped it before it was fetched
    IN_DOUBT = "in_doubt"  #: may have been accepted and billed; no id is known
    PENDING = "pending"  #: accepted, and the wait for it ended; the same call goes on with it
    UNFETCHED = "unfetched"  #: done and paid, its file is not here yet; the same call fetches it
    #: Not sent: the batch had stopped, it was too dear, or its file cannot be put in its place; the
    #: same call sends it once that is over.
    LEFT = "left"


@frozen
class BatchItem:
    """One line of a manifest: a key of the caller's, and what is asked for.

    The key is the item's identity in the ledger and the name of its file. Raises `InvalidRequest`
    if it is blank, too long or not printable.
    """

    key: str
    request: VideoRequest

    def __attrs_post_init__(self) -> None:
        if (
            not isinstance(self.key, str)
            or not self.key.strip()
            or len(self.key) > LONGEST_KEY
            or not self.key.isprintable()  # which a lone surrogate is not either
        ):
            limit = f"must be a printable str of 1 to {LONGEST_KEY} characters that is not blank"
            raise refuse("key", self.key, limit)
        if not isinstance(self.request, VideoRequest):
            raise refuse("request", self.request, "must be a VideoRequest")


@frozen
class Outcome:
    """What became of one item, told once; `error` is an exception that was not raised."""

    key: str
    state: OutcomeState
    request_id: str | None = None
    #: Set where there is a video: saved, done, skipped or unfetched.
    video: Video | None = None
    error: Exception | None = None
    #: What the provider said it charges for the item, in US dollars; None where it said nothing.
    cost_usd: Decimal | None = None
    #: Creates sent for it, those included that were not taken.
    attempts: int = 0
    polls: int = 0
    #: Seconds from the accepted create to the end; None where there was no accepted create.
    seconds: float | None = None
    #: True where the same call with `retry_failed` would send the item again.
    retryable: bool = False
    #: True where an earlier run began the item with another request than the manifest has for it
    #: now. The key counts: what was begun goes on, and only a new key makes the new video.
    is_changed: bool = False

    @property
    def is_ok(self) -> bool:
        """True where the video is there: saved, done or skipped."""
        return self.state in _OK


_OK: Final = frozenset({OutcomeState.SAVED, OutcomeState.DONE, OutcomeState.SKIPPED})


@frozen
class BatchSummary:
    """Where a batch stands; taken while it runs, or of all of it afterwards."""

    #: Outcomes by state; states that did not occur are missing.
    counts: Mapping[OutcomeState, int]
    #: Items that are being sent, awaited or fetched at this moment.
    in_flight: int
    #: What the provider said it charges, in US dollars; with a ledger, earlier runs included.
    cost_usd: Decimal
    #: List prices of what was accepted, or may have been, and nobody has stated the price of.
    open_usd: Decimal
    #: Seconds from the create to the end of the videos that came in this run, those left out that
    #: an earlier one had saved; None where there were none.
    median_seconds: float | None
    p90_seconds: float | None
    p99_seconds: float | None
    #: Polls that this run has sent for each of its videos; None where there were none.
    polls_per_job: float | None
    #: Keys of items in doubt, the first 1,000; `counts` knows all.
    in_doubt: tuple[str, ...]
    #: Keys of items that were not sent, the first 1,000; `counts` knows all.
    left: tuple[str, ...]
    #: Why no more creates are sent, or not those that could lead beyond the ceiling; None where
    #: nothing stopped them.
    stopped: str | None
    #: Keys of items that failed or expired, each with why, the first 1,000; `counts` knows all.
    failed: tuple[tuple[str, str], ...] = ()
    #: How many of those that failed or expired the same call with `retry_failed` would send again.
    retryable: int = 0
    #: Keys of items whose request was changed since an earlier run began them (`is_changed`), the
    #: first 1,000.
    changed: tuple[str, ...] = ()
    #: True once the whole manifest was read, which a stop breaks off, and the outcome of each item
    #: is known.
    is_over: bool = False
    #: True where items were not sent because they could lead beyond `max_cost_usd`, whatever else
    #: stopped the batch.
    is_at_ceiling: bool = False

    @property
    def total(self) -> int:
        """Number of outcomes."""
        return sum(self.counts.values())

    @property
    def is_complete(self) -> bool:
        """True where the batch is over and every item has its video."""
        return self.is_over and all(state in _OK for state in self.counts)


@define
class Tally:
    """The running counts of a batch."""

    counts: Counter[OutcomeState] = field(factory=Counter[OutcomeState])
    cost_usd: Decimal = Decimal(0)
    in_doubt: list[str] = field(factory=list[str])
    left: list[str] = field(factory=list[str])
    failed: list[tuple[str, str]] = field(factory=list[tuple[str, str]])
    retryable: int = 0
    changed: list[str] = field(factory=list[str])
    _polls: int = 0
    _latencies: Counter[int] = field(factory=Counter[int])

    def add(self, outcome: Outcome, *, polls_before: int = 0, was_saved: bool = False) -> None:
        """Count one outcome; `polls_before` and `was_saved` say what earlier runs have done."""
        self.counts[outcome.state] += 1
        self.retryable += outcome.retryable
        if outcome.is_changed and len(self.changed) < NAMED:
            self.changed.append(outcome.key)
        if outcome.state is OutcomeState.IN_DOUBT and len(self.in_doubt) < NAMED:
            self.in_doubt.append(outcome.key)
        elif outcome.state is OutcomeState.LEFT and len(self.left) < NAMED:
            self.left.append(outcome.key)
        elif outcome.state in (OutcomeState.FAILED, OutcomeState.EXPIRED):
            if len(self.failed) < NAMED:
                self.failed.append((outcome.key, _why(outcome.error)))
        elif outcome.state in (OutcomeState.SAVED, OutcomeState.DONE):
            self._polls += outcome.polls - polls_before
            if outcome.seconds is not None and not was_saved:
                self._latencies[math.floor(math.log(max(outcome.seconds, 1e-3)) / _STEP)] += 1

    def quantile(self, share: float) -> float | None:
        """Return the seconds within which this share of the videos came."""
        rank = math.ceil(share * self._latencies.total())
        for bucket in sorted(self._latencies):
            rank -= self._latencies[bucket]
            if rank <= 0:
                return math.exp((bucket + 0.5) * _STEP)
        return None

    def summary(
        self,
        *,
        in_flight: int,
        is_over: bool,
        cost_usd: Decimal,
        open_usd: Decimal,
        stopped: str | None,
        is_at_ceiling: bool = False,
    ) -> BatchSummary:
        """Return where it stands; any thread may ask."""
        counts = dict(self.counts)  # in one step: it grows meanwhile
        videos = counts.get(OutcomeState.SAVED, 0) + counts.get(OutcomeState.DONE, 0)
        return BatchSummary(
            counts={state: count for state, count in counts.items() if count},
            in_flight=in_flight,
            cost_usd=cost_usd,
            open_usd=open_usd,
            median_seconds=self.quantile(0.5),
            p90_seconds=self.quantile(0.9),
            p99_seconds=self.quantile(0.99),
            polls_per_job=self._polls / videos if videos else None,
            in_doubt=tuple(self.in_doubt),
            left=tuple(self.left),
            failed=tuple(self.failed),
            retryable=self.retryable,
            changed=tuple(self.changed),
            is_over=is_over,
            stopped=stopped,
            is_at_ceiling=is_at_ceiling,
        )


def _why(error: Exception | None) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 3]}..."


publish(globals(), __all__)

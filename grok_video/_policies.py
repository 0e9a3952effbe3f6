"""Decisions as values: how often to try again, how much at once, how long in all.

Each policy is frozen and answers a question from what happened, *now* and a random source; nothing
here sleeps, sends or reads a clock. `Pacer` is the one thing with a memory: it spreads the requests
of all jobs of one client, and slows all of them down when the server says "too many".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from grok_video._arguments import require_flags, require_positive, require_seconds, require_whole
from grok_video._errors import APIError
from grok_video._lifecycle import Event, meaning_of_failed_create
from grok_video._public import Value, publish

if TYPE_CHECKING:
    import random

    from attrs import Attribute

    from grok_video._errors import GrokVideoError

__all__ = ["NO_END", "Deadline", "Limits", "Pacer", "Retry", "poll_pause"]

#: Seconds of a Retry-After after which polls look again. A client whose polls stand still follows
#: none of the jobs that were paid for, and one look in an hour is no burden for any server.
LONGEST_PAUSE: Final = 3600.0


def _positive(instance: object, attribute: Attribute[float], value: float | None) -> None:
    del instance
    if value is not None:
        require_positive(attribute.name, value)


def _whole(instance: object, attribute: Attribute[int], value: int) -> None:
    del instance
    require_whole(attribute.name, value)


def _flag(instance: object, attribute: Attribute[bool], value: bool) -> None:
    del instance
    require_flags(**{attribute.name: value})


@frozen(eq=False, repr=False)
class Retry(Value):
    """When a request is sent again, and after how long.

    A create is sent again only where that cannot pay twice: it certainly was not sent (DNS,
    connect, TLS), or the server clearly refused it for a passing reason (429, a 503 before any
    upstream took it). A poll may always be sent again. Waits double from `base` to `cap` seconds,
    of which each takes between half and all at random, and never undercut a Retry-After; a create
    gives up where that is longer than `patience`, and polls look again after an hour of it.
    `attempts` counts the first one too.

    `resend_unknown_creates` takes the promise back that nothing is paid twice: a create whose
    outcome is unknown is sent again, and each such resend can pay for a second video.
    """

    #: How many times a create is sent at most, the first included: CometAPI's examples use 5.
    attempts: int = field(default=5, validator=_whole)
    #: Seconds before the second attempt at most; at random, half of it at least.
    base: float = field(default=1.0, validator=_positive)
    #: Longest wait between attempts in seconds, where the server does not ask for more: CometAPI's
    #: examples use 30.
    cap: float = field(default=30.0, validator=_positive)
    #: Longest Retry-After that a create waits for, in seconds. A longer one fails at once and says
    #: so: a wait of an hour is the caller's decision.
    patience: float = field(default=120.0, validator=_positive)
    #: Send a create again although its outcome is unknown. Each such resend can pay for a second
    #: video; for accounts with their own guard only.
    resend_unknown_creates: bool = field(default=False, validator=_flag)

    def create_delay(
        self, failure: GrokVideoError, attempt: int, random: random.Random
    ) -> float | None:
        """Return the seconds to wait before sending a create again, or None to stop.

        `attempt` counts from 1 and is the one that just failed.
        """
        if attempt >= self.attempts or not self._may_resend(failure):
            return None
        wish = failure.retry_after if isinstance(failure, APIError) else None
        return self._delay(wish, attempt, random)

    def _may_resend(self, failure: GrokVideoError) -> bool:
        if isinstance(failure, APIError) and (failure.retry_after or 0.0) > self.patience:
            return False
        event = meaning_of_failed_create(failure)
        lost = event is Event.ANSWER_LOST
        return event is Event.NOT_TAKEN or (lost and self.resend_unknown_creates)

    def poll_delay(self, failure: GrokVideoError, failures: int, random: random.Random) -> float:
        """Return the seconds to wait after so many polls in a row that failed in passing."""
        return self._delay(poll_pause(failure), failures, random)

    def _delay(self, wish: float | None, attempt: int, random: random.Random) -> float:
        backoff = random.uniform(0.5, 1.0) * min(self.cap, self.base * 2.0 ** min(attempt - 1, 30))
        return max(backoff, wish or 0.0)


def poll_pause(failure: GrokVideoError) -> float | None:
    """Return the seconds for which a failed poll asks for no other one; None if it asks nothing."""
    wish = failure.retry_after if isinstance(failure, APIError) else None
    return min(wish, LONGEST_PAUSE) if wish is not None else None


@frozen(eq=False, repr=False)
class Limits(Value):
    """How much one client does at once.

    `creates_per_minute` is None for the pace that the server's answers allow. `polls_per_second` is
    shared by all jobs. `concurrent_downloads` is how many files are fetched at a time.
    `connections` are those to the API for polls, and as many again for creates.
    """

    #: Creates started in a minute at most; None leaves the pace to the server's answers. The
    #: provider documents 60 for the model 1.5 (contract.md, section 5).
    creates_per_minute: float | None = field(default=None, validator=_positive)
    #: Polls in a second at most, over all jobs of the client: a fifth of what CometAPI names as
    #: its theoretical limit (30,000 a minute), and enough for 700 jobs of a minute each.
    polls_per_second: float | None = field(default=100.0, validator=_positive)
    #: Downloads at the same time: each may hold a buffer of a few MiB and a file.
    concurrent_downloads: int = field(default=16, validator=_whole)
    #: Connections to the API for polls, and as many for creates.
    connections: int = field(default=100, validator=_whole)


# The next two are written by hand: attrs takes up to a millisecond to make a class, which every
# program would wait for, and nobody compares or shows these.


class Deadline:
    """A point in time after which nobody waits any more."""

    __slots__ = ("at", "timeout")

    def __init__(self, at: float, timeout: float | None) -> None:
        #: Seconds, as the event loops' common clock tells them; infinity for "no deadline".
        self.at: float = at
        #: The timeout as the caller gave it, for messages.
        self.timeout: float | None = timeout

    @classmethod
    def after(cls, now: float, timeout: float | None) -> Deadline:
        """Return the deadline `timeout` seconds from now, or none at all for None."""
        if timeout is None:
            return cls(math.inf, None)
        require_seconds("timeout", timeout)
        return cls(now + timeout, timeout)

    def remaining(self, now: float) -> float:
        """Return the seconds left, never below zero."""
        return max(0.0, self.at - now)

    def last_poll_at(self, round_trip: float) -> float:
        """Return when the last poll has to start so that its answer comes in time.

        Twice the usual round trip, at most a tenth of the whole wait, so that a short wait is not
        eaten by its own margin. Where a tenth is less than an answer takes, a poll so late is none:
        then half as much again as the round trip, if the wait is four times as long as that.
        """
        if self.timeout is None:
            return math.inf
        margin, needed = self.timeout / 10, 1.5 * round_trip
        if margin < needed <= self.timeout / 4:
            margin = needed
        return self.at - min(2 * round_trip, margin)


#: For those who wait as long as it takes.
NO_END: Final = Deadline(math.inf, None)

#: What one "too many requests" does to the pace, and how fast it recovers: halve at once, give back
#: a twentieth of the full pace each second (additive increase, multiplicative decrease).
_DECREASE: Final = 0.5
_RECOVERY_PER_SECOND: Final = 0.05
#: Several 429 to requests of the same moment are one piece of news.
_NEWS_INTERVAL: Final = 1.0
#: Requests that may start together after a quiet time, in seconds' worth of the pace; and while a
#: server has slowed them down, where a turn of the event loop took so long.
_BURST_SECONDS: Final = 1.0
_LATE_SECONDS: Final = 0.1
#: The slowest pace, in requests per second: below one in ten seconds nothing would be learned.
_FLOOR: Final = 0.1


class Pacer:
    """One budget of requests for all jobs of a client.

    `rate` is requests per second, None for as fast as wanted until the server objects. Nobody is
    given a place in advance: what was fair at the pace of one moment is minutes away at the next.
    Whoever is first in line asks when it may `go`, and reports what the server thought.
    """

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._pace = rate if rate is not None else math.inf
        #: What the pace recovers to.
        self._target = self._pace
        #: When the last request went, or would have gone in a burst that was spread evenly.
        self._last = -math.inf
        #: The time before which nothing starts: a Retry-After.
        self.blocked_until: float = -math.inf
        self._slowed_at = -math.inf
        self._recovered_at = -math.inf
        self._seen = 0.0
        self._seen_at = -math.inf

    @property
    def pace(self) -> float:
        """The requests per second of this moment; infinity where nothing limits them."""
        return self._pace

    def go(self, now: float) -> bool:
        """Return whether a request may go now; then it is counted."""
        if now < self.blocked_until:
            return False
        if self.rate is None and self._pace >= self._target:
            self._observe(now)
            return True
        if self._pace < self._target:
            self._recover(now)
        if self._pace != math.inf:
            start = self._next(now, self._pace)
            if start > now:
                return False
            self._last = start
        if self.rate is None:
            self._observe(now)
        return True

    def earliest(self, now: float, ahead: int = 0) -> float:
        """Return when a request may go that has so many ahead of it, at the pace of this moment."""
        if self._pace < self._target:
            self._recover(now)
        return self._start(now, ahead, self._pace)

    def soonest(self, now: float, ahead: int) -> float:
        """Return when it may go at best: if the server objects no more."""
        return self._start(now, ahead, self.rate if self.rate is not None else math.inf)

    def _start(self, now: float, ahead: int, pace: float) -> float:
        if pace == math.inf:
            return max(now, self.blocked_until)
        return max(now, self._next(now, pace) + ahead / pace)

    def _next(self, now: float, pace: float) -> float:
        # After a quiet time some may start together, but never right after a slow-down.
        burst = _BURST_SECONDS if self._pace >= self._target else _LATE_SECONDS
        since = max(now - burst, self._slowed_at, self.blocked_until)
        return max(self._last + 1.0 / pace, since)

    def throttled(self, now: float, retry_after: float | None) -> None:
        """Slow down: the server said "too many". A Retry-After holds every request back."""
        if retry_after is not None:
            self.blocked_until = max(self.blocked_until, now + retry_after)
        if now - self._slowed_at < _NEWS_INTERVAL:
            return
        known = self._pace if self._pace != math.inf else max(self._seen, 2 * _FLOOR)
        if self._target == math.inf:
            self._target = known
        self._pace = max(min(_FLOOR, known), known * _DECREASE)
        self._slowed_at = self._recovered_at = now

    def _observe(self, now: float) -> None:
        """Keep a running estimate of requests per second, for a pace that was never set."""
        gap = now - self._seen_at
        if gap > 0.0:
            self._seen *= math.exp(-gap)
            self._seen_at = now
        self._seen += 1.0

    def _recover(self, now: float) -> None:
        since = max(self._recovered_at, self.blocked_until)
        if now <= since:
            return
        self._recovered_at = now
        self._pace += self._target * _RECOVERY_PER_SECOND * (now - since)
        if self._pace >= self._target:
            self._pace = self._target = self.rate if self.rate is not None else math.inf


publish(globals(), ("Limits", "Retry"))

"""When to ask next: few requests, and the video noticed soon after it is ready.

`Polling` is a frozen policy that answers `next_delay`; `Watch` holds what one job has shown and
`Experience` what one client has seen. No clock, no I/O and no sleeping here: elapsed times come
in, delays go out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    import random as _random

__all__ = ["Experience", "Polling", "Watch"]

#: Longest and shortest wait between two polls of one job, in seconds.
SHORTEST, LONGEST = 0.05, 60.0


def typical_seconds(model: str | None, duration: int | None, resolution: str | None) -> float:
    """Seconds a job typically takes before anything was seen (contract.md, section 5)."""
    name = model or "grok-imagine-video-1.5"
    new = "1.5" in name
    per_second = {"480p": 1.2, "720p": 2.9, "1080p": 4.0}.get(
        resolution or ("720p" if new else "480p"), 2.9
    )
    return (8.0 + (duration or 8) * per_second) * (3.0 if new else 1.0)


class Watch:
    """What one job has shown so far."""

    __slots__ = (
        "__weakref__",
        "age_known",
        "elapsed",
        "hint_until",
        "key",
        "polls",
        "progress",
        "typical",
    )

    def __init__(
        self,
        *,
        duration: int | None,
        resolution: str | None,
        model: str | None,
        age_known: bool = True,
    ) -> None:
        self.key = (model, duration, resolution)
        self.typical = typical_seconds(model, duration, resolution)
        self.age_known = age_known
        self.polls = 0
        self.elapsed = 0.0
        self.progress: float | None = None
        self.hint_until = 0.0

    def note(self, elapsed: float, progress: float | None, hint: float | None = None) -> None:
        """The poll answered at `elapsed` found the job still running."""
        self.polls += 1
        self.elapsed = elapsed
        if progress is not None:
            self.progress = progress
        if hint is not None and hint > 0:
            self.hint_until = elapsed + hint


class Experience:
    """What one client has seen of finished jobs."""

    __slots__ = ("_log_scale", "_seen")

    def __init__(self) -> None:
        self._log_scale = 0.0
        self._seen = 0

    @property
    def scale(self) -> float:
        """How many times slower than expected this server is."""
        return math.exp(self._log_scale)

    def record(self, watch: Watch, last_pending: float | None, done: float) -> None:
        """The job was still running at `last_pending` and found done at `done`."""
        if not watch.age_known:
            return
        middle = max(1e-3, ((last_pending or 0.0) + done) / 2)
        self._seen += 1
        step = max(1.0 / self._seen, 0.05)
        self._log_scale += step * (math.log(middle / watch.typical) - self._log_scale)


@frozen
class Polling:
    """How often running jobs are asked about; the default learns (see the module)."""

    #: Seconds; fixed polling asks this often, the learner is as thrifty as this where it must guess.
    interval: float = field(default=6.0, converter=float, validator=validators.gt(0))
    adaptive: bool = True
    #: Seconds added or taken at random around a fixed interval.
    jitter: float = field(default=0.0, converter=float, validator=validators.ge(0))

    @classmethod
    def fixed(cls, seconds: float, jitter: float = 0.0) -> Polling:
        """Ask every `seconds`, give or take `jitter`."""
        return cls(interval=seconds, adaptive=False, jitter=jitter)

    def next_delay(
        self, watch: Watch, elapsed: float, experience: Experience, random: _random.Random
    ) -> float:
        """Seconds until the next poll; more than 0 and at most `LONGEST`."""
        if not self.adaptive:
            delay = self.interval + (
                random.uniform(-self.jitter, self.jitter) if self.jitter else 0
            )
        else:
            typical = watch.typical * experience.scale
            delay = 0.65 * typical - elapsed if watch.polls == 0 else 0.0
            delay = max(delay, 0.08 * max(typical, elapsed)) * random.uniform(0.92, 1.08)
        delay = max(delay, watch.hint_until - elapsed)
        return min(max(delay, SHORTEST), LONGEST)


Polling.__module__ = "grok_video"

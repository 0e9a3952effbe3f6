"""What a job is doing after so many seconds: pure functions of elapsed time.

The latency model and the progress curve live here, fitted to the jobs recorded in the contract
(section 5). No clock, no socket and no state: the server passes the elapsed time in.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Final, Literal

import attrs

if TYPE_CHECKING:
    import random

Stage = Literal["accepted", "queued", "processing", "done", "failed", "expired"]

# Seconds a job takes: 8 s of overhead and so much for each second of video, three times that on
# the 1.5 models, spread log-normally (contract, section 5, "Emulator suggestion").
_OVERHEAD: Final = 8.0
_PER_SECOND: Final = {"480p": 1.2, "720p": 2.9, "1080p": 4.0}
_SLOW_FAMILY: Final = "grok-imagine-video-1.5"
_SLOW_FACTOR: Final = 3.0
_SIGMA: Final = 0.2

# An unreachable source was reported failed within half a second of the create (section 5).
SOURCE_FAILS_AFTER: Final = 0.5

# Share of the whole time -> percent, from the two recorded image-to-video jobs: it creeps, stalls
# at 35 and jumps to 100 only together with `done`.
_KNOTS: Final = ((0.0, 0), (0.03, 1), (0.22, 1), (0.41, 20), (0.61, 35), (1.0, 35))
_SHARES: Final = tuple(share for share, _ in _KNOTS)

# The first answers name only the id, the next say `queued`; nobody recorded how long either lasts.
_ACCEPTED_UNTIL: Final = 0.02
_QUEUED_UNTIL: Final = 0.05


@attrs.frozen
class Moment:
    """One instant of a job: its stage and the percentage a poll would show."""

    stage: Stage
    percent: int = 0


DONE: Final = Moment("done", 100)


def seconds_needed(model: str, resolution: str, duration: int, chance: random.Random) -> float:
    """Seconds the real service would take for this job, drawn from the fitted distribution."""
    seconds = _OVERHEAD + duration * _PER_SECOND[resolution]
    if model.startswith(_SLOW_FAMILY):
        seconds *= _SLOW_FACTOR
    return seconds * chance.lognormvariate(0.0, _SIGMA)


def moment(elapsed: float, whole: float) -> Moment:
    """Where a job that takes `whole` seconds stands after `elapsed` of them."""
    if elapsed >= whole:
        return DONE
    share = max(elapsed, 0.0) / whole
    if share < _ACCEPTED_UNTIL:
        return Moment("accepted")
    if share < _QUEUED_UNTIL:
        return Moment("queued")
    return Moment("processing", percent(share))


def percent(share: float) -> int:
    """The percentage shown after this share of the whole time, 0 to 35 while it runs."""
    index = min(bisect.bisect_right(_SHARES, share), len(_KNOTS) - 1)
    (left, low), (right, high) = _KNOTS[index - 1], _KNOTS[index]
    return low + int((high - low) * (share - left) / (right - left))

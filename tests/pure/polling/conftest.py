"""What the tests of the policy share: jobs that run without a server."""

from __future__ import annotations

from random import Random
from typing import Any

from grok_video._polling import Experience, Polling, Watch

OLDER = "grok-imagine-video"


def watch(**facts: Any) -> Watch:
    return Watch(**{"duration": 10, "resolution": "480p", "model": OLDER, **facts})


def live(
    ends: float,
    experience: Experience,
    *,
    shows: Any = lambda age: None,
    policy: Polling = Polling(),
    dice: Random | None = None,
    **facts: Any,
) -> tuple[float, int]:
    """Return lag and polls of one job whose polls take no time."""
    dice = dice or Random(1)
    seen, age, last = watch(**facts), 0.0, None
    for polls in range(1, 10_000):
        age += policy.next_delay(seen, age, experience, dice)
        if age >= ends:
            experience.record(seen, last, age)
            return age - ends, polls
        seen.note(age, shows(age))
        last = age
    raise AssertionError("never done")


def taught(*ends: float, **facts: Any) -> Experience:
    experience = Experience()
    for end in ends:
        live(end, experience, **facts)
    return experience

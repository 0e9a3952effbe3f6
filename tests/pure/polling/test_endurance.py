"""No history, clock or crowd makes a delay that is not one; memory is bounded."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from grok_video._experience import KINDS
from grok_video._kinds import KEPT
from grok_video._polling import LONGEST, SHORTEST, Experience, Polling, Watch

from .conftest import OLDER, live, taught, watch


def test_memory_is_bounded():
    experience, dice = Experience(), Random(1)
    for number in range(3 * KINDS):
        live(20.0, experience, dice=dice, duration=number + 1)
    assert len(experience._kinds) == KINDS
    experience = taught(*[20.0 + number % 7 for number in range(400)])
    (kind,) = experience._kinds.values()
    for cohort in (kind.cohort, kind.earlier):
        assert cohort is not None
        assert len(cohort.finished) <= KEPT
        assert not cohort.waiting
    seen = watch()
    for step in range(100):
        seen.note(float(step), float(step))
    assert len(seen.readings) <= 12


# Whatever happens -------------------------------------------------------------------------------
NUMBERS = st.one_of(
    st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-5, 105).map(float)
)


STEPS = st.lists(st.tuples(st.floats(0, 5000), NUMBERS), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(st.tuples(STEPS, st.floats(0, 10_000), st.booleans()), min_size=1, max_size=6),
    duration=st.one_of(st.none(), st.integers(1, 15)),
    model=st.one_of(st.none(), st.just(OLDER), st.text(max_size=5)),
    interval=st.floats(0.5, 30),
)
def test_no_history_makes_a_delay_that_is_not_a_delay(
    jobs: list[tuple[list[tuple[float, float | None]], float, bool]],
    duration: int | None,
    model: str | None,
    interval: float,
):
    experience, dice, policy = Experience(), Random(1), Polling(interval=interval)
    for steps, done, known in jobs:
        seen = Watch(duration=duration, resolution=None, model=model, age_known=known)
        last = None
        for elapsed, progress in [(0.0, None), *sorted(steps, key=lambda step: step[0])]:
            if elapsed:
                seen.note(elapsed, progress)
                last = elapsed
            delay = policy.next_delay(seen, elapsed, experience, dice)
            assert SHORTEST <= delay <= LONGEST
        experience.record(seen, last, max(done, last or 0.0))


@settings(max_examples=40, deadline=None)
@given(elapsed=st.lists(st.floats(0, 1e7), max_size=8), seconds=st.floats(0.01, 100))
def test_clocks_that_jump_do_no_harm(elapsed: list[float], seconds: float):
    for policy in (Polling(), Polling.fixed(seconds)):
        seen, experience = watch(), Experience()
        for now in elapsed:
            assert 0 < policy.next_delay(seen, now, experience, Random(1)) <= LONGEST
            seen.note(now, 50.0)
        experience.record(seen, elapsed[-1] if elapsed else None, 0.0)
        assert 0 < policy.next_delay(watch(), 0.0, experience, Random(1)) <= LONGEST

"""Policies answer from what happened, now and a random source; nothing here waits."""

from __future__ import annotations

import math
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grok_video import (
    APIConnectionError,
    APITimeoutError,
    BadRequest,
    GrokVideoError,
    InvalidRequest,
    Limits,
    Polling,
    RateLimited,
    Retry,
    ServerError,
)
from grok_video._policies import Deadline, Pacer

RANDOM = random.Random(7)

NOT_SENT = APIConnectionError("x", may_have_been_sent=False)
MAYBE_SENT = APITimeoutError("x", may_have_been_sent=True)
NEVER_TAKEN = ServerError("x", status=503, refused=True)
PERHAPS_TAKEN = ServerError("x", status=502, refused=False)


def limited(seconds: float | None) -> RateLimited:
    return RateLimited("x", status=429, retry_after=seconds)


@pytest.mark.parametrize("failure", [NOT_SENT, NEVER_TAKEN, limited(None), limited(3)])
def test_a_create_is_sent_again_where_that_cannot_pay_twice(failure: GrokVideoError) -> None:
    assert Retry().create_delay(failure, 1, RANDOM) is not None


@pytest.mark.parametrize(
    "failure", [MAYBE_SENT, PERHAPS_TAKEN, BadRequest("x", status=400), limited(121)]
)
def test_a_create_is_not_sent_again_otherwise(failure: GrokVideoError) -> None:
    assert Retry().create_delay(failure, 1, RANDOM) is None


@pytest.mark.parametrize("failure", [MAYBE_SENT, PERHAPS_TAKEN])
def test_unknown_outcomes_are_resent_only_where_the_caller_says_so(failure: GrokVideoError) -> None:
    assert Retry(resend_unknown_creates=True).create_delay(failure, 1, RANDOM) is not None


def test_no_create_waits_longer_than_its_patience_whoever_asks_for_it() -> None:
    retry = Retry(resend_unknown_creates=True, patience=10)
    asked = ServerError("x", status=502, refused=False, retry_after=9999)
    assert retry.create_delay(asked, 1, RANDOM) is None


def test_attempts_are_counted_with_the_first() -> None:
    retry = Retry(attempts=3)
    assert [retry.create_delay(NOT_SENT, n, RANDOM) is not None for n in (1, 2, 3, 4)] == [
        True,
        True,
        False,
        False,
    ]


@given(st.integers(1, 200), st.floats(0, 100))
def test_a_wait_is_bounded_and_never_undercuts_retry_after(attempt: int, wish: float) -> None:
    retry = Retry(base=1, cap=30, attempts=10_000)
    delay = retry.create_delay(limited(wish), attempt, RANDOM)
    assert delay is not None
    assert wish <= delay <= max(30, wish)
    assert retry.poll_delay(MAYBE_SENT, attempt, RANDOM) <= 30


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Retry(attempts=0), "attempts"),
        (lambda: Retry(attempts=2.5), "attempts"),  # type: ignore[arg-type]
        (lambda: Retry(base=-1), "base"),
        (lambda: Retry(base=10**400), "base"),  # more than any float
        (lambda: Deadline.after(0, 10**5000), "timeout"),  # more digits than Python spells
        (lambda: Retry(cap=math.nan), "cap"),
        (lambda: Retry(patience=True), "patience"),
        (lambda: Retry(resend_unknown_creates="no"), "resend_unknown_creates"),  # type: ignore[arg-type]
        (lambda: Limits(connections=0), "connections"),
        (lambda: Limits(polls_per_second=0), "polls_per_second"),
        (lambda: Limits(creates_per_minute="60"), "creates_per_minute"),  # type: ignore[arg-type]
        (lambda: Polling(0), "interval"),
        (lambda: Polling(math.inf), "interval"),
        (lambda: Polling(None), "interval"),  # type: ignore[arg-type]
        (lambda: Polling(True), "interval"),
        (lambda: Polling.fixed(-1), "interval"),
        (lambda: Polling.fixed("x"), "interval"),  # type: ignore[arg-type]
        (lambda: Polling(jitter=-1), "jitter"),
        (lambda: Polling(jitter="x"), "jitter"),  # type: ignore[arg-type]
        (lambda: Polling(jitter=False), "jitter"),
        (lambda: Polling.fixed(5, jitter=5), "jitter"),
        (lambda: Polling(adaptive="no"), "adaptive"),  # type: ignore[arg-type]
        (lambda: Polling(stalled_after=0), "stalled_after"),
        (lambda: Polling(stalled_after="x"), "stalled_after"),  # type: ignore[arg-type]
        (lambda: Deadline.after(0, -1), "timeout"),
        (lambda: Deadline.after(0, math.nan), "timeout"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(make, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.field == name
    assert f"{name} must be" in str(caught.value)
    assert f"got {caught.value.value}." in str(caught.value)


@pytest.mark.parametrize("policy", [Retry(attempts=2), Limits(connections=3)])
def test_policies_are_values(policy: object) -> None:
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) == hash(pickle.loads(pickle.dumps(policy)))
    with pytest.raises(AttributeError):
        policy.attempts = 1  # type: ignore[attr-defined]


def test_the_last_poll_lies_inside_the_deadline() -> None:
    assert Deadline.after(100, 60).last_poll_at(0.5) == 159
    assert Deadline.after(100, 8).last_poll_at(0.5) == pytest.approx(107.2)
    assert Deadline.after(100, 3).last_poll_at(0.5) == pytest.approx(102.25)
    assert Deadline.after(100, 1).last_poll_at(0.5) == pytest.approx(100.9)
    assert Deadline.after(100, None).last_poll_at(0.5) == math.inf
    assert Deadline.after(100, 60).remaining(170) == 0


def test_a_budget_spreads_requests_after_a_burst_of_one_second() -> None:
    pacer = Pacer(10.0)
    waits = [pacer.reserve(0.0) for _ in range(30)]
    assert waits[:11] == [0.0] * 11
    assert waits[-1] == pytest.approx(1.9)


def test_a_retry_after_holds_every_request_back() -> None:
    pacer = Pacer(10.0)
    pacer.throttled(0.0, 5.0)
    assert pacer.reserve(0.0) == pytest.approx(5.0)
    assert pacer.blocked_until == 5.0


@pytest.mark.parametrize("wish", [None, 0.0, 1.0])
def test_a_shorter_wish_takes_nothing_from_a_longer_one(wish: float | None) -> None:
    pacer = Pacer(10.0)
    pacer.throttled(0.0, 60.0)
    pacer.throttled(5.0, wish)
    assert pacer.blocked_until == 60.0
    assert pacer.reserve(5.0) == pytest.approx(55.0)


def test_one_429_halves_the_pace_and_several_at_once_are_one_piece_of_news() -> None:
    pacer = Pacer(10.0)
    for _ in range(5):
        pacer.throttled(0.0, None)
    assert pacer.pace == 5
    pacer.throttled(2.0, None)
    assert pacer.pace < 5


def test_the_pace_recovers_additively_to_what_was_set() -> None:
    pacer = Pacer(10.0)
    pacer.throttled(0.0, None)
    paces = []
    for second in range(1, 15):
        pacer.reserve(float(second))
        paces.append(pacer.pace)
    assert paces == sorted(paces)
    assert paces[0] == pytest.approx(5.5)
    assert paces[-1] == 10


def test_a_pace_that_was_never_set_is_learned_from_the_first_429() -> None:
    pacer = Pacer(None)
    for n in range(200):
        assert pacer.reserve(n / 100) == pacer.depart(n / 100) == 0.0
    pacer.throttled(2.0, None)
    assert 20 < pacer.pace < 60
    for second in range(3, 40):
        pacer.reserve(float(second))
    assert pacer.pace == math.inf


def test_a_lull_before_the_first_429_does_not_make_the_learned_pace_a_crawl() -> None:
    pacer = Pacer(None)
    for when in (*[0.0] * 100, 2.5):
        pacer.reserve(when)
        pacer.depart(when)
    pacer.throttled(2.6, None)
    assert max(pacer.reserve(3.4) for _ in range(50)) < 15


def test_who_only_stands_in_line_was_not_sent() -> None:
    """Three hundred wait for a connection, and the five that had one were too many."""
    pacer = Pacer(None)
    for _ in range(300):
        pacer.reserve(0.0)
    for n in range(5):
        pacer.depart(n / 5)
    pacer.throttled(1.0, None)
    assert pacer.pace < 3


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1, 0.15, 1.0])
def test_a_429_slows_every_pace_down_and_never_up(rate: float) -> None:
    pacer = Pacer(rate)
    pacer.throttled(0.0, None)
    assert pacer.pace <= rate
    pacer.reserve(100.0)
    assert pacer.pace == rate


def test_a_pace_recovers_while_those_depart_who_had_their_places_before() -> None:
    pacer = Pacer(1.0)
    for _ in range(100):
        pacer.reserve(0.0)
    pacer.throttled(0.0, None)
    now = 0.0
    for _ in range(100):
        now += pacer.depart(now)
    assert now < 110


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans(), st.none() | st.floats(0, 30))))
def test_a_pacer_never_gives_a_place_in_the_past_or_never(events) -> None:
    pacer, now = Pacer(5.0), 0.0
    for step, objected, wish in events:
        now += step
        delay = pacer.reserve(now)
        assert 0 <= delay < math.inf
        assert now + delay >= pacer.blocked_until or delay >= 0
        if objected:
            pacer.throttled(now, wish)
            assert pacer.pace > 0


#: Seconds until the next thing happens, and what it is: so many requests come, or the server says
#: "too many" and how many seconds it wants none. And whether those whose time has come have a
#: connection as well.
_EVENTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.01, 0.3, 1.0, 4.0, 25.0]),
        st.integers(1, 30) | st.none() | st.sampled_from([0.5, 6.0]),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=400)
@given(st.sampled_from([None, 0.1, 3.0, 10.0]), _EVENTS)
def test_who_may_go_at_once_is_told_so_and_counts_as_all_others_do(rate, events) -> None:
    quick, usual, now = Pacer(rate), Pacer(rate), 0.0
    places: list[float] = []  # of those who sleep until then
    for step, event, connected in events:
        now += step
        if not isinstance(event, int):
            for pacer in (quick, usual):
                pacer.throttled(now, event)
            continue
        if connected:
            for _ in [place for place in places if place <= now]:
                assert quick.depart(now) == usual.depart(now)
            places = [place for place in places if place > now]
        for _ in range(event):
            slowed = usual.pace < (rate or math.inf)
            if place := usual.reserve(now):
                assert not quick.go_at_once(now)
                assert quick.reserve(now) == place
                places.append(now + place)
            elif departure := usual.depart(now):
                assert not quick.go_at_once(now)
                assert (quick.reserve(now), quick.depart(now)) == (0, departure)
            elif not quick.go_at_once(now):
                assert slowed, "nobody else is sent the long way"
                assert (quick.reserve(now), quick.depart(now)) == (0, 0)
        assert quick.pace == usual.pace


@pytest.mark.parametrize("rate", [None, 10.0])
def test_nobody_goes_at_once_before_a_retry_after_is_over(rate) -> None:
    pacer = Pacer(rate)
    pacer.blocked_until = 5.0
    assert not pacer.go_at_once(4.9)
    assert pacer.go_at_once(5.0)

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


def departures_of(pacer: Pacer, count: int, now: float = 0.0) -> list[float]:
    """Return when so many go that come together, each as soon as it may."""
    departures: list[float] = []
    while len(departures) < count:
        if pacer.go(now):
            departures.append(now)
        else:
            now = max(pacer.earliest(now), now + 1e-9)
    return departures


def test_a_budget_spreads_requests_after_a_burst_of_one_second() -> None:
    departures = departures_of(Pacer(10.0), 30)
    assert departures[:11] == [0.0] * 11
    assert departures[-1] == pytest.approx(1.9)


def test_a_retry_after_holds_every_request_back() -> None:
    pacer = Pacer(10.0)
    pacer.throttled(0.0, 5.0)
    assert pacer.earliest(0.0) == pacer.blocked_until == 5.0
    assert not pacer.go(4.9)


@pytest.mark.parametrize("wish", [None, 0.0, 1.0])
def test_a_shorter_wish_takes_nothing_from_a_longer_one(wish: float | None) -> None:
    pacer = Pacer(10.0)
    pacer.throttled(0.0, 60.0)
    pacer.throttled(5.0, wish)
    assert pacer.blocked_until == 60.0
    assert pacer.earliest(5.0) == 60.0


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
        pacer.earliest(float(second))
        paces.append(pacer.pace)
    assert paces == sorted(paces)
    assert paces[0] == pytest.approx(5.5)
    assert paces[-1] == 10


def test_a_pace_that_was_never_set_is_learned_from_the_first_429() -> None:
    pacer = Pacer(None)
    for n in range(200):
        assert pacer.go(n / 100)
    pacer.throttled(2.0, None)
    assert 20 < pacer.pace < 60
    for second in range(3, 40):
        pacer.earliest(float(second))
    assert pacer.pace == math.inf


def test_a_lull_before_the_first_429_does_not_make_the_learned_pace_a_crawl() -> None:
    pacer = Pacer(None)
    for when in (*[0.0] * 100, 2.5):
        assert pacer.go(when)
    pacer.throttled(2.6, None)
    assert departures_of(pacer, 50, 3.4)[-1] < 18.4


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1, 0.15, 1.0])
def test_a_429_slows_every_pace_down_and_never_up(rate: float) -> None:
    pacer = Pacer(rate)
    pacer.throttled(0.0, None)
    assert pacer.pace <= rate
    pacer.earliest(100.0)
    assert pacer.pace == rate


def test_what_the_slowest_moment_put_off_is_no_later_once_the_pace_has_recovered() -> None:
    pacer = Pacer(10.0)
    for second in range(0, 12, 2):
        pacer.throttled(float(second), None)
    assert pacer.pace < 0.5
    assert pacer.go(10.0)
    put_off = pacer.earliest(10.0)
    assert put_off > 12
    assert pacer.earliest(12.0) < 12.7 < put_off


@pytest.mark.parametrize("rate", [None, 10.0])
def test_at_best_is_as_if_the_server_had_not_objected(rate: float | None) -> None:
    pacer = Pacer(rate)
    assert pacer.go(0.0)
    pacer.throttled(0.0, 3.0)
    assert pacer.soonest(0.0, 0) == 3.0
    assert pacer.soonest(0.0, 100) == (3.0 if rate is None else 13.0)
    assert pacer.earliest(0.0, 100) >= 20


#: Seconds until the next thing happens, and what it is: so many requests come, or the server says
#: "too many" and how many seconds it wants none.
_EVENTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.01, 0.3, 1.0, 4.0, 25.0]) | st.floats(0, 5),
        st.integers(1, 30) | st.none() | st.sampled_from([0.5, 6.0]),
    ),
    max_size=40,
)


@settings(max_examples=400)
@given(st.sampled_from([None, 0.1, 3.0, 10.0]), _EVENTS)
def test_who_may_go_is_told_when_and_goes_then(rate: float | None, events) -> None:
    pacer, now, went = Pacer(rate), 0.0, []
    for step, event in events:
        now += step
        if not isinstance(event, int):
            pacer.throttled(now, event)
            assert pacer.pace > 0
            continue
        for ahead in range(event):
            earliest, soonest = pacer.earliest(now), pacer.soonest(now, 0)
            assert now <= soonest <= earliest < math.inf
            assert pacer.earliest(now, ahead) >= earliest >= pacer.blocked_until
            if pacer.go(now):
                assert earliest == now
                went.append(now)
            else:
                assert earliest > now
    for first, last in zip(went, went[len(went) // 2 :], strict=False):
        many = sum(first <= when <= last for when in went)
        assert rate is None or many <= (last - first) * rate + rate + 1.001


@pytest.mark.parametrize("rate", [None, 10.0])
def test_nobody_goes_at_once_before_a_retry_after_is_over(rate) -> None:
    pacer = Pacer(rate)
    pacer.blocked_until = 5.0
    assert not pacer.go(4.9)
    assert pacer.go(5.0)

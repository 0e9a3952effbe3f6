"""The table of job states."""

from __future__ import annotations

import itertools
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_video import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequest,
    ConfigurationError,
    GrokVideoError,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServerError,
    UnexpectedResponse,
)
from grok_video._lifecycle import (
    _TABLE,
    Event,
    IllegalEvent,
    State,
    advance,
    diagram,
    meaning_of_failed_create,
    passes_until,
)
from grok_video._refusals import read_error

HAPPY = [
    Event.SENDING_BEGAN,
    Event.ACCEPTED,
    Event.RENDERED,
    Event.FETCHING_BEGAN,
    Event.SAVED,
]


def test_a_life_is_the_sum_of_its_events() -> None:
    assert reduce(advance, HAPPY, State.PLANNED) is State.SAVED


@pytest.mark.parametrize("lived", range(len(HAPPY)))
def test_a_process_that_dies_never_comes_back_to_planned_after_sending(lived: int) -> None:
    state = reduce(advance, HAPPY[:lived], State.PLANNED)
    if state is State.PLANNED:
        pytest.raises(IllegalEvent, advance, state, Event.INTERRUPTED)
        return
    woken = advance(state, Event.INTERRUPTED)
    assert woken is {
        State.SUBMITTING: State.IN_DOUBT,
        State.PENDING: State.PENDING,
        State.READY: State.READY,
        State.FETCHING: State.READY,
    }.get(state, woken)
    assert woken is not State.PLANNED


def test_only_a_person_leads_out_of_doubt() -> None:
    ways = {event for (state, event) in _TABLE if state is State.IN_DOUBT}
    assert ways == {Event.ID_FOUND, Event.RELEASED}


def test_an_id_that_a_person_found_may_be_corrected_until_there_is_a_video() -> None:
    corrected = [*HAPPY[:1], Event.ANSWER_LOST, Event.ID_FOUND, Event.ID_FOUND]
    assert reduce(advance, corrected, State.PLANNED) is State.PENDING
    pytest.raises(IllegalEvent, advance, State.READY, Event.ID_FOUND)


def test_nothing_leads_away_from_a_video_that_was_saved() -> None:
    assert {to for (state, _), to in _TABLE.items() if state is State.SAVED} == {State.SAVED}


def test_nothing_is_sent_except_from_planned() -> None:
    assert [s for (s, e) in _TABLE if e is Event.SENDING_BEGAN] == [State.PLANNED]
    into_planned = {event for (_, event), to in _TABLE.items() if to is State.PLANNED}
    assert into_planned == {Event.NOT_TAKEN, Event.RELEASED}


def test_every_state_can_be_reached_and_left_or_is_final() -> None:
    reached = {State.PLANNED} | set(_TABLE.values())
    assert reached == set(State)
    left = {state for (state, _) in _TABLE}
    assert {state for state in State if not state.is_final} <= left


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_an_illegal_event_raises_and_changes_nothing(events: list[Event]) -> None:
    state = State.PLANNED
    for event in events:
        before = state
        try:
            state = advance(state, event)
        except IllegalEvent as error:
            assert state is before
            assert event.value in str(error)
            assert state.value in str(error)


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_a_second_create_needs_proof_or_a_person(events: list[Event]) -> None:
    """However a life goes: between two creates stands "not taken", or a person's word."""
    state, since_sent = State.PLANNED, None
    for event in events:
        if (state, event) not in _TABLE:
            continue
        state = advance(state, event)
        if event is Event.SENDING_BEGAN:
            assert since_sent is None or {Event.NOT_TAKEN, Event.RELEASED} & set(since_sent)
            since_sent = []
        elif since_sent is not None:
            since_sent.append(event)


def test_the_diagram_shows_every_row_of_the_table() -> None:
    drawn = diagram()
    for (state, event), target in _TABLE.items():
        if not (event is Event.INTERRUPTED and target is state):
            assert f"{state.value} --> {target.value}: {event.value}" in drawn
    for a, b in itertools.product(State, State):
        if f"    {a.value} --> {b.value}:" in drawn:
            assert b in [to for (state, _), to in _TABLE.items() if state is a]


@pytest.mark.parametrize(
    ("failure", "event"),
    [
        (APIConnectionError("x", may_have_been_sent=False), Event.NOT_TAKEN),
        (RateLimited("x", status=429), Event.NOT_TAKEN),
        (ServerError("x", status=503, refused=True), Event.NOT_TAKEN),
        (BadRequest("x", status=400), Event.REFUSED),
        (AuthenticationError("x", status=401), Event.REFUSED),
        # "No channel" is a misspelt model as often as not.
        (NotFound("x", status=503), Event.REFUSED),
        (UnexpectedResponse("x", status=302), Event.REFUSED),
        (InvalidRequest("x", field="image"), Event.REFUSED),
        (APIConnectionError("x", may_have_been_sent=True), Event.ANSWER_LOST),
        (APITimeoutError("x", may_have_been_sent=True), Event.ANSWER_LOST),
        (ServerError("x", status=503, refused=False), Event.ANSWER_LOST),
        (RateLimited("x", status=429, refused=False), Event.ANSWER_LOST),
        (BadRequest("x", status=200, refused=False), Event.ANSWER_LOST),
        (UnexpectedResponse("x", status=200, refused=False), Event.ANSWER_LOST),
        # Nobody foresaw these: nothing is proven.
        (ConfigurationError("x"), Event.ANSWER_LOST),
        (GrokVideoError("x"), Event.ANSWER_LOST),
        (OSError("x"), Event.ANSWER_LOST),
    ],
)
def test_a_failed_create_may_have_been_paid_for_unless_it_is_proven_that_it_was_not(
    failure: Exception, event: Event
) -> None:
    assert meaning_of_failed_create(failure) is event


@pytest.mark.parametrize("status", [400, 404])
def test_a_refused_poll_without_a_word_may_be_that_of_a_fresh_id(status: int) -> None:
    """What it means stands in its body, which a hook of the caller's may have thrown away."""
    assert passes_until(read_error(status, {}, b"", now=0.0)) == 30.0
    assert passes_until(read_error(status, {}, b'{"error":"no"}', now=0.0)) == 0.0
    assert passes_until(read_error(403, {}, b"", now=0.0)) == 0.0

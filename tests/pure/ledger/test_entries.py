"""One item in memory and in its ledger: the same after any life, and nothing of an earlier one."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings

from grok_video import (
    BadRequest,
    GrokVideoError,
    JobExpired,
    JobFailed,
    LinkExpired,
    ModerationRefused,
    VideoRequest,
)
from grok_video._entry import Entry, read_id, written_id
from grok_video._ledger import Ledger
from grok_video._lifecycle import Event, State

from .conftest import new_entry
from .test_recovery import lives

#: An id that a person found leads to no video, and the next create is answered.
FOUND_AND_SENT_AGAIN = [
    Event.SENDING_BEGAN,
    Event.ANSWER_LOST,
    Event.ID_FOUND,
    Event.ENDED_WITHOUT_VIDEO,
    Event.RELEASED,
    Event.SENDING_BEGAN,
    Event.ACCEPTED,
]

#: Its link was told, it expired, and a new one takes its place.
TOLD_AND_SENT_AGAIN = [
    *(Event.SENDING_BEGAN, Event.ACCEPTED, Event.RENDERED, Event.TOLD, Event.LAPSED),
    *(Event.RELEASED, Event.SENDING_BEGAN, Event.ACCEPTED, Event.RENDERED),
]


@given(lives())
@example(FOUND_AND_SENT_AGAIN)
@example([Event.SENDING_BEGAN, Event.ACCEPTED, Event.ID_FOUND])
@example([Event.SENDING_BEGAN, Event.ACCEPTED, Event.RENDERED, Event.TOLD])
@example(TOLD_AND_SENT_AGAIN)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_an_item_is_in_the_next_run_what_it_was_in_this_one(
    tmp_path_factory: pytest.TempPathFactory, life: list[Event]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "a.sqlite"

    async def main() -> None:
        ledger, entry = await Ledger.open(path), new_entry()
        for event in life:
            if event in (Event.ACCEPTED, Event.ID_FOUND):
                entry.request_id = "4b2cd27e"
            await ledger.record(entry, event)
        await ledger.close()
        if entry.state in (State.SUBMITTING, State.FETCHING):
            entry.advance(Event.INTERRUPTED)
        ledger = await Ledger.open(path)
        again = (await ledger.find(["cat"])).known["cat"]
        await ledger.close()
        for one in (
            *("state", "request_id", "id_was_found", "was_told", "attempts", "error_type"),
            "fingerprint",
        ):
            assert getattr(again, one) == getattr(entry, one), one
        for one in ("sent_at", "accepted_at"):
            before, after = getattr(entry, one), getattr(again, one)
            assert (after is None) == (before is None), one
            assert before is None or after == pytest.approx(before, abs=1.0), one

    anyio.run(main)


async def test_that_a_video_is_elsewhere_is_known_until_the_next_create(tmp_path: Path) -> None:
    ledger, entry = await Ledger.open(tmp_path / "a.sqlite"), new_entry()
    output = {"upload_url": "https://up.test/a"}
    entry.describe(VideoRequest("drift", output=output), Decimal("0.14"))
    entry.request_id = "4b2cd27e"
    await ledger.record(entry, Event.SENDING_BEGAN, Event.ACCEPTED)
    entry.is_elsewhere = True
    await ledger.record(entry, Event.RENDERED)
    again = (await ledger.find(["cat"])).known["cat"]
    assert (again.is_delivered, again.is_elsewhere) == (True, True)
    entry.advance(Event.LAPSED)
    entry.advance(Event.RELEASED)
    entry.advance(Event.SENDING_BEGAN)
    assert (entry.is_delivered, entry.is_elsewhere) == (True, False)
    entry.advance(entry.take_back())
    assert (entry.is_delivered, entry.is_elsewhere) == (True, True)
    await ledger.close()


def ended(error: Exception | None, *more: Event) -> Entry:
    """Return an item that had a job and everything that one may leave, and then this."""
    entry = new_entry()
    entry.request_id = "4b2cd27e"
    for event in (Event.SENDING_BEGAN, Event.ACCEPTED, *more):
        entry.advance(event)
    entry.path, entry.size, entry.sha256, entry.seconds = "a.mp4", 7, "ab", 60.0
    entry.fail(error)
    return entry


def test_an_item_that_is_released_has_nothing_of_its_last_job() -> None:
    entry = ended(JobFailed("no luck", request_id="4b2cd27e"), Event.ENDED_WITHOUT_VIDEO)
    entry.advance(Event.RELEASED)
    assert entry.state is State.PLANNED
    for one in ("request_id", "accepted_at", "seconds", "path", "size", "sha256"):
        assert getattr(entry, one) is None, one
    assert (entry.error_type, entry.error) == (None, None)
    assert entry.attempts == 1, "but for what was sent"


@pytest.mark.parametrize(
    ("lived", "state"),
    [
        ((Event.SENDING_BEGAN, Event.ANSWER_LOST), State.IN_DOUBT),
        ((Event.SENDING_BEGAN, Event.ACCEPTED, Event.ENDED_WITHOUT_VIDEO), State.FAILED),
        ((Event.SENDING_BEGAN, Event.ACCEPTED, Event.LAPSED), State.EXPIRED),
    ],
)
def test_a_create_that_was_not_taken_leaves_its_item_as_a_person_released_it(
    lived: tuple[Event, ...], state: State
) -> None:
    entry = new_entry()
    for event in lived:
        entry.request_id = "4b2cd27e" if event is Event.ACCEPTED else entry.request_id
        entry.advance(event)
    entry.fail(JobFailed("no luck", request_id="4b2cd27e"))
    names = ("fingerprint", "request_id", "error", "error_type", "open_usd", "earlier_usd")
    before = [getattr(entry, name) for name in names]
    other = VideoRequest("another", duration=15)
    for attempts in (2, 3):
        entry.describe(other, Decimal("3.75"), other.fingerprint())
        entry.advance(Event.RELEASED)
        entry.advance(Event.SENDING_BEGAN)
        assert entry.unstated_usd == Decimal("0.14") + Decimal("3.75")
        assert entry.fingerprint == other.fingerprint()
        entry.advance(entry.take_back())
        assert entry.state is state
        assert [getattr(entry, name) for name in names] == before
        assert entry.attempts == attempts


def test_a_price_named_for_a_found_id_leaves_the_most_that_the_other_creates_may_cost() -> None:
    """Nobody knows which of them had the id: the cheap one, or the dear one."""
    entry = new_entry()
    for event in (Event.SENDING_BEGAN, Event.ANSWER_LOST, Event.RELEASED):
        entry.advance(event)
    entry.describe(VideoRequest("drift", duration=15), Decimal("3.75"))
    for event in (Event.SENDING_BEGAN, Event.ANSWER_LOST, Event.ID_FOUND):
        entry.advance(event)
    entry.charge(Decimal("0.14"))
    assert (entry.cost_usd, entry.unstated_usd) == (Decimal("0.14"), Decimal("3.75"))
    assert not entry.open_usd, "and what it costs is named once"


def test_a_new_fetch_forgets_why_the_last_one_broke() -> None:
    entry = ended(LinkExpired("dead", request_id="4b2cd27e"), Event.RENDERED)
    entry.advance(Event.FETCHING_BEGAN)
    assert (entry.error_type, entry.error) == (None, None)


@pytest.mark.parametrize(
    ("event", "error", "retryable"),
    [
        (Event.ENDED_WITHOUT_VIDEO, JobFailed("x", request_id="a"), True),
        (Event.LAPSED, JobExpired("x", request_id="a"), True),
        (Event.ENDED_WITHOUT_VIDEO, ModerationRefused("x", request_id="a"), False),
        (Event.ENDED_WITHOUT_VIDEO, BadRequest("x", status=400), False),
        (Event.RENDERED, None, False),
    ],
)
def test_only_what_ended_and_may_end_otherwise_is_sent_again(
    event: Event, error: GrokVideoError | None, retryable: bool
) -> None:
    assert ended(error, event).is_retryable is retryable


@pytest.mark.parametrize("text", ['"half of it', '"', '"\\ud80'])
def test_an_id_of_an_earlier_version_is_read_as_it_was_written(text: str) -> None:
    assert read_id(text) == text
    assert read_id(written_id(text)) == text


async def test_an_error_of_any_characters_can_be_read_in_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    ledger, entry = await Ledger.open(path), new_entry()
    await ledger.record(entry, Event.SENDING_BEGAN)
    entry.fail(ValueError("half \ud800 of a character"))
    await ledger.record(entry, Event.REFUSED)
    await ledger.close()
    ledger = await Ledger.open(path)
    again = (await ledger.find(["cat"])).known["cat"]
    await ledger.close()
    assert (again.error_type, again.error) == ("ValueError", entry.error)
    assert "half" in (again.error or "")

"""What a ledger is believed to say after a death is the sum of its events."""

from __future__ import annotations

import sqlite3
import tracemalloc
from contextlib import closing
from decimal import Decimal
from functools import reduce
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grok_video import LedgerError
from grok_video._ledger import Journal, Ledger
from grok_video._lifecycle import _TABLE, Event, State, advance

from .conftest import die_in_a_step, found, new_entry, refused, rows, snapshot, write


@pytest.mark.parametrize(
    ("lived", "expected"),
    [
        ([Event.SENDING_BEGAN], State.IN_DOUBT),
        ([Event.SENDING_BEGAN, Event.NOT_TAKEN], State.PLANNED),
        ([Event.SENDING_BEGAN, Event.ACCEPTED], State.PENDING),
        ([Event.SENDING_BEGAN, Event.ACCEPTED, Event.RENDERED], State.READY),
        (
            [Event.SENDING_BEGAN, Event.ACCEPTED, Event.RENDERED, Event.FETCHING_BEGAN],
            State.READY,
        ),
    ],
)
async def test_a_process_that_died_comes_back_where_it_was(
    tmp_path: Path, lived: list[Event], expected: State
) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, *lived)
    entry = await found(path)
    assert entry is not None
    assert entry.state is expected
    assert entry.request_id == ("4b2cd27e" if Event.ACCEPTED in lived else None)
    assert await found(path, "dog") is None
    ((last,),) = rows(path, "SELECT event FROM event ORDER BY id DESC LIMIT 1")
    cut_short = reduce(advance, lived, State.PLANNED) in (State.SUBMITTING, State.FETCHING)
    assert (last == "interrupted") is cut_short


@st.composite
def lives(draw: st.DrawFn) -> list[Event]:
    """Any life that the table allows."""
    state, events = State.PLANNED, []
    for _ in range(draw(st.integers(1, 12))):
        possible = [event for (of, event) in _TABLE if of is state]
        if not possible:
            break
        events.append(draw(st.sampled_from(possible)))
        state = advance(state, events[-1])
    return events


@given(st.lists(lives(), min_size=1, max_size=6), st.lists(st.integers(0, 5), max_size=40))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_recovery_is_the_sum_of_the_events(
    tmp_path_factory: pytest.TempPathFactory, lived: list[list[Event]], order: list[int]
) -> None:
    """Whatever happened to several items in whatever order, and whenever the process died."""
    path = tmp_path_factory.mktemp("ledger") / "a.sqlite"
    left = [list(life) for life in lived]
    written: list[list[Event]] = [[] for _ in lived]

    async def first() -> None:
        ledger = await Ledger.open(path)
        entries = [new_entry(f"k{number}") for number in range(len(lived))]
        for number in [*order, *range(len(lived))]:
            if number < len(left) and left[number]:
                event = left[number].pop(0)
                if event in (Event.ACCEPTED, Event.ID_FOUND):
                    entries[number].request_id = f"id-{number}"
                ledger.note(entries[number], event)
                written[number].append(event)
        await ledger.close()

    async def second() -> None:
        ledger = await Ledger.open(path)
        known = (await ledger.find([f"k{number}" for number in range(len(lived))])).known
        for number, events in enumerate(written):
            state = reduce(advance, events, State.PLANNED)
            if state in (State.SUBMITTING, State.FETCHING):
                state = advance(state, Event.INTERRUPTED)
            assert known[f"k{number}"].state is state
            assert known[f"k{number}"].attempts == events.count(Event.SENDING_BEGAN)
        await ledger.close()
        shown = dict(rows(path, "SELECT key, state FROM item"))
        assert shown == {key: entry.state.value for key, entry in known.items()}

    anyio.run(first)
    anyio.run(second)


async def test_money_is_added_up_over_runs(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    ledger = await Ledger.open(path)
    assert (ledger.spent_usd, ledger.open_usd) == (0, 0)
    saved, pending, refused = new_entry("saved"), new_entry("pending"), new_entry("refused")
    for entry in (saved, pending):
        await ledger.record(entry, Event.SENDING_BEGAN)
        await ledger.record(entry, Event.ACCEPTED)
    saved.charge(Decimal("0.1"))
    await ledger.record(saved, Event.RENDERED)
    await ledger.record(refused, Event.REFUSED)
    await ledger.close()
    ledger = await Ledger.open(path)
    assert (ledger.spent_usd, ledger.open_usd) == (Decimal("0.1"), Decimal("0.14"))
    await ledger.close()


async def test_a_create_in_doubt_may_be_billed_also_when_it_was_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    sent = (Event.SENDING_BEGAN, Event.ANSWER_LOST, Event.RELEASED, Event.SENDING_BEGAN)
    await write(path, *sent, Event.REFUSED, key="refused then")
    await write(path, *sent, Event.ACCEPTED, key="accepted then")
    ledger = await Ledger.open(path)
    assert ledger.open_usd == 3 * Decimal("0.14")
    await ledger.close()


async def test_keys_are_known_to_come_twice_in_one_run_only(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    for _ in range(2):
        ledger = await Ledger.open(path)
        assert (await ledger.find(["a", "b"])).again == set()
        assert (await ledger.find(["b", "c"])).again == {"b"}
        await ledger.close()


async def test_a_ledger_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    with closing(sqlite3.connect(path)) as file:
        file.execute("DROP TRIGGER event_is_never_changed")
        file.execute("UPDATE event SET state = 'saved' WHERE event = 'accepted'")
        file.commit()
    with pytest.raises(LedgerError, match="contradicts itself"):
        await found(path)


async def test_a_journal_without_a_file_keeps_nothing_and_counts_all_the_same() -> None:
    journal, entry = Journal(), new_entry()
    await journal.record(entry, Event.SENDING_BEGAN)
    journal.note(entry, Event.NOT_TAKEN)
    assert (entry.state, entry.attempts) == (State.PLANNED, 1)
    assert (await journal.find(["cat"])).known == {}
    await journal.close()


async def test_a_journal_without_a_file_knows_the_keys_of_a_run_in_little_memory() -> None:
    journal, count = Journal(), 50_000
    keys = [f"a picture of the year 2026, number {n}" for n in range(count)]
    tracemalloc.start()
    try:
        for at in range(0, count, 64):
            assert (await journal.find(keys[at : at + 64])).again == set()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 32 * count
    assert (await journal.find([*keys[-3:], "new", "new"])).again == set(keys[-3:])
    assert (await journal.find(["new", "half \ud800"])).again == {"new"}
    assert (await journal.find(keys)).again == set(keys)


async def test_a_death_in_the_middle_of_a_step_takes_that_step_back(tmp_path: Path) -> None:
    """Where WAL is not to be had, the journal beside the ledger has what was there before."""
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    torn = die_in_a_step(path, tmp_path / "torn")
    entry = await found(torn)
    assert entry is not None
    assert (entry.state, entry.request_id) == (State.PENDING, "4b2cd27e")
    assert set(snapshot(torn.parent)) == {"a.sqlite"}


async def test_a_journal_whose_ledger_is_gone_is_not_played_into_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    torn = die_in_a_step(path, tmp_path / "torn")
    torn.unlink()
    await refused(torn, "a.sqlite-journal is there without it")


async def test_a_database_of_something_else_is_left_as_it_died(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA application_id = 7")
    await refused(die_in_a_step(path, tmp_path / "torn"), "cannot be used")


async def test_a_ledger_that_was_taken_out_of_its_mode_is_brought_back_into_it(
    tmp_path: Path,
) -> None:
    """Else whoever looks in would hold up the writer, and be held up by it."""
    path = tmp_path / "a.sqlite"
    await write(path, Event.SENDING_BEGAN, Event.ACCEPTED)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    await write(path, Event.SENDING_BEGAN, key="dog")
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]

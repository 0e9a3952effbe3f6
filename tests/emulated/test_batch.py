"""Batches against the emulator, on every lane: outcomes, resuming, ceilings, and what stops one."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from blockbuster import blockbuster_ctx

from grok_video import (
    AsyncClient,
    AuthenticationError,
    BatchItem,
    CreateOutcomeUnknown,
    DestinationError,
    GrokVideoError,
    Image,
    InsufficientBalance,
    InvalidRequest,
    JobFailed,
    JobTimeout,
    LedgerError,
    ModerationRefused,
    Outcome,
    OutcomeState,
    Polling,
    Retry,
    VideoRequest,
)
from grok_video import _gate as gate_module
from grok_video._transports._loops import current_time
from grok_video.emulator import Emulator, faults

from ..conftest import PHOTO

EMULATOR = "grok_video.emulator"
NewClient = Callable[..., AsyncClient]
NewEmulator = Callable[..., Emulator]


def requests(count: int, **words: Any) -> list[tuple[str, VideoRequest]]:
    words.setdefault("duration", 1)
    return [(f"key-{n:03}", VideoRequest(f"drift {n}", **words)) for n in range(count)]


async def outcomes(client: AsyncClient, things: Any, **words: Any) -> dict[str, Outcome]:
    found = {}
    async with client.batch(things, **words) as batch:
        async for outcome in batch:
            assert outcome.key not in found
            found[outcome.key] = outcome
    assert batch.summary.counts == Counter(outcome.state for outcome in found.values())
    assert batch.summary.in_flight == 0
    return found


async def until(true: Callable[[], bool]) -> None:
    """Return when something is true of the emulator, which runs in another thread."""
    with anyio.fail_after(20):
        while not true():  # noqa: ASYNC110 - it tells no one
            await anyio.sleep(0.005)


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def states(found: dict[str, Outcome]) -> dict[str, str]:
    return {key: outcome.state.value for key, outcome in found.items()}


def read(ledger: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(ledger)) as file:
        return file.execute(query).fetchall()


# --- the usual -----------------------------------------------------------------------------------


async def test_every_item_has_one_outcome_and_one_file(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    found = await outcomes(
        client, requests(12, image=PHOTO), out=tmp_path / "videos", ledger=tmp_path / "a.sqlite"
    )
    assert set(states(found).values()) == {"saved"}
    assert grok_emulator.accepted == 12
    for key, outcome in found.items():
        assert outcome.is_ok
        assert outcome.video is not None
        assert outcome.video.path == tmp_path / "videos" / f"{key}.mp4"
        assert outcome.video.path.read_bytes()[4:8] == b"ftyp"
        assert outcome.cost_usd == Decimal("0.15")
        assert (outcome.attempts, outcome.error) == (1, None)
        assert outcome.polls >= 1
        assert outcome.seconds is not None
    rows = read(tmp_path / "a.sqlite", "SELECT key, state, request_id, path, cost_usd FROM item")
    assert {row[0]: row[1:] for row in rows} == {
        key: ("saved", outcome.request_id, str(outcome.video.path), 0.15)
        for key, outcome in found.items()
        if outcome.video is not None
    }
    beside = files_in(tmp_path) - files_in(tmp_path / "videos")
    assert {path.name for path in beside} <= {"a.sqlite"}


async def test_without_a_folder_nothing_is_downloaded_and_without_a_ledger_nothing_kept(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    summary = await client.run_batch(requests(5), max_in_flight=2)
    assert summary.counts == {OutcomeState.DONE: 5}
    assert summary.is_complete
    assert summary.total == 5
    assert grok_emulator.downloads == 0
    assert summary.cost_usd == Decimal("0.70")
    assert summary.median_seconds is not None
    assert summary.p99_seconds is not None
    assert summary.p99_seconds >= summary.median_seconds
    assert summary.polls_per_job is not None
    assert summary.polls_per_job >= 1


async def test_outcomes_come_in_the_order_in_which_items_end(
    grok_emulator_factory: NewEmulator, new_client: NewClient
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with (
        new_client(emulator) as client,
        client.batch(requests(3), max_in_flight=3) as batch,
    ):
        await until(lambda: emulator.accepted >= 3)
        by_prompt = {create.fields["prompt"]: create.request_id for create in emulator.creates}
        for number in (2, 0, 1):
            emulator.finish(by_prompt[f"drift {number}"])
            outcome = await anext(batch)
            assert outcome.key == f"key-{number:03}"
        with pytest.raises(StopAsyncIteration):
            await anext(batch)


async def test_items_are_taken_only_as_places_come_free(
    grok_emulator_factory: NewEmulator, new_client: NewClient
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    taken = 0

    def endless() -> Iterator[BatchItem]:
        nonlocal taken
        while True:
            taken += 1
            yield BatchItem(f"k{taken}", VideoRequest(f"drift {taken}"))

    async with (
        new_client(emulator) as client,
        client.batch(endless(), max_in_flight=5) as batch,
    ):
        await until(lambda: emulator.accepted >= 5)
        assert taken == 5
        assert batch.summary.in_flight == 5
        emulator.finish(emulator.creates[0].request_id)
        await anext(batch)
        await until(lambda: emulator.accepted >= 6)
        assert taken == 6


async def test_what_was_read_is_sent_while_a_slow_manifest_gives_more(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    taken = 0

    def slow() -> Iterator[tuple[str, VideoRequest]]:
        nonlocal taken
        for line in requests(60):
            if grok_emulator.accepted >= 3:  # it runs in another thread
                return
            time.sleep(0.05)
            taken += 1
            yield line

    found = await outcomes(client, slow())
    assert len(found) == taken < 60


async def test_a_long_manifest_leaves_the_event_loop_to_others(
    client: AsyncClient,
) -> None:
    turns = 0

    def long() -> Iterator[tuple[str, VideoRequest]]:
        for number in range(3000):
            if turns >= 10:
                return
            yield f"key-{number}", VideoRequest("x", Path("missing.jpg"))

    async with anyio.create_task_group() as tasks:

        async def others() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        tasks.start_soon(others)
        async with client.batch(long(), max_in_flight=3000) as batch:
            read = [outcome.key async for outcome in batch]
        assert len(read) < 3000
        tasks.cancel_scope.cancel()


async def test_an_asynchronous_iterable_may_take_its_time(client: AsyncClient) -> None:
    send, receive = anyio.create_memory_object_stream[tuple[str, VideoRequest]](0)

    async def slowly() -> AsyncIterator[tuple[str, VideoRequest]]:
        async with receive:
            async for one in receive:
                yield one

    async with client.batch(slowly()) as batch, send:
        for key, request in requests(3):
            await send.send((key, request))
            # Told before the next one is even there.
            assert (await anext(batch)).key == key
        await send.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(batch)


async def test_bare_requests_are_known_by_their_fingerprint(client: AsyncClient) -> None:
    plain = [request for _, request in requests(2)]
    found = await outcomes(client, plain)
    assert set(found) == {request.fingerprint() for request in plain}


async def test_a_manifest_that_breaks_ends_the_batch_after_what_it_gave(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    def breaking() -> Iterator[tuple[str, VideoRequest]]:
        yield from requests(3)
        raise OSError("the manifest is gone")

    seen = []
    async with client.batch(breaking()) as batch:
        with pytest.raises(OSError, match="the manifest is gone"):
            async for outcome in batch:
                seen.append(outcome.state)
    assert seen == ["done"] * 3


@pytest.mark.parametrize("kind", [OSError, anyio.BrokenResourceError, anyio.EndOfStream])
async def test_an_asynchronous_manifest_that_breaks_is_told_whatever_it_raises(
    client: AsyncClient, kind: type[Exception]
) -> None:
    async def breaking() -> AsyncIterator[tuple[str, VideoRequest]]:
        for one in requests(3):
            yield one
        raise kind

    seen = []
    async with client.batch(breaking()) as batch:
        with pytest.raises(kind):
            async for outcome in batch:
                seen.append(outcome.state)
    assert seen == ["done"] * 3


async def test_a_manifest_that_cannot_be_begun_leaves_the_ledger_free(
    client: AsyncClient, tmp_path: Path
) -> None:
    class Broken:
        def __iter__(self) -> Iterator[Any]:
            raise OSError("the manifest is gone")

    with pytest.raises(OSError, match="the manifest is gone"):
        await client.run_batch(Broken(), ledger=tmp_path / "a.sqlite")
    assert (await client.run_batch(requests(1), ledger=tmp_path / "a.sqlite")).is_complete


# --- what goes wrong with single items -----------------------------------------------------------


async def test_one_in_ten_is_broken_and_each_has_its_own_reason(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    things: list[tuple[str, Any]] = requests(50, image=PHOTO)
    text = tmp_path / "no-picture.jpg"
    text.write_text("I am no picture")
    missing = VideoRequest("x", tmp_path / "missing.jpg")
    things[5] = ("missing", missing)
    things[15] = ("no picture", VideoRequest("x", Image.from_path(text)))
    things[25] = ("moderated", VideoRequest("[moderated] x", duration=1))
    things[35] = ("failed", VideoRequest("[failed] x", duration=1))
    things[45] = ("not a request", "drift")
    ledger = tmp_path / "a.sqlite"
    found = await outcomes(client, things, out=tmp_path / "videos", ledger=ledger)
    assert Counter(states(found).values()) == {"saved": 45, "failed": 5}
    reasons = {
        "missing": InvalidRequest,
        "no picture": InvalidRequest,
        "moderated": ModerationRefused,
        "failed": JobFailed,
        "not a request": InvalidRequest,
    }
    assert {key: type(found[key].error) for key in reasons} == reasons
    assert len({str(found[key].error) for key in reasons}) == 5
    assert grok_emulator.accepted == 47
    written = dict(read(ledger, "SELECT key, error FROM item WHERE state = 'failed'"))
    del reasons["not a request"]  # which has no request to write down
    assert written == {key: str(found[key].error) for key in reasons}


async def test_a_link_that_died_is_asked_for_anew(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("download", [faults.LinkDied()])
    found = await outcomes(client, requests(3), out=tmp_path)
    assert set(states(found).values()) == {"saved"}
    grok_emulator.assert_faults_consumed()


async def test_a_file_that_does_not_come_is_fetched_by_the_next_run(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("download", [faults.html_page()] * 50)
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    found = await outcomes(client, requests(1), **words)
    (outcome,) = found.values()
    assert outcome.state is OutcomeState.UNFETCHED
    assert outcome.request_id in str(outcome.error)
    assert outcome.video is not None
    assert outcome.video.url
    while grok_emulator.faults_left:
        await client._session.transport.get(outcome.video.url)
    found = await outcomes(client, requests(1), **words)
    assert states(found) == {"key-000": "saved"}
    assert grok_emulator.accepted == 1


async def test_a_file_of_somebody_else_is_never_replaced_and_nothing_is_paid(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "key-000.mp4").write_text("mine")
    found = await outcomes(client, requests(2), out=tmp_path)
    assert states(found) == {"key-000": "failed", "key-001": "saved"}
    assert isinstance(found["key-000"].error, DestinationError)
    assert (tmp_path / "key-000.mp4").read_text() == "mine"
    assert grok_emulator.accepted == 1


async def test_a_batch_outlives_the_folder_that_it_works_in(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    items = [
        BatchItem("lost", VideoRequest("drift", image=Path("cat.jpg"), duration=1)),
        BatchItem("other", VideoRequest("drift", duration=1)),
    ]
    out = tmp_path / "out"
    summary = await client.run_batch(items, out=out, ledger=tmp_path / "a.sqlite")
    assert (summary.counts[OutcomeState.FAILED], summary.counts[OutcomeState.SAVED]) == (1, 1)


async def test_a_request_that_comes_twice_is_told_that_it_needs_a_key(client: AsyncClient) -> None:
    summary = await client.run_batch([VideoRequest("drift", duration=1)] * 2)
    [failed] = summary.failed
    assert "give each a key of its own" in str(failed)


async def test_a_key_that_comes_twice_is_refused_the_second_time(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    async def twice(**words: Any) -> list[tuple[str, str]]:
        async with client.batch([*requests(3), *requests(2)], **words) as batch:
            return sorted([(one.key, one.state.value) async for one in batch])

    ledger = tmp_path / "a.sqlite"
    assert (await twice(ledger=ledger, max_in_flight=1)).count(("key-001", "failed")) == 1
    assert grok_emulator.accepted == 3
    assert (await twice(ledger=ledger)).count(("key-001", "failed")) == 1  # also when it resumes
    assert grok_emulator.accepted == 3


@pytest.mark.parametrize("key", ["", " ", "a\nb", "\ud800", "x" * 1001, 7, None])
async def test_a_key_that_cannot_be_one_is_an_outcome(
    client: AsyncClient, grok_emulator: Emulator, key: Any
) -> None:
    async with client.batch([(key, VideoRequest("drift"))]) as batch:
        (outcome,) = [one async for one in batch]
    assert outcome.state is OutcomeState.FAILED
    assert isinstance(outcome.error, InvalidRequest)
    assert grok_emulator.accepted == 0


async def test_keys_never_lead_out_of_the_folder(client: AsyncClient, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    keys = ["../../evil", "/etc/passwd", "..", "a/b", "a_b", "CON", ".hidden", "ä", "x" * 900]
    things = [(key, VideoRequest("drift", duration=1)) for key in keys]
    found = await outcomes(client, things, out=out, name="v-{key}.mp4")
    assert set(states(found).values()) == {"saved"}
    files = {path.resolve() for path in out.iterdir()}
    assert len(files) == len(keys)
    assert all(path.name.startswith("v-") for path in files)
    assert files_in(tmp_path) == files


async def test_files_are_hashed_unless_that_is_declined(
    client: AsyncClient, tmp_path: Path
) -> None:
    hashes = {}
    for wanted in (True, False):
        words = {"out": tmp_path, "name": f"{wanted}-{{key}}.mp4", "sha256": wanted}
        ledger = tmp_path / f"{wanted}.sqlite"
        found = await outcomes(client, requests(1), ledger=ledger, **words)
        outcome = found["key-000"]
        assert outcome.video is not None
        hashes[wanted] = outcome.video.sha256
        assert read(ledger, "SELECT sha256 FROM item") == [(hashes[wanted],)]
    whole = (tmp_path / "True-key-000.mp4").read_bytes()
    assert hashes == {True: hashlib.sha256(whole).hexdigest(), False: None}


# --- resuming ------------------------------------------------------------------------------------


async def test_the_same_call_again_sends_nothing(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    first = await outcomes(client, requests(4), **words)
    requests_seen = len(grok_emulator.requests)
    again = await outcomes(client, requests(5), **words)
    assert states(again) == {**dict.fromkeys(first, "skipped"), "key-004": "saved"}
    for key, outcome in first.items():
        assert outcome.video is not None
        video = again[key].video
        assert video is not None
        assert (video.path, video.size, video.sha256) == (
            outcome.video.path,
            outcome.video.size,
            outcome.video.sha256,
        )
    assert len(grok_emulator.requests) > requests_seen
    assert grok_emulator.accepted == 5


async def test_leaving_early_keeps_what_was_paid_for(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    async with new_client(emulator) as client:
        async with client.batch(requests(20), max_in_flight=4, **words) as batch:
            await until(lambda: emulator.accepted >= 4)
            emulator.finish(emulator.creates[0].request_id)
            async for _ in batch:
                break
        accepted = emulator.accepted
        assert accepted <= 5
        rows = dict(read(words["ledger"], "SELECT request_id, state FROM item"))
        assert set(rows) == {create.request_id for create in emulator.creates}
        assert Counter(rows.values()) == {"saved": 1, "pending": accepted - 1}
        for create in emulator.creates[1:]:
            emulator.finish(create.request_id)
        found = await outcomes(client, requests(accepted), **words)
    assert Counter(states(found).values()) == {"saved": accepted - 1, "skipped": 1}
    assert emulator.accepted == accepted


@pytest.mark.parametrize("finished", [1, 4])
async def test_leaving_early_without_a_ledger_tells_the_log_what_was_paid_for(
    grok_emulator_factory: NewEmulator,
    new_client: NewClient,
    caplog: pytest.LogCaptureFixture,
    finished: int,
) -> None:
    """Those that are still awaited, and those that had ended and were not asked for yet."""
    emulator = grok_emulator_factory(time_scale=1.0)
    async with (
        new_client(emulator) as client,
        client.batch(requests(20), max_in_flight=4) as batch,
    ):
        await until(lambda: emulator.accepted >= 4)
        for create in emulator.creates[:finished]:
            emulator.finish(create.request_id)
        await until(lambda: batch.summary.total >= finished)
        told = (await anext(batch)).request_id
    accepted = {create.request_id for create in emulator.creates}
    assert ids_in_warnings(caplog, accepted) == accepted - {told}


def ids_in_warnings(caplog: pytest.LogCaptureFixture, ids: set[str]) -> set[str]:
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    return {request_id for request_id in ids if any(request_id in words for words in said)}


async def test_what_is_run_without_a_ledger_tells_the_log_which_jobs_go_on(
    grok_emulator_factory: NewEmulator, new_client: NewClient, caplog: pytest.LogCaptureFixture
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with new_client(emulator) as client:
        summary = await client.run_batch(requests(3), timeout=0.2)
    assert summary.counts == {OutcomeState.PENDING: 3}
    accepted = {create.request_id for create in emulator.creates}
    assert ids_in_warnings(caplog, accepted) == accepted


async def test_leaving_early_warns_of_nothing_that_the_ledger_has(
    grok_emulator_factory: NewEmulator,
    new_client: NewClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with (
        new_client(emulator) as client,
        client.batch(requests(4), ledger=tmp_path / "a.sqlite"),
    ):
        await until(lambda: emulator.accepted >= 4)
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


async def test_leaving_early_tells_the_log_what_a_broken_ledger_could_not_take(
    grok_emulator_factory: NewEmulator,
    new_client: NewClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from grok_video._ledgerfile import LedgerFile

    real = LedgerFile._commit

    def breaking(self: LedgerFile, rows: list[Any], events: list[Any]) -> None:
        if any("accepted" in event for event in events):
            raise sqlite3.OperationalError("disk I/O error")
        real(self, rows, events)

    monkeypatch.setattr(LedgerFile, "_commit", breaking)
    emulator = grok_emulator_factory(time_scale=1.0)
    async with (
        new_client(emulator) as client,
        client.batch(requests(1), ledger=tmp_path / "a.sqlite") as batch,
    ):
        await until(lambda: batch.summary.stopped is not None)
    accepted = {create.request_id for create in emulator.creates}
    assert len(accepted) == 1
    assert ids_in_warnings(caplog, accepted) == accepted


async def test_a_cancelled_batch_lets_creates_answer_and_writes_them_down(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    emulator.script("create", [faults.Pass()] + [faults.Stall(0.3, resume=True)] * 3)
    ledger = tmp_path / "a.sqlite"
    async with new_client(emulator) as client:
        with anyio.CancelScope() as scope:
            async with client.batch(requests(20), ledger=ledger, max_in_flight=4) as batch:

                async def cancel() -> None:
                    await until(lambda: len(emulator.faults_consumed) >= 4)
                    scope.cancel()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cancel)
                    async for _ in batch:
                        pass
        assert scope.cancelled_caught
    assert dict(read(ledger, "SELECT request_id, state FROM item")) == {
        create.request_id: "pending" for create in emulator.creates
    }
    assert emulator.accepted == 4


async def test_an_error_of_the_consumer_is_the_callers_own(client: AsyncClient) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.batch(requests(3)) as batch:
            async for _ in batch:
                _ = 1 / 0


async def test_failed_items_are_tried_again_only_on_request(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.Failed("internal_error", "no luck")])
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    assert states(await outcomes(client, requests(1), **words)) == {"key-000": "failed"}
    again = await outcomes(client, requests(1), **words)
    assert states(again) == {"key-000": "failed"}
    assert "no luck" in str(again["key-000"].error)
    assert "retry_failed" in str(again["key-000"].error)
    assert grok_emulator.accepted == 1
    found = await outcomes(client, requests(1), retry_failed=True, **words)
    assert states(found) == {"key-000": "saved"}
    assert found["key-000"].attempts == 2
    assert grok_emulator.accepted == 2


async def test_items_in_doubt_are_listed_and_never_sent_again_by_themselves(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script(
        "create",
        [faults.Pass(), faults.CutRequest(accepted=True), faults.CutRequest(accepted=False)],
    )
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite", "max_in_flight": 1}
    found = await outcomes(client, requests(3), **words)
    assert states(found) == {"key-000": "saved", "key-001": "in_doubt", "key-002": "in_doubt"}
    assert isinstance(found["key-001"].error, CreateOutcomeUnknown)
    for _ in range(2):
        async with client.batch(requests(3), **words) as batch:
            told = {one.key: one async for one in batch}
        assert batch.summary.in_doubt == ("key-001", "key-002")
        assert "found_ids" in str(told["key-001"].error)
    assert grok_emulator.accepted == 2

    # A person looks at the provider's list: the one was accepted, the other was not.
    accepted = {create.fields["prompt"]: create.request_id for create in grok_emulator.creates}
    found = await outcomes(
        client,
        requests(3),
        found_ids={"key-001": accepted["drift 1"]},
        resubmit_in_doubt=True,
        **words,
    )
    assert states(found) == {"key-000": "skipped", "key-001": "saved", "key-002": "saved"}
    assert found["key-001"].request_id == accepted["drift 1"]
    assert grok_emulator.accepted == 3


class AtResend(logging.Handler):
    """Does something in the loop when a create has failed and will be sent again in a moment."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def emit(self, record: logging.LogRecord) -> None:
        if "sent again in" in record.getMessage():
            self.act()

    def __enter__(self) -> None:
        logging.getLogger("grok_video").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("grok_video").removeHandler(self)


RESENDING = Retry(base=0.01, cap=0.01, resend_unknown_creates=True)


@pytest.mark.parametrize("hindrance", ["stop", "trouble", "ledger", "cancel"])
async def test_a_lost_create_that_is_not_sent_again_after_all_is_in_doubt(
    new_client: NewClient,
    grok_emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hindrance: str,
) -> None:
    from grok_video._ledgerfile import LedgerFile

    grok_emulator.script("create", [faults.Pass(), faults.CutRequest(accepted=True)])
    words = {"ledger": tmp_path / "a.sqlite", "max_in_flight": 1}
    broken, scope = anyio.Event(), anyio.CancelScope()
    real = LedgerFile._commit

    def breaking(self: LedgerFile, *rows: Any) -> None:
        if broken.is_set():
            raise sqlite3.OperationalError("disk I/O error")
        real(self, *rows)

    monkeypatch.setattr(LedgerFile, "_commit", breaking)
    told: dict[str, Outcome] = {}
    async with new_client(grok_emulator, retry=RESENDING) as client:
        batch = client.batch(requests(2), **words)

        def trouble() -> None:
            # What the failure of another item does.
            error = CreateOutcomeUnknown("lost", fingerprint="f", sent_at=0.0, phase="p")
            batch._entered().gate.failed(error, current_time(), alone=False)

        acts = {
            "stop": batch.stop,
            "trouble": trouble,
            "ledger": broken.set,
            "cancel": scope.cancel,
        }
        try:
            with AtResend(acts[hindrance]), scope:
                async with batch:
                    async for outcome in batch:
                        told[outcome.key] = outcome
        except LedgerError:
            assert hindrance == "ledger"
    assert grok_emulator.accepted == 2
    if hindrance != "cancel":
        outcome = told["key-001"]
        assert outcome.state is OutcomeState.IN_DOUBT
        assert isinstance(outcome.error, CreateOutcomeUnknown)
        assert batch.summary.in_doubt == ("key-001",)
    assert batch.summary.open_usd == Decimal("0.14")

    monkeypatch.setattr(LedgerFile, "_commit", real)
    async with new_client(grok_emulator) as client:
        found = await outcomes(client, requests(2), retry_failed=True, **words)
    assert states(found) == {"key-000": "skipped", "key-001": "in_doubt"}
    assert grok_emulator.accepted == 2


async def test_a_picture_that_changes_before_a_resend_leaves_the_lost_create_in_doubt(
    new_client: NewClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True)])
    picture = tmp_path / "a.jpg"
    picture.write_bytes(PHOTO.read_bytes())
    things = [("a", VideoRequest("drift", picture, duration=1))]
    ledger = tmp_path / "a.sqlite"
    shorter = AtResend(lambda: picture.write_bytes(PHOTO.read_bytes()[:-100]))
    async with new_client(grok_emulator, retry=RESENDING) as client:
        with shorter:
            summary = await client.run_batch(things, ledger=ledger)
        assert summary.in_doubt == ("a",)
        assert summary.open_usd == Decimal("0.15")
        found = await outcomes(client, things, ledger=ledger, retry_failed=True)
    assert states(found) == {"a": "in_doubt"}
    assert grok_emulator.accepted == 1


async def test_a_wait_that_ends_leaves_the_job_pending(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    words = {"ledger": tmp_path / "a.sqlite"}
    async with new_client(emulator) as client:
        found = await outcomes(client, requests(1), timeout=0.2, **words)
        assert states(found) == {"key-000": "pending"}
        assert isinstance(found["key-000"].error, JobTimeout)
        emulator.finish(emulator.creates[0].request_id)
        found = await outcomes(client, requests(1), **words)
        assert states(found) == {"key-000": "done"}
        assert found["key-000"].seconds is not None
        assert found["key-000"].seconds > 0.15  # counted from the create, in another run
    assert emulator.accepted == 1


async def test_a_done_item_is_downloaded_once_there_is_a_folder(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    ledger = tmp_path / "a.sqlite"
    assert states(await outcomes(client, requests(1), ledger=ledger)) == {"key-000": "done"}
    assert states(await outcomes(client, requests(1), ledger=ledger)) == {"key-000": "skipped"}
    found = await outcomes(client, requests(1), ledger=ledger, out=tmp_path)
    assert states(found) == {"key-000": "saved"}
    assert found["key-000"].cost_usd == Decimal("0.14")
    assert grok_emulator.accepted == 1


# --- money ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_in_flight", [1, 7])
async def test_the_ceiling_is_kept_and_what_is_left_is_said(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, max_in_flight: int
) -> None:
    words = {"ledger": tmp_path / "a.sqlite", "max_in_flight": max_in_flight}
    async with client.batch(requests(30), max_cost_usd=Decimal("1.60"), **words) as batch:
        told = {one.key: one async for one in batch}
    summary = batch.summary
    assert grok_emulator.bill == Decimal("1.54")  # 11 at 0.14: one more would be 1.68
    assert summary.counts == {OutcomeState.DONE: 11, OutcomeState.LEFT: 19}
    assert set(summary.left) == {key for key, one in told.items() if one.state == "left"}
    assert summary.stopped is not None
    assert "max_cost_usd" in summary.stopped
    assert summary.cost_usd == Decimal("1.54")

    # The ceiling is the ledger's: what earlier runs spent counts.
    summary = await client.run_batch(requests(30), max_cost_usd=1.9, **words)
    assert grok_emulator.bill == summary.cost_usd == Decimal("1.82")
    assert (summary.counts[OutcomeState.SKIPPED], summary.counts[OutcomeState.DONE]) == (11, 2)
    summary = await client.run_batch(requests(30), **words)
    assert summary.counts == {OutcomeState.SKIPPED: 13, OutcomeState.DONE: 17}


async def test_what_is_in_doubt_counts_against_the_ceiling(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.Pass(), faults.CutRequest(accepted=True)])
    summary = await client.run_batch(
        requests(5), max_cost_usd=0.42, ledger=tmp_path / "a.sqlite", max_in_flight=1
    )
    assert summary.counts == {
        OutcomeState.DONE: 2,
        OutcomeState.IN_DOUBT: 1,
        OutcomeState.LEFT: 2,
    }
    assert (summary.cost_usd, summary.open_usd) == (Decimal("0.28"), Decimal("0.14"))


# --- what stops a batch --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.invalid_token(), AuthenticationError),
        (faults.out_of_credits(), InsufficientBalance),
        (faults.out_of_quota(), InsufficientBalance),
    ],
)
async def test_an_account_that_cannot_pay_costs_one_refusal_and_no_more(
    client: AsyncClient,
    grok_emulator: Emulator,
    tmp_path: Path,
    fault: faults.Fault,
    kind: type[GrokVideoError],
) -> None:
    words = {"ledger": tmp_path / "a.sqlite"}
    grok_emulator.script("create", [fault] * 100)
    async with client.batch(requests(100), **words) as batch:
        told = [one async for one in batch]
    assert {one.state for one in told} == {OutcomeState.LEFT}
    assert all(isinstance(one.error, kind) for one in told)
    assert len(grok_emulator.faults_consumed) == 1
    assert len(batch.summary.left) == 100


async def test_pending_jobs_are_still_fetched_when_the_money_runs_out(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.Pass()] * 5 + [faults.out_of_credits()] * 95)
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    found = await outcomes(client, requests(100), max_in_flight=8, **words)
    assert Counter(states(found).values()) == {"saved": 5, "left": 95}
    consumed = Counter(type(one.fault) for one in grok_emulator.faults_consumed)
    assert consumed[faults.Answer] <= 8  # those that were on their way together
    # After topping up, the same call sends what was left: nobody has to say "retry".
    async with client.batch([], **words):
        pass
    assert dict(read(words["ledger"], "SELECT state, count(*) FROM item GROUP BY 1"))["saved"] == 5


async def test_lost_answers_end_the_sending_after_ten(
    client: AsyncClient, grok_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    grok_emulator.script("create", [faults.bad_upstream(accepted=True)] * 100)
    found = await outcomes(client, requests(100), max_in_flight=50)
    counts = Counter(states(found).values())
    assert counts == {"in_doubt": gate_module.MOST_LOST, "left": 100 - gate_module.MOST_LOST}


async def test_an_outage_is_waited_for_and_a_long_one_is_not(
    client: AsyncClient, grok_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    grok_emulator.script("create", [faults.Refuse(0.4)])
    assert set(states(await outcomes(client, requests(5))).values()) == {"done"}
    monkeypatch.setattr(gate_module, "PATIENCE", 0.2)
    grok_emulator.stop()
    found = await outcomes(client, requests(5))
    assert set(states(found).values()) == {"left"}


async def test_no_create_is_sooner_than_the_server_allows(
    grok_emulator: Emulator, new_client: NewClient, tmp_path: Path
) -> None:
    async with new_client(grok_emulator, retry=Retry(base=0.01, cap=0.05)) as client:
        await outcomes(client, requests(3))
        grok_emulator.storm(1.0, retry_after=0.4)
        summary = await client.run_batch(requests(6), out=tmp_path, max_in_flight=6)
    assert summary.counts == {OutcomeState.SAVED: 6}
    assert grok_emulator.accepted == 9
    assert [one.status for one in grok_emulator.requests if one.method == "POST"].count(429) >= 1
    # Those that were on their way when the first 429 was answered could not know of it.
    assert all(one.at < early_end(grok_emulator) for one in grok_emulator.early)


def early_end(emulator: Emulator) -> float:
    first = next(one for one in emulator.requests if one.method == "POST" and one.status == 429)
    assert first.answered is not None
    return first.answered + 0.1


async def test_stop_lets_what_was_sent_come_in(
    grok_emulator_factory: NewEmulator, new_client: NewClient
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with new_client(emulator) as client:
        async with client.batch(requests(10), max_in_flight=3) as batch:
            await until(lambda: emulator.accepted >= 3)
            batch.stop()
            for create in emulator.creates:
                emulator.finish(create.request_id)
            told = [one.state async for one in batch]
        assert Counter(told) == {OutcomeState.DONE: 3, OutcomeState.LEFT: 7}


# --- ledgers that cannot be used -----------------------------------------------------------------


async def test_a_second_batch_on_one_ledger_is_refused_with_the_first_ones_pid(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    ledger = tmp_path / "a.sqlite"
    async with client.batch(requests(1), ledger=ledger):
        with pytest.raises(LedgerError, match=f"process {os.getpid()} on ") as caught:
            await client.run_batch(requests(3), ledger=ledger)
        assert "Nothing was sent" in str(caught.value)
    await client.run_batch(requests(1), ledger=ledger)


@pytest.mark.parametrize("whole", [6, 7, 8], ids=["before a create", "after it", "at the end"])
async def test_a_ledger_that_breaks_in_the_middle_sends_no_more_and_says_so(
    client: AsyncClient,
    grok_emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: int,
) -> None:
    """What was accepted is still fetched; the error is raised when all outcomes were told."""
    from grok_video._ledgerfile import LedgerFile

    real, count = LedgerFile._commit, 0

    def breaking(self: LedgerFile, *words: Any) -> None:
        nonlocal count
        count += 1
        if count > whole:
            raise sqlite3.OperationalError("disk I/O error")
        real(self, *words)

    monkeypatch.setattr(LedgerFile, "_commit", breaking)
    told = []
    async with client.batch(requests(30), ledger=tmp_path / "a.sqlite", max_in_flight=1) as batch:
        with pytest.raises(LedgerError, match="disk I/O error"):
            async for outcome in batch:
                told.append(outcome)
    assert len(told) == 30
    assert grok_emulator.accepted == (2 if whole == 6 else 3)
    counts = Counter(one.state for one in told)
    assert counts[OutcomeState.DONE] == grok_emulator.accepted
    assert counts[OutcomeState.LEFT] == 30 - grok_emulator.accepted


# --- a good neighbour ----------------------------------------------------------------------------


@pytest.fixture
def no_blocking() -> Iterator[None]:
    excluded = [sys.modules[name] for name in sys.modules if name.startswith(EMULATOR)]
    with blockbuster_ctx(scanned_modules=["grok_video"], excluded_modules=excluded):
        yield


@pytest.mark.usefixtures("no_blocking")
async def test_a_batch_never_blocks_its_loop(
    new_client: NewClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    async with new_client(grok_emulator) as client:
        for _ in range(2):
            found = await outcomes(client, requests(10, image=PHOTO), **words)
            assert all(outcome.is_ok for outcome in found.values())


# --- rules of use --------------------------------------------------------------------------------


async def test_a_batch_is_used_inside_its_context_and_once(client: AsyncClient) -> None:
    batch = client.batch(requests(1))
    with pytest.raises(GrokVideoError, match="inside its context"):
        await anext(batch)
    async with batch:
        pass
    with pytest.raises(GrokVideoError, match="run once"):
        async with batch:
            pass
    with pytest.raises(StopAsyncIteration):
        await anext(batch)
    assert batch.summary.total == 0


@pytest.mark.parametrize(
    "words",
    [
        {"max_in_flight": 0},
        {"max_in_flight": True},
        {"max_in_flight": 1.5},
        {"max_cost_usd": -1},
        {"max_cost_usd": "much"},
        {"max_cost_usd": float("nan")},
        {"name": "video.mp4"},
        {"name": "../{key}.mp4"},
        {"timeout": 0},
    ],
    ids=str,
)
async def test_settings_are_checked_before_anything_happens(
    client: AsyncClient, words: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        client.batch([], **words)
    with pytest.raises(InvalidRequest):
        client.batch("a.csv")  # type: ignore[arg-type]


async def test_polling_can_be_anything(grok_emulator: Emulator, new_client: NewClient) -> None:
    async with new_client(grok_emulator, polling=Polling()) as client:
        assert (await client.run_batch(requests(3))).is_complete


async def test_pictures_in_memory_are_items_like_any_other(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    large = PHOTO.read_bytes() + bytes(2**17)
    plain = [VideoRequest("drift", large, duration=1), VideoRequest("drift", large, duration=2)]
    found = await outcomes(client, plain)
    assert set(found) == {request.fingerprint() for request in plain}
    assert grok_emulator.accepted == 2

"""What a batch decides without doing anything: file names, prices, ceilings, order, tallies."""

from __future__ import annotations

import ntpath
import random
import sys
import threading
from decimal import Decimal
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_video import (
    APIConnectionError,
    AuthenticationError,
    BadRequest,
    BatchItem,
    CreateOutcomeUnknown,
    GrokVideoError,
    InvalidRequest,
    Outcome,
    OutcomeState,
    RateLimited,
    Retry,
    VideoRequest,
    list_price,
)
from grok_video._budget import Account, Budget, dollars
from grok_video._filenames import check_template, file_name
from grok_video._gate import MOST_LOST, PATIENCE, Closed, Gate, NotYet
from grok_video._outcomes import NAMED, Tally
from grok_video._transports._loops import current_time

KEYS = st.text(min_size=1, max_size=300).filter(lambda key: key.strip() and key.isprintable())

# --- file names ----------------------------------------------------------------------------------


def is_reserved(name: str) -> bool:
    # Python 3.13 moved it.
    if hasattr(ntpath, "isreserved"):
        return ntpath.isreserved(name)
    return PureWindowsPath(name).is_reserved()


@given(KEYS)
def test_a_name_stays_in_its_folder_on_every_system(key: str) -> None:
    name = file_name("{key}.mp4", key)
    for kind in (PurePosixPath, PureWindowsPath):
        assert kind(name).name == name
        assert kind("out", name).parent == kind("out")
    assert not is_reserved(name)
    assert not name.startswith(".")
    assert name.endswith(".mp4")
    assert len(name.encode()) <= 200


@given(KEYS, KEYS)
def test_two_keys_never_have_one_name(one: str, other: str) -> None:
    same = file_name("{key}.mp4", one) == file_name("{key}.mp4", other)
    assert same == (one == other)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("cat-001", "cat-001.mp4"),
        ("Café (2)", "Café (2).mp4"),
        ("v1.2", "v1.2.mp4"),
        ("a" * 64, "a" * 64 + ".mp4"),
    ],
)
def test_a_key_that_can_be_a_name_is_one(key: str, name: str) -> None:
    assert file_name("{key}.mp4", key) == name


@pytest.mark.parametrize("key", ["..", "a/b", "CON", "nul.txt", ".x", "x.", "a~b", "e\u0301"])
def test_any_other_key_is_marked(key: str) -> None:
    assert "~" in file_name("{key}.mp4", key)


@pytest.mark.parametrize(
    "template", ["", "video.mp4", "{key}/{key}", "../{key}", "{key}:x", ".{key}", "{key}{x}", 7]
)
def test_a_template_that_leads_elsewhere_is_refused(template: Any) -> None:
    with pytest.raises(InvalidRequest):
        check_template(template)


# --- money ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "price"),
    [
        ({}, "1.12"),
        ({"duration": 6, "resolution": "720p", "image": "https://h/a.jpg"}, "0.85"),
        ({"duration": 15, "resolution": "1080p"}, "3.75"),
        ({"model": "grok-imagine-video", "duration": 6, "image": "https://h/a.jpg"}, "0.422"),
        ({"model": "grok-imagine-video", "resolution": "1080p", "duration": 1}, "0.25"),
        ({"model": "one of next year", "duration": 10}, "1.40"),
    ],
)
def test_the_list_price(words: dict[str, Any], price: str) -> None:
    assert list_price(VideoRequest("drift", **words)) == Decimal(price)


def test_what_is_no_request_has_no_price() -> None:
    with pytest.raises(InvalidRequest, match="must be a VideoRequest"):
        list_price("drift")  # type: ignore[arg-type]  # which is what is refused


PRICES = st.decimals("0.01", "4", places=2)


@given(PRICES, st.lists(st.tuples(PRICES, st.none() | st.floats(0, 1), st.booleans()), max_size=60))
def test_the_ceiling_is_never_passed_by_what_costs_at_most_its_list_price(
    ceiling: Decimal, creates: list[tuple[Decimal, float | None, bool]]
) -> None:
    budget, nothing = Budget(ceiling), Decimal(0)
    waiting: list[tuple[Account, Decimal, Decimal | None]] = []

    def end(account: Account, price: Decimal, charged: Decimal | None) -> None:
        account.tell(*((nothing, price) if charged is None else (charged, nothing)))
        account.close()

    for price, share, ends_at_once in creates:
        if budget.fits(price):
            account = Account(budget, nothing, nothing)
            account.begin()
            account.hold(price)
            assert budget.may_still_fit
            charged = None if share is None else price * Decimal(str(round(share, 2)))
            waiting.append((account, price, charged))
            if ends_at_once:
                # Sent, it counts as what it may be billed, in place of what was held for it.
                first = waiting.pop(0)
                before = budget.open
                first[0].hold(nothing)
                first[0].tell(nothing, first[1])
                assert budget.open == before
                end(*first)
        assert budget.spent + budget.open <= ceiling
    for one in waiting:
        end(*one)
    assert not budget.may_still_fit
    assert budget.spent + budget.open <= ceiling


# --- the order of creates ------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def new_gate() -> Gate:
    return Gate(Retry(base=0.001, cap=0.001), random.Random(0), 10, current_time)


LOST = CreateOutcomeUnknown("lost", fingerprint="f", sent_at=0.0, phase="awaiting the answer")
NOT_SENT = APIConnectionError("down", may_have_been_sent=False)


async def test_the_first_create_goes_alone_and_the_rest_when_it_was_accepted() -> None:
    gate, inside = new_gate(), []

    async def send(number: int) -> None:
        async with gate.turn() as turn:
            turn.check()
            inside.append(number)
            if turn.alone:
                await anyio.wait_all_tasks_blocked()
                assert inside == [number]
                gate.accepted()
            else:
                await anyio.wait_all_tasks_blocked()

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(send, number)
    assert inside == [0, 1, 2, 3, 4]


async def test_after_trouble_those_that_have_not_begun_go_back() -> None:
    gate = new_gate()
    gate.accepted()
    async with gate.turn() as one:
        gate.failed(LOST, 0.0, alone=False)
        with pytest.raises(NotYet):
            one.check()
    async with gate.turn() as alone:
        assert alone.alone
        alone.check()
        with pytest.raises(NotYet):
            alone.check(blocked_until=current_time() + 1)


@pytest.mark.parametrize("error", [BadRequest("no", status=400), InvalidRequest("no", field="f")])
async def test_what_is_wrong_with_one_item_is_no_trouble(error: GrokVideoError) -> None:
    gate = new_gate()
    gate.accepted()
    for _ in range(1000):
        gate.failed(error, 0.0, alone=False)
    assert gate.is_open
    assert gate.stopped is None


async def test_a_gate_that_stops_calls_back_who_waits() -> None:
    gate = new_gate()
    gate.accepted()
    async with gate.turn() as turn:
        turn.may_be_called_back(now=True)
        with turn.scope:
            gate.stop("enough")
            await anyio.sleep_forever()
        assert turn.scope.cancelled_caught
        with pytest.raises(Closed):
            turn.check()
    gate.stop("more than enough")
    assert gate.stopped == "enough"
    with pytest.raises(Closed):
        async with gate.turn():
            pass


def test_lost_answers_are_counted_when_they_are_lost_alone() -> None:
    gate = new_gate()
    for _ in range(100):
        gate.failed(LOST, 0.0, alone=False)  # a window of them, all at one moment
    for _ in range(MOST_LOST - 1):
        gate.failed(LOST, 0.0, alone=True)
    assert gate.stopped is None
    gate.accepted()
    for _ in range(MOST_LOST):
        assert gate.stopped is None
        gate.failed(LOST, 0.0, alone=True)
    assert gate.stopped is not None


def test_an_outage_is_waited_for_with_patience() -> None:
    gate = new_gate()
    for second in range(int(PATIENCE)):
        gate.failed(NOT_SENT, float(second), alone=True)
    assert gate.stopped is None
    gate.failed(NOT_SENT, PATIENCE + 1, alone=True)
    assert gate.stopped is not None


def test_an_outage_is_told_once_when_it_has_lasted_half_a_minute() -> None:
    gate = new_gate()
    told = [gate.failed(NOT_SENT, now, alone=True) for now in (0.0, 29.0, 30.0, 31.0)]
    assert told == [False, False, True, False]
    gate.accepted()
    assert not gate.failed(NOT_SENT, 1000.0, alone=True)
    assert gate.failed(NOT_SENT, 1030.0, alone=True)


def test_a_wish_that_is_longer_than_patience_stops_at_once() -> None:
    gate = new_gate()
    gate.failed(RateLimited("slow down", status=429, retry_after=3600), 0.0, alone=True)
    assert gate.stopped is not None
    assert "3600 s" in gate.stopped


def test_an_account_that_is_refused_stops_at_once() -> None:
    gate = new_gate()
    gate.failed(AuthenticationError("no such key", status=401), 0.0, alone=False)
    assert gate.stopped == "no such key"


# --- counting ------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantiles_are_right_to_two_percent(seconds: list[float], share: float) -> None:
    tally = Tally()
    for number, one in enumerate(seconds):
        tally.add(Outcome(str(number), OutcomeState.SAVED, seconds=one))
    exact = sorted(seconds)[max(0, -int(-share * len(seconds) // 1) - 1)]
    assert tally.quantile(share) == pytest.approx(exact, rel=0.021)


def test_a_tally_names_a_thousand_and_counts_all() -> None:
    tally = Tally()
    for number in range(NAMED + 500):
        tally.add(Outcome(str(number), OutcomeState.LEFT))
    summary = tally.summary(
        in_flight=0, is_over=True, cost_usd=Decimal(0), open_usd=Decimal(0), stopped=None
    )
    assert summary.counts == {OutcomeState.LEFT: NAMED + 500}
    assert len(summary.left) == NAMED
    assert not summary.is_complete


def test_a_tally_is_read_by_another_thread_while_it_grows() -> None:
    """Blocking programs and progress bars look at `summary` beside the event loop."""
    tally, over, failures = Tally(), threading.Event(), list[Exception]()

    def read() -> None:
        while not over.is_set():
            try:
                tally.summary(
                    in_flight=0,
                    is_over=True,
                    cost_usd=Decimal(0),
                    open_usd=Decimal(0),
                    stopped=None,
                )
            except Exception as error:  # noqa: BLE001 - told below
                failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(6000):
            tally.counts.clear()
            for state in OutcomeState:
                tally.add(Outcome("a", state, seconds=1.1 ** (number % 300)))
    finally:
        over.set()
        reader.join()
        sys.setswitchinterval(before)
    assert failures == []


def test_a_tally_says_why_a_thousand_failed_in_few_words_each() -> None:
    tally = Tally()
    for number in range(NAMED + 500):
        error = GrokVideoError("no luck " * 1000) if number else None
        tally.add(Outcome(str(number), OutcomeState.FAILED, error=error, retryable=number % 2 == 0))
    summary = tally.summary(
        in_flight=0, is_over=True, cost_usd=Decimal(0), open_usd=Decimal(0), stopped=None
    )
    assert summary.counts == {OutcomeState.FAILED: NAMED + 500}
    assert [key for key, _ in summary.failed] == [str(number) for number in range(NAMED)]
    assert all(len(why) <= 500 for _, why in summary.failed)
    assert summary.failed[1][1].startswith("no luck no luck")
    assert summary.retryable == (NAMED + 500) / 2


def test_an_item_is_checked_when_it_is_made() -> None:
    with pytest.raises(InvalidRequest):
        BatchItem("", VideoRequest("drift"))
    with pytest.raises(InvalidRequest):
        BatchItem("a", "drift")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("amount", "told"),
    [
        ("0.8700000000", "0.87"),
        ("8.7", "8.70"),
        ("0", "0.00"),
        ("1E+1", "10.00"),
        ("0.0125", "0.0125"),
    ],
)
def test_an_amount_is_told_with_the_decimals_that_it_has(amount: str, told: str) -> None:
    assert dollars(Decimal(amount)) == f"{told} USD"

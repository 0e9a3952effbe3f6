"""What the summary of a batch says: all is counted, some is named, nothing grows without end."""

from __future__ import annotations

from decimal import Decimal

import pytest

from grok_video import BatchSummary, Outcome, OutcomeState
from grok_video._outcomes import NAMED, Tally


def summary_of(*outcomes: Outcome) -> BatchSummary:
    tally = Tally()
    for outcome in outcomes:
        tally.add(outcome)
    return tally.summary(
        in_flight=0, is_over=True, cost_usd=Decimal(0), open_usd=Decimal(0), stopped=None
    )


@pytest.mark.parametrize("what", ["in_doubt", "left", "failed", "changed"])
def test_a_summary_names_the_first_thousand_of_each_kind(what: str) -> None:
    state = OutcomeState.SAVED if what == "changed" else OutcomeState(what)
    summary = summary_of(
        *(
            Outcome(str(number), state, is_changed=what == "changed")
            for number in range(NAMED + 500)
        )
    )
    assert summary.counts == {state: NAMED + 500}
    names = [one[0] if what == "failed" else one for one in getattr(summary, what)]
    assert names == [str(number) for number in range(NAMED)]
    for other in {"in_doubt", "left", "failed", "changed"} - {what}:
        assert getattr(summary, other) == ()


@pytest.mark.parametrize("state", OutcomeState)
def test_a_batch_is_complete_where_every_item_has_its_video(state: OutcomeState) -> None:
    others = [Outcome("a", OutcomeState.SAVED), Outcome("b", OutcomeState.SKIPPED)]
    assert summary_of(*others, Outcome("c", state)).is_complete is Outcome("c", state).is_ok
    assert Outcome("c", state).is_ok is (state in ("saved", "done", "skipped"))


def test_times_and_polls_are_those_of_the_videos_of_this_run() -> None:
    seconds = [*range(1, 100), 1000]
    videos = [
        Outcome(str(n), OutcomeState.SAVED if n % 2 else OutcomeState.DONE, polls=4, seconds=one)
        for n, one in enumerate(seconds)
    ]
    others = [
        Outcome("skipped", OutcomeState.SKIPPED, polls=500, seconds=1e6),
        Outcome("failed", OutcomeState.FAILED, polls=500, seconds=1e6),
    ]
    summary = summary_of(*videos, *others)
    assert summary.median_seconds == pytest.approx(50, rel=0.021)
    assert summary.p90_seconds == pytest.approx(90, rel=0.021)
    assert summary.p99_seconds == pytest.approx(99, rel=0.021)
    assert summary.polls_per_job == 4
    assert (summary_of(*others).median_seconds, summary_of(*others).polls_per_job) == (None, None)


def test_what_earlier_runs_did_for_a_video_is_not_counted_again() -> None:
    tally = Tally()
    tally.add(Outcome("taken up", OutcomeState.SAVED, polls=9, seconds=50.0), polls_before=6)
    again = Outcome("its file was gone", OutcomeState.SAVED, polls=8, seconds=1e6)
    tally.add(again, polls_before=7, was_saved=True)
    summary = tally.summary(
        in_flight=0, is_over=True, cost_usd=Decimal(0), open_usd=Decimal(0), stopped=None
    )
    assert summary.counts == {OutcomeState.SAVED: 2}
    assert summary.polls_per_job == (3 + 1) / 2
    assert summary.p99_seconds == pytest.approx(50, rel=0.021)


def test_a_video_that_took_no_time_that_a_clock_could_tell_is_counted() -> None:
    summary = summary_of(Outcome("a", OutcomeState.SAVED, polls=1, seconds=0.0))
    assert summary.median_seconds == pytest.approx(0.001, rel=0.03)


def test_an_error_without_words_is_named_by_its_kind() -> None:
    summary = summary_of(Outcome("a", OutcomeState.FAILED, error=TimeoutError()))
    assert summary.failed == (("a", "TimeoutError"),)

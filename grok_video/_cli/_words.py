"""What is said of a batch: each outcome, the summary, the exit code, and which command goes on.

The same facts in two spellings, objects for --json and lines for people. Nothing is printed here.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from grok_video._budget import dollars
from grok_video._cli._console import in_bash, one_line
from grok_video._cli._endings import (
    DONE,
    FAILED,
    OUTCOME_UNKNOWN,
    STILL_RUNNING,
    in_shell_words,
    moment,
)
from grok_video._errors import CreateOutcomeUnknown, GrokVideoError, without_hint
from grok_video._outcomes import BatchSummary, Outcome, OutcomeState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from grok_video._cli._plan import Plan

    InTheWay: TypeAlias = Mapping[OutcomeState, int]

#: Bad lines, failures and keys that are told to a person one by one; --json has all of them.
SHOWN: Final = 20


def outcome_facts(outcome: Outcome) -> dict[str, Any]:
    """Return the object of one outcome: the same keys for every state, null where unknown."""
    video, error = outcome.video, outcome.error
    return {
        "key": outcome.key,
        "state": outcome.state.value,
        "request_id": outcome.request_id,
        "path": str(video.path) if video is not None and video.path is not None else None,
        "url": video.url if video is not None else None,
        "duration": video.duration if video is not None else None,
        "size": video.size if video is not None else None,
        "sha256": video.sha256 if video is not None else None,
        "error": type(error).__name__ if error is not None else None,
        "reason": reason_of(error, outcome.request_id) if error is not None else None,
        "cost_usd": float(outcome.cost_usd) if outcome.cost_usd is not None else None,
        "attempts": outcome.attempts,
        "polls": outcome.polls,
        "seconds": round(outcome.seconds, 3) if outcome.seconds is not None else None,
        "changed": outcome.is_changed,
    }


def reason_of(error: Exception, request_id: str | None) -> str:
    """Return why, in words of the shell; the way on is told once, at the end."""
    if not isinstance(error, GrokVideoError):
        return one_line(f"{type(error).__name__}: {error}")
    text = error.message
    if request_id is not None:
        text = without_hint(text, request_id)
    if isinstance(error, CreateOutcomeUnknown) and error.sent_at:
        text += f" Sent at {moment(error.sent_at)}, fingerprint {error.fingerprint}."
    return one_line(in_shell_words(text))


def left_beside(ledger: Path) -> Path:
    """Return the file that names the items that were not sent, one key a line."""
    return ledger.with_name(ledger.name + ".left.txt")


def ending(summary: BatchSummary) -> int:
    """Return the exit code of a batch that came to its end."""
    states = set(summary.counts)
    if OutcomeState.IN_DOUBT in states:
        return OUTCOME_UNKNOWN
    if summary.is_complete:
        return DONE
    waiting = states - {OutcomeState.SAVED, OutcomeState.DONE, OutcomeState.SKIPPED}
    return STILL_RUNNING if waiting == {OutcomeState.PENDING} else FAILED


def headline(summary: BatchSummary) -> str:
    """Return the counts and the cost in one sentence."""
    counts = summary.counts
    words = [
        f"{count:,} {state.value.replace('_', ' ')}"
        for state in OutcomeState
        if (count := counts.get(state, 0))
    ]
    cost = dollars(summary.cost_usd)
    if summary.open_usd:
        cost += f", and up to {dollars(summary.open_usd)} more may be billed"
    return f"{', '.join(words) or 'nothing ended'}; cost {cost}"


def way_on(summary: BatchSummary, plan: Plan, in_the_way: InTheWay) -> str | None:
    """Return the command that goes on with the batch; None where it would only end as this did.

    `in_the_way` is how many items of each state are not here because their files' places are taken.
    """
    if _waiting(summary, in_the_way) or _sendable(summary, in_the_way):
        return plan.command(*raised(summary))
    return None


def _waiting(summary: BatchSummary, in_the_way: InTheWay) -> int:
    """Return how many videos are paid for that the same command would go on with."""
    counts = summary.counts
    waiting = counts.get(OutcomeState.PENDING, 0) + counts.get(OutcomeState.UNFETCHED, 0)
    return waiting - in_the_way.get(OutcomeState.UNFETCHED, 0)


def _sendable(summary: BatchSummary, in_the_way: InTheWay) -> int:
    """Return how many items were not sent that the same command would send."""
    return summary.counts.get(OutcomeState.LEFT, 0) - in_the_way.get(OutcomeState.LEFT, 0)


def choices(summary: BatchSummary, plan: Plan, in_the_way: InTheWay) -> dict[str, str | None]:
    """Return the commands that a person has to decide on; None where there is nothing to decide."""
    return {
        "retry_failed": _again(summary, plan, "--retry-failed") if summary.retryable else None,
        "overwrite": plan.command("--overwrite") if any(in_the_way.values()) else None,
    }


def last_words(summary: BatchSummary, plan: Plan, in_the_way: InTheWay) -> list[str]:
    """Return what a person should know at the end: a line for each thing that waits for them.

    `in_the_way` is how many items of each state are not here because their files' places are taken.
    """
    counts = summary.counts

    def again(*decisions: str) -> str:
        # As it is typed: a line break in a prompt would become a space, and the prompt another one.
        return in_bash(plan.command(*decisions))

    lines = [headline(summary)]
    if summary.median_seconds is not None and summary.p90_seconds is not None:
        polls = summary.polls_per_job or 0.0
        lines[0] += (
            f"; half within {summary.median_seconds:.1f} s, 90 % within "
            f"{summary.p90_seconds:.1f} s, {polls:.1f} polls each"
        )
    if summary.stopped is not None:
        lines.append(f"stopped sending: {in_shell_words(summary.stopped)}")
    if left := counts.get(OutcomeState.LEFT, 0):
        words = f"not sent: {_names(summary.left, left)} (all of them in "
        words += f"{left_beside(plan.ledger_path)})."
        if _sendable(summary, in_the_way):
            words += f" To send them: {again(*raised(summary))}"
        lines.append(words)
    if taken := in_the_way.get(OutcomeState.LEFT, 0):
        lines.append(
            f"not sent because something else is in the place of their videos: {taken:,} (each "
            "says what). The same command sends what has its place free. To replace it: "
            f"{again('--overwrite')}"
        )
    if in_doubt := counts.get(OutcomeState.IN_DOUBT, 0):
        lines.append(
            f"in doubt, perhaps accepted and billed: {_names(summary.in_doubt, in_doubt)}. Look at "
            "the account's usage. With an id from there: "
            f"{again()} --found-id KEY=REQUEST_ID. To send them again, and perhaps pay "
            f"twice: {again('--resubmit-in-doubt', *raised(summary))}"
        )
    if waiting := _waiting(summary, in_the_way):
        lines.append(f"accepted, and not here yet: {waiting:,}. To fetch: {again()}")
    if taken := in_the_way.get(OutcomeState.UNFETCHED, 0):
        lines.append(
            f"paid for, and not here because something else is in their place: {taken:,} "
            f"(each says what). To replace it: {again('--overwrite')}"
        )
    failed = counts.get(OutcomeState.FAILED, 0) + counts.get(OutcomeState.EXPIRED, 0)
    if retryable := summary.retryable:
        lines.append(
            f"{retryable:,} failed or expired. To try them again: "
            f"{again('--retry-failed', *raised(summary))}"
        )
    if final := failed - retryable:
        lines.append(
            f"{final:,} failed for good (each says why), and --retry-failed leaves them out"
        )
    if summary.changed:
        lines.append(
            "begun before with another request than the manifest has now, and what was begun "
            f"counts (a new key makes a new video): {_names(summary.changed, len(summary.changed))}"
        )
    ledger, report = str(plan.ledger_path), str(plan.ledger_path.with_name("report.html"))
    look = shlex.join(["grok-video", "report", ledger, "-o", report])
    lines.append(f"to look at it: {in_bash(look)}")
    return lines


def _again(summary: BatchSummary, plan: Plan, decision: str) -> str:
    """Return the command that sends again what a person decides on, for more money if need be."""
    return plan.command(decision, *raised(summary))


def raised(summary: BatchSummary) -> tuple[str, ...]:
    """Return what the next command needs in order to send more than this one."""
    return ("--max-cost", "MORE") if summary.is_at_ceiling else ()


def _names(keys: Sequence[str], count: int) -> str:
    shown = ", ".join(keys[:SHOWN])
    return f"{shown} and {count - SHOWN:,} more" if count > SHOWN else shown


def summary_facts(summary: BatchSummary) -> dict[str, Any]:
    """Return the summary object of --json."""
    return {
        "counts": {state.value: summary.counts.get(state, 0) for state in OutcomeState},
        "total": summary.total,
        "in_flight": summary.in_flight,
        "cost_usd": float(summary.cost_usd),
        "open_usd": float(summary.open_usd),
        "median_seconds": summary.median_seconds,
        "p90_seconds": summary.p90_seconds,
        "p99_seconds": summary.p99_seconds,
        "polls_per_job": summary.polls_per_job,
        "in_doubt": list(summary.in_doubt),
        "left": list(summary.left),
        "failed": [
            {"key": key, "reason": one_line(in_shell_words(why))} for key, why in summary.failed
        ],
        "retryable": summary.retryable,
        "changed": list(summary.changed),
        "stopped": in_shell_words(summary.stopped) if summary.stopped is not None else None,
    }

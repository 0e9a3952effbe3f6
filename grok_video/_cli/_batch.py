"""`grok-video batch`: a manifest checked whole, run through one client, told as it goes.

What is sent and when is the batch's own business; here outcomes become lines, and however the
command ends, its last words say what is in doubt, what was left, and which command goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
from attrs import evolve

from grok_video import _report
from grok_video._cli._connect import EmulatedConnection
from grok_video._cli._console import Console
from grok_video._cli._endings import (
    FAILED,
    USAGE,
    Errand,
    Interrupted,
    finish,
    in_shell_words,
)
from grok_video._cli._forecast import forecast
from grok_video._cli._interrupts import run
from grok_video._cli._jobs import refuse_emulator
from grok_video._cli._rows import BadManifest, Rows, open_rows
from grok_video._cli._words import (
    SHOWN,
    choices,
    ending,
    headline,
    last_words,
    left_beside,
    outcome_facts,
    raised,
    summary_facts,
    way_on,
)
from grok_video._errors import DestinationError, GrokVideoError
from grok_video._outcomes import Outcome, OutcomeState

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from grok_video._batch import AsyncBatch
    from grok_video._cli._connect import Connection
    from grok_video._cli._plan import Plan
    from grok_video._cli._progress import BatchBar

#: What the library notes on its way (a poll that failed) that is passed on; the rest is noise.
_MOST_NOTES: Final = 20


def batch(plan: Plan, connection: Connection, *, json_lines: bool, dry_run: bool = False) -> int:
    """Run the manifest to its end, or tell what that would send; the exit code."""
    console = BatchConsole(json_lines=json_lines)
    errand = BatchErrand(console, plan)

    def work() -> int:
        refuse_emulator(connection, "batch")
        with open_rows(plan.manifest, plan.defaults, out=plan.out) as rows:
            total, ids = _checked(rows, plan, console)
            if dry_run:
                # What a run would refuse of its connection, without the key that it needs.
                EmulatedConnection(
                    connection.base_url, poll_interval=plan.poll_interval, emulated_key="none"
                ).client()
                return forecast(rows, plan, ids, console)
            return run(errand, lambda: _go(rows, total, ids, errand, connection))

    return finish(errand, work)


def _checked(rows: Rows, plan: Plan, console: Console) -> tuple[int, dict[str, str]]:
    """Return how many items there are, and the found ids by their keys."""
    ids: dict[str, str] = {}
    try:
        with _report.earlier(plan.ledger_path) as earlier:
            total = rows.check(
                lambda has_key: ids.update(plan.ids(has_key)), was_sent=earlier.was_sent
            )
    except BadManifest as error:
        if not console.json_lines:
            for bad in error.bad[:SHOWN]:
                console.status(f"{rows.place}:{bad.line}: {bad.message}")
            if error.total > SHOWN:
                console.status(f"and {error.total - SHOWN:,} more")
        raise
    return total, ids


async def _go(
    rows: Rows, total: int, ids: Mapping[str, str], errand: BatchErrand, connection: Connection
) -> int:
    plan, console = errand.plan, errand.console
    async with connection.client() as client:
        batch = client.batch(rows.items(), **plan.settings(ids))
        async with batch:
            errand.batch = batch
            _note_command(plan)
            with console.following(batch, total), _Telling(console, plan) as telling:
                try:
                    async for outcome in batch:
                        telling.tell(outcome, batch)
                        errand.in_the_way[outcome.state] += _is_in_the_way(outcome)
                except anyio.get_cancelled_exc_class():
                    running = batch.summary.in_flight
                    console.status(
                        f"interrupted: no more creates are sent. Waiting for the answers of those "
                        f"on their way, of {running:,} running (5 s at most). Once more leaves at "
                        "once."
                    )
                    raise
    return errand.conclude()


def _is_in_the_way(outcome: Outcome) -> bool:
    """Return whether something is in the place of its file that --overwrite would replace."""
    return isinstance(outcome.error, DestinationError) and outcome.error.is_taken


def _is_told_alone(outcome: Outcome) -> bool:
    """Return whether a person should hear of it: what stopped the batch is told at its end."""
    has_reason = isinstance(outcome.error, DestinationError)
    return has_reason or outcome.state not in (OutcomeState.SKIPPED, OutcomeState.LEFT)


def _note_command(plan: Plan) -> None:
    """Leave the command for the report, which knows the ledger and not how it came about."""
    command = evolve(plan, retry_failed=False).command(absolute=True)
    # A comfort, for which no batch should end.
    with contextlib.suppress(OSError, ValueError):
        # A path may have bytes that are no UTF-8, and is written as it is.
        text = f"{command}\n".encode(errors="surrogateescape")
        _report.command_beside(plan.ledger_path).write_bytes(text)


# --- one outcome ---------------------------------------------------------------------------------


class _Telling:
    """Puts each outcome where it belongs; holds none of them."""

    def __init__(self, console: BatchConsole, plan: Plan) -> None:
        self._console = console
        self._left = left_beside(plan.ledger_path)
        self._files = contextlib.ExitStack()
        self._left_file: Any = None
        self._told = self._ended = 0
        self._stopped = ""

    def __enter__(self) -> Self:
        self._left.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._files.close()

    def tell(self, outcome: Outcome, batch: AsyncBatch) -> None:
        """Tell one outcome: an object with --json, else a path on stdout or a line on stderr."""
        facts = outcome_facts(outcome)
        if outcome.state is OutcomeState.LEFT:
            # The first reason stays, and a summary is too dear to be asked for each time.
            self._stopped = self._stopped or in_shell_words(batch.summary.stopped or "")
            facts["reason"] = facts["reason"] or self._stopped
            self._note_left(outcome.key)
        if self._console.json_lines:
            self._console.result(facts, "")
        elif outcome.state in (OutcomeState.SAVED, OutcomeState.DONE):
            self._console.result(facts, facts["path"] or facts["url"] or f"done {outcome.key}")
        elif _is_told_alone(outcome):
            self._told += 1
            if self._told <= SHOWN:
                state = outcome.state.value.replace("_", " ")
                self._console.status(f"{outcome.key}: {state}: {facts['reason']}")
            elif self._told == SHOWN + 1:
                self._console.status("more of that is in the ledger and in its report")
        self._ended += 1
        self._console.ended(self._ended)

    def _note_left(self, key: str) -> None:
        # Which ones were left stands nowhere else: the ledger knows what was begun.
        with contextlib.suppress(OSError):  # a full disk may be why it was left
            if self._left_file is None:
                self._left_file = self._files.enter_context(self._left.open("w", encoding="utf-8"))
            self._left_file.write(f"{key}\n")


# --- the end -------------------------------------------------------------------------------------


class BatchErrand(Errand):
    """What one batch has done so far; its last words are the summary and the way on."""

    console: BatchConsole

    def __init__(self, console: BatchConsole, plan: Plan) -> None:
        super().__init__(console)
        self.console = console
        self.plan = plan
        #: Set once the ledger is held: from then on something may have been sent.
        self.batch: AsyncBatch | None = None
        #: Items of each state in whose files' places something else is.
        self.in_the_way = Counter[OutcomeState]()

    @property
    def resume(self) -> str | None:
        """The same command, for a batch that was broken off; it names a higher ceiling."""
        if self.batch is None:
            return None
        return self.plan.command(*raised(self.batch.summary))

    def conclude(self) -> int:
        """Tell how the whole batch ended; the exit code."""
        assert self.batch is not None  # noqa: S101 - for the type checker: it ran
        summary = self.batch.summary
        code = ending(summary)
        if self.console.json_lines:
            facts = {
                "summary": summary_facts(summary),
                "error": None,
                "message": headline(summary),
                "resume": way_on(summary, self.plan, self.in_the_way),
                **choices(summary, self.plan, self.in_the_way),
                "exit_code": code,
            }
            self.console.result(facts, "")
        else:
            for line in last_words(summary, self.plan, self.in_the_way):
                self.console.status(line)
        return code

    def facts(self, error: BaseException) -> dict[str, Any]:
        """Return the error object, with the summary of what was done before it."""
        facts = super().facts(error)
        if isinstance(error, BadManifest):
            facts["lines"] = [
                {"line": bad.line, "field": bad.field, "value": bad.value, "message": bad.message}
                for bad in error.bad
            ]
            facts["total"] = error.total
        if self.batch is not None:
            facts["summary"] = summary_facts(self.batch.summary)
            facts["states"] = self._states()
        return facts

    def exit_code(self, error: BaseException) -> int:
        """Return it; once something may have been sent, nothing is a mere matter of usage."""
        code = super().exit_code(error)
        return FAILED if code == USAGE and self.batch is not None else code

    def _states(self) -> dict[str, int]:
        """Return how many items the ledger has in which state, those of earlier runs included."""
        try:
            return dict(_report.count_states(self.plan.ledger_path))
        except GrokVideoError:
            return {}

    def _message(self, error: BaseException) -> str:
        if not isinstance(error, Interrupted | KeyboardInterrupt) or self.batch is None:
            return super()._message(error)
        summary = self.batch.summary
        words = [f"interrupted; {headline(summary)}."]
        states = self._states()
        if going_on := states.get("pending", 0) + states.get("ready", 0):
            words.append(f"Accepted, paid for and going on: {going_on:,}.")
        if in_doubt := states.get("in_doubt", 0) + states.get("submitting", 0):
            words.append(
                f"In doubt: {in_doubt:,}; perhaps accepted and billed, never sent again unasked."
            )
        return " ".join(words)


class BatchConsole(Console):
    """A console with a batch's own bar, and with few notes."""

    _batch_bar: BatchBar | None = None

    @contextlib.contextmanager
    def following(self, batch: AsyncBatch, total: int) -> Generator[None]:
        """Show how far the batch is for as long as this lasts, if stderr is a terminal."""
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            with contextlib.suppress(ModuleNotFoundError):
                from grok_video._cli._progress import BatchBar

                self._bar = self._batch_bar = BatchBar(lambda: batch.summary, total)
        try:
            yield
        finally:
            bar, self._bar, self._batch_bar = self._batch_bar, None, None
            if bar is not None:
                bar.stop()

    def ended(self, total: int) -> None:
        """Show how many items have ended."""
        if self._batch_bar is not None:
            self._batch_bar.advance(total)

    @contextlib.contextmanager
    def notes(self) -> Generator[None]:
        """Show what the library logs: a thousand jobs would say the same thing each in its way."""
        few, logger = _Few(), logging.getLogger("grok_video")
        logger.addFilter(few)
        try:
            with super().notes():
                yield
        finally:
            logger.removeFilter(few)


class _Few(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._passed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        self._passed += 1
        return self._passed <= _MOST_NOTES

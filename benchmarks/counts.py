"""What does a job do, counted? Against a hand-written aiohttp loop; no noise touches a count.

The jobs and the server are those of `jobs`. What is counted: bytecodes that the interpreter runs
(one job after another, as the tracing takes longer than the job), turns of the event loop (each a
system call), connections made, collections of garbage, and page faults: memory that comes from the
system and goes back, a hint only, as it hangs on what the process did before. The processor's time,
which is what counts in the end, is in `jobs`: noisy, and this says what moved it.

    python -m benchmarks.counts [--tiny]
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import inspect
import json
import resource
import selectors
import sys
import urllib.request
from typing import TYPE_CHECKING

from benchmarks import jobs
from benchmarks._bars import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType

#: Jobs that are counted, by how many are at once.
CROWDS = {1: 100, 200: 600}
#: Jobs that are traced, after as many as make the interpreter's own caches warm.
TRACED, WARM = 20, 60
#: Functions that are shown: those in which more is done than by hand, the most first.
SHOWN = 15
WAYS = ("raw", "ours")


def run(tiny: bool) -> dict:
    """Return the counts of a job, either way."""
    found: dict = {"question": "Bytecodes, turns, connections, collections and faults of a job"}
    with jobs.serving() as port:
        traced = {way: bytecodes(way, port, tiny) for way in WAYS}
        sums = {way: sum(seen.values()) for way, seen in traced.items()}
        found["bytecodes"] = {way: round(count) for way, count in sums.items()}
        found["bytecodes"]["ratio"] = round(sums["ours"] / sums["raw"], 4)
        found["bytecodes over raw"] = most_over(traced)
        for at_once, count in ({1: 10, 20: 40} if tiny else CROWDS).items():
            found[f"at once: {at_once}"] = {
                way: counted(way, port, count, at_once, tiny) for way in WAYS
            }
    found["bars"] = [
        at_most("bytecodes of a job over raw aiohttp, 1 at once", found["bytecodes"]["ratio"], 1.25)
    ]
    return found


# --- bytecodes -----------------------------------------------------------------------------------


def bytecodes(way: str, port: int, tiny: bool) -> collections.Counter[CodeType]:
    """Return how many bytecodes of each function one job runs."""
    seen: collections.Counter[CodeType] = collections.Counter()
    traced, warm = (2, 2) if tiny else (TRACED, WARM)

    def step(frame: FrameType, event: str, _: object):
        if event == "opcode":
            seen[frame.f_code] += 1
        return step

    def begin(frame: FrameType, *_: object):
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    async def work() -> None:
        async with jobs.opened(way, port, 0.0) as one:
            await jobs.run_jobs(one, warm, 1)
            # Python 3.12 looks at the beginning of a trace whether any frame wants its opcodes.
            inspect.currentframe().f_trace_opcodes = True
            sys.settrace(begin)
            try:
                # A task of its own: the frames that are running already are not traced.
                await asyncio.create_task(jobs.run_jobs(one, traced, 1))
            finally:
                sys.settrace(None)

    asyncio.run(work())
    return collections.Counter({code: count / traced for code, count in seen.items()})


def most_over(traced: dict[str, collections.Counter[CodeType]]) -> dict[str, float]:
    """Return the functions that run more bytecodes in ours than in a job by hand."""
    over = traced["ours"].copy()
    over.subtract(traced["raw"])
    return {
        f"{code.co_qualname} ({code.co_filename.replace(chr(92), '/').rpartition('/')[2]})": round(
            count, 1
        )
        for code, count in over.most_common(SHOWN)
        if count > 0
    }


# --- what the system and the collector do --------------------------------------------------------


class Turns(selectors.DefaultSelector):
    """Counts the turns of the event loop that waits with it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def select(self, timeout: float | None = None) -> list:
        self.count += 1
        return super().select(timeout)


def counted(way: str, port: int, count: int, at_once: int, tiny: bool) -> dict:
    """Return the counts of one job, of so many."""
    turns = Turns()
    interval = 0.0 if at_once == 1 else jobs.INTERVAL / 10 if tiny else jobs.INTERVAL

    async def work() -> dict:
        async with jobs.opened(way, port, interval) as one:
            await one()
            gc.collect()
            turns_before, made_before, faults_before = turns.count, connections(port), page_faults()
            with collections_counted() as collected:
                await jobs.run_jobs(one, count, at_once)
            return {
                "page faults": round((page_faults() - faults_before) / count, 2),
                "turns of the loop": round((turns.count - turns_before) / count, 2),
                # The question itself takes one.
                "connections": round((connections(port) - made_before - 1) / count, 3),
                "collections": round(collected[0] / count, 3),
            }

    def make_loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(turns)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(work())


def connections(port: int) -> int:
    """Return how many connections the server has accepted."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/connections") as answer:
        return int(answer.read())


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@contextlib.contextmanager
def collections_counted() -> Iterator[list[int]]:
    seen = [0]

    def note(phase: str, _: object) -> None:
        seen[0] += phase == "start"

    gc.callbacks.append(note)
    try:
        yield seen
    finally:
        gc.callbacks.remove(note)


if __name__ == "__main__":
    print(json.dumps(run("--tiny" in sys.argv), indent=1))

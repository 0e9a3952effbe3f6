"""What does the blocking door cost? The same work through `Client` and `AsyncClient`, in pairs.

From one plain thread: 200 jobs are submitted one after the other, then awaited as they are
completed, and each result is taken. The emulator is a process of its own, so that no server shares
the interpreter with either client. The order of a pair alternates, ratios are taken pair by pair.
One crossing is a coroutine function that returns at once, called from a plain thread.

    python -m benchmarks.blocking [--tiny]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time

from benchmarks._bars import at_most, spread
from grok_video import AsyncClient, Client, Limits, Polling
from grok_video._portal import Portal

#: What issue 3 allows: the ratio of wall times, and microseconds for one crossing.
MOST_RATIO = 1.5
MOST_CROSSING = 120.0
#: Two lengths of jobs: what the door adds is all to be seen where they have none. The share of the
#: real service's time that a job takes, and seconds between polls.
LENGTHS = {"jobs of a second": (0.02, 0.1), "jobs of no length": (0.0, 0.01)}


def run(tiny: bool) -> dict:
    """Return the medians of one run; the ratios and the crossing have limits."""
    jobs, pairs, crossings = (20, 2, 300) if tiny else (200, 7, 20_000)
    found: dict = {
        "question": f"{jobs} jobs submitted and awaited from one plain thread, in {pairs} pairs",
    }
    for name, (time_scale, interval) in LENGTHS.items():
        found[name] = compare(jobs, pairs, time_scale, interval)
    found["crossing_us"] = crossing_us(crossings)
    found["bars"] = [
        *[
            at_most(f"blocking / async, {name}", found[name]["ratio"], MOST_RATIO)
            for name in LENGTHS
        ],
        at_most("one crossing, us", found["crossing_us"], MOST_CROSSING),
    ]
    return found


def compare(jobs: int, pairs: int, time_scale: float, interval: float) -> dict:
    """Return seconds of both ways, and the ratio blocking / async of each pair."""
    seen: dict[str, list[float]] = {"async": [], "blocking": []}
    with emulator(time_scale) as place:
        limits = Limits(polls_per_second=None)
        words = place | {"polling": Polling.fixed(interval), "limits": limits}
        for number in range(pairs + 1):  # the first warms up
            for way in ("async", "blocking") if number % 2 else ("blocking", "async"):
                if way == "async":
                    seconds = asyncio.run(through_async(words, jobs))
                else:
                    seconds = through_blocking(words, jobs)
                if number:
                    seen[way].append(seconds)
    ratios = [ours / theirs for ours, theirs in zip(seen["blocking"], seen["async"], strict=True)]
    return {
        "async_s": round(statistics.median(seen["async"]), 3),
        "blocking_s": round(statistics.median(seen["blocking"]), 3),
        "ratio": spread(ratios),
    }


async def through_async(words: dict, count: int) -> float:
    """Return the seconds of the work through `AsyncClient`."""
    began = time.perf_counter()
    async with AsyncClient(**words) as client:
        jobs = [await client.submit(f"drift {n}", duration=1) for n in range(count)]
        done = [await job.result() async for job in client.as_completed(jobs)]
    assert len(done) == count
    return time.perf_counter() - began


def through_blocking(words: dict, count: int) -> float:
    """Return the seconds of the same work through `Client`."""
    began = time.perf_counter()
    with Client(**words) as client:
        jobs = [client.submit(f"drift {n}", duration=1) for n in range(count)]
        done = [job.result() for job in client.as_completed(jobs)]
    assert len(done) == count
    return time.perf_counter() - began


def crossing_us(count: int) -> dict:
    """Return microseconds of one crossing."""

    async def nothing() -> None: ...

    portal = Portal()
    portal.call(nothing)
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        portal.call(nothing)
        seconds.append(time.perf_counter() - began)
    portal.close()
    seconds.sort()
    return {
        "median": round(seconds[count // 2] * 1e6, 1),
        "p99": round(seconds[int(count * 0.99)] * 1e6, 1),
    }


@contextlib.contextmanager
def emulator(time_scale: float):
    """Give the place of an emulator in a process of its own."""
    command = [sys.executable, "-m", "grok_video.emulator", f"--time-scale={time_scale}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield json.loads(server.stdout.readline())
        finally:
            server.terminate()


if __name__ == "__main__":
    print(json.dumps(run(tiny="--tiny" in sys.argv), indent=2))

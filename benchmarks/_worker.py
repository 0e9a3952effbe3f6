"""A client process of one way: it measures when told to, and rests while others are measured.

One process each, because what a package imports makes each collection of the next one's garbage
dearer; kept alive, because importing each again for every round would take minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from benchmarks import _peers, jobs
from benchmarks._memory import peak_mib, start_of_peak
from benchmarks._peerserver import ROOT, Place


class Worker:
    """Asks one client process; use it as a context manager."""

    def __init__(self, way: str, place: Place) -> None:
        self.way = way
        words = [way, str(place.http), str(place.grpc)]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks._worker", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.stdin.close()

    def ask(self, what: str, **words: object) -> dict:
        """Return the figures of one measurement, which no other process disturbs meanwhile."""
        print(json.dumps({"what": what, **words}), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.way}: the client process died; see above")
        return json.loads(answer)


@contextlib.contextmanager
def workers(ways: list[str], place: Place):
    with contextlib.ExitStack() as stack:
        yield {way: stack.enter_context(Worker(way, place)) for way in ways}


async def crowd(way: str, place: Place, count: int, at_once: int, interval: float) -> dict:
    """Run so many jobs, so many at once; return CPU seconds of one, connections included."""
    async with _peers.WAYS[way].open(place, interval) as (job, _):
        left = iter(range(count))

        async def worker() -> None:
            for _ in left:
                assert await job() == len(jobs.FILE)

        await job()
        gc.collect()
        began = time.process_time()
        await asyncio.gather(*[worker() for _ in range(at_once)])
        return {"cpu": (time.process_time() - began) / count}


async def pictures(way: str, place: Place, photograph: str, at_once: int) -> dict:
    """Send a picture so many times at once; return CPU seconds of one and peak memory."""
    async with _peers.WAYS[way].open(place, 0.001) as (_, send):
        await send(Path(photograph))
        gc.collect()
        held = start_of_peak()
        began = time.process_time()
        await asyncio.gather(*[send(Path(photograph)) for _ in range(at_once)])
        cost = (time.process_time() - began) / at_once
        return {"cpu": cost, "peak_mib": peak_mib("VmHWM") - held}


def main() -> None:
    way, place = sys.argv[1], Place(int(sys.argv[2]), int(sys.argv[3]))
    jobs.pin(0)
    asked = {"crowd": crowd, "pictures": pictures}
    for line in sys.stdin:
        words = json.loads(line)
        work = asked[words.pop("what")]
        print(json.dumps(asyncio.run(work(way, place, **words))), flush=True)


if __name__ == "__main__":
    main()

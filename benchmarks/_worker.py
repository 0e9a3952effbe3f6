"""A client process of one way: it measures when told to, and rests while others are measured.

One process each, because what a package imports makes each collection of the next one's garbage
dearer; kept alive, because importing each again for every round would take minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _peers, jobs
from benchmarks._memory import peak_mib, start_of_peak
from benchmarks._peerserver import Place
from benchmarks._processes import Client, answer

if TYPE_CHECKING:
    from collections.abc import Iterator


def worker(way: str, place: Place) -> Client:
    return Client("benchmarks._worker", way, place.http, place.grpc)


@contextlib.contextmanager
def workers(ways: list[str], place: Place) -> Iterator[dict[str, Client]]:
    with contextlib.ExitStack() as stack:
        clients = {way: stack.enter_context(worker(way, place)) for way in ways}
        for client in clients.values():
            client.ready()
        yield clients


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
    asked = {"crowd": crowd, "pictures": pictures}
    answer(lambda what, **words: asyncio.run(asked[what](way, place, **words)))


if __name__ == "__main__":
    main()

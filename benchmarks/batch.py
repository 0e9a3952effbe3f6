"""What does the ledger cost a batch, and does memory follow the manifest? In one run.

The same batch runs with and without a ledger, in turns; jobs take milliseconds, the server is a
process of its own on another processor and speaks just enough HTTP. Memory is the peak of fresh
processes with manifests of two sizes, above that of the client when it has done one job.

    python -m benchmarks.batch [--tiny]
"""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._bars import at_least, at_most
from benchmarks._memory import peak_mib
from benchmarks._processes import answer, measured_once, pin, served, serving
from benchmarks.jobs import Server as JobServer
from benchmarks.jobs import listen
from grok_video import AsyncClient, Limits, Polling, VideoRequest

POLLS = 2
INTERVAL = 0.01
FILE = b"\0\0\0\x18ftypmp42" + bytes(2**14 - 12)
CONNECTIONS = 100


def run(tiny: bool) -> dict:
    """Return the figures of one run; `ratios` are what must hold on any machine."""
    rounds, width = (1, 20) if tiny else (7, 400)
    #: Files take longer: each is synced to the disk, with a ledger and without.
    jobs_of = {False: 60, True: 30} if tiny else {False: 400, True: 400}
    #: Caches of a fixed size are still filling here: 3,000 lines took 8.5 MiB, 25,000 took 16.0 and
    #: 100,000 took 17.5, in nine minutes.
    sizes = (50, 100) if tiny else (1000, 4000)
    found: dict = {
        "question": f"throughput of a batch, {width} in flight, with a ledger and without",
        "runs": rounds,
    }
    with serving("benchmarks.batch", "--serve") as (port,):
        pin(0)
        for name, saving in (("to links", False), ("to files", True)):
            jobs = jobs_of[saving]
            seen: dict[str, list[float]] = {"without": [], "with": []}
            cpu: dict[str, list[float]] = {"without": [], "with": []}
            for number in range(rounds + 1):  # the first warms up
                for way in ("without", "with") if number % 2 else ("with", "without"):
                    took, cost = asyncio.run(
                        batch(port, jobs, width, ledger=way == "with", saving=saving)
                    )
                    if number or tiny:
                        seen[way].append(jobs / took)
                        cpu[way].append(cost / jobs * 1e3)
            pairs = zip(seen["with"], seen["without"], strict=True)
            found[name] = {
                **{f"{way}, jobs/s": spread(rates) for way, rates in seen.items()},
                **{f"{way}, CPU ms a job": spread(costs) for way, costs in cpu.items()},
                "with / without": spread([one / other for one, other in pairs]),
            }
        found["memory"] = {
            f"{size} lines": fresh(port, size, width, saving=False) for size in sizes
        }
        if not tiny:
            found["memory"][f"{sizes[0]} lines to files"] = fresh(
                port, sizes[0], width, saving=True
            )
    found["bars"] = [
        *[
            at_least(f"with a ledger / without, {name}", found[name]["with / without"], 0.7)
            for name in ("to links", "to files")
        ],
        *[
            at_most(f"peak MiB above idle, {name}", of["peak_mib_above_idle"], 150)
            for name, of in found["memory"].items()
        ],
    ]
    return found


def spread(seen: list[float]) -> dict:
    return {
        "median": round(statistics.median(seen), 3),
        "min": round(min(seen), 3),
        "max": round(max(seen), 3),
    }


async def batch(
    port: int, jobs: int, width: int, *, ledger: bool, saving: bool, resume: bool = False
) -> tuple[float, float]:
    """Run a batch; return its wall and CPU seconds, or those of resuming it when it is done."""
    folder = Path(tempfile.mkdtemp(prefix="grok-video-bench-"))
    try:
        async with client_of(port) as client:
            words = {
                "out": folder / "videos" if saving else None,
                "ledger": folder / "run.sqlite" if ledger else None,
                "max_in_flight": width,
            }
            await client.run_batch(manifest(1, "warm"))
            gc.collect()
            for again in (False, True) if resume else (False,):
                began, cpu = time.perf_counter(), time.process_time()
                summary = await client.run_batch(manifest(jobs), **words)
                assert summary.is_complete, summary
                took = time.perf_counter() - began, time.process_time() - cpu
                assert again or summary.median_seconds is not None
            return took
    finally:
        shutil.rmtree(folder)


def client_of(port: int) -> AsyncClient:
    return AsyncClient(
        "key",
        base_url=f"http://127.0.0.1:{port}/grok/v1",
        polling=Polling.fixed(INTERVAL),
        limits=Limits(polls_per_second=None, connections=CONNECTIONS),
    )


def manifest(lines: int, name: str = "key"):
    """Give the lines as a file would: one at a time."""
    for number in range(lines):
        request = VideoRequest(
            f"drift {number}", f"https://example.com/{number}.jpg", duration=1, resolution="480p"
        )
        yield f"{name}-{number:06}", request


def fresh(port: int, lines: int, width: int, *, saving: bool) -> dict:
    """Run a manifest in a new process: memory above idle, throughput, and what resuming takes."""
    return measured_once("benchmarks.batch", "--fresh", port, lines, width, int(saving))


async def measured(port: int, jobs: int, width: int, *, saving: bool) -> dict:
    async with client_of(port) as client:
        await client.run_batch(manifest(1, "warm"))
    idle = peak_mib()
    took, _ = await batch(port, jobs, width, ledger=True, saving=saving)
    above = peak_mib() - idle
    again, _ = await batch(port, min(jobs, 5000), width, ledger=True, saving=False, resume=True)
    return {
        "idle_mib": round(idle, 1),
        "peak_mib_above_idle": round(above, 1),
        "jobs/s": round(jobs / took),
        "skipped/s when resumed": round(min(jobs, 5000) / again),
    }


# --- the server ----------------------------------------------------------------------------------


class Server(JobServer):
    """Plays jobs of two polls and a small file."""

    made = 0

    def respond(self, head: bytes, path: bytes) -> None:
        if head.startswith(b"POST"):
            Server.made += 1
            self.answer(b'{"request_id":"4b2cd27e-0b0d-4000-8000-%012x"}' % Server.made)
        elif path.startswith(b"/files/"):
            self.answer(FILE, b"video/mp4")
        else:
            name = path.rsplit(b"/", 1)[1]
            count = self.seen.pop(name, 0) + 1
            if count < POLLS:
                self.seen[name] = count
                self.answer(b'{"status":"pending","progress":35}')
            else:
                self.answer(
                    b'{"status":"done","video":{"url":"http://127.0.0.1:%d/files/%s.mp4",'
                    b'"duration":1,"respect_moderation":true},"model":"grok-imagine-video",'
                    b'"usage":{"cost_in_usd_ticks":900000000},"progress":100}' % (self.port, name)
                )


async def serve() -> None:
    await listen(Server)
    await served(Server.port)


def main() -> None:
    if "--serve" in sys.argv:
        asyncio.run(serve())
    elif "--fresh" in sys.argv:
        port, lines, width, saving = map(int, sys.argv[-4:])
        answer(lambda: asyncio.run(measured(port, lines, width, saving=bool(saving))))
    else:
        print(json.dumps(run("--tiny" in sys.argv), indent=1))


if __name__ == "__main__":
    main()

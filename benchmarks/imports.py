"""What does an import cost, and what the first word of the command line? Above bare Python.

Fresh interpreters in turns; user and system CPU seconds of each, which a busy machine stretches
less than wall time; compiled files are there from the first round on, which does not count.
"Ready" is a client that was made: what it needs to send is imported then, so that no event loop is
held later. What reads the answers is imported in a thread with the first request, and counts in
the first answer: one more step, from a little server, for both.

    python -m benchmarks.imports [--tiny]
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import _peers, jobs
from benchmarks._bars import at_most, paired, spread

ROOT = Path(__file__).parents[1]
BARE = "pass"
PACKAGE = "import grok_video"
READY = "import grok_video; grok_video.AsyncClient('key')"
PARTS = "import aiohttp, anyio, attrs, cattrs"
# The text of the installed script.
HELP = (
    "import sys; sys.argv = ['grok-video', '--help']; "
    "from grok_video._cli import main; sys.exit(main())"
)
FIRST = """
import asyncio, sys
from grok_video import AsyncClient
async def main():
    async with AsyncClient("key", base_url=sys.argv[1]) as client:
        await client.submit("drift", image="https://example.com/a.jpg")
asyncio.run(main())
"""
FIRST_BY_HAND = """
import aiohttp, anyio, attrs, cattrs, asyncio, sys
async def main():
    body = {"model": "m", "prompt": "drift", "image": {"url": "https://example.com/a.jpg"}}
    async with aiohttp.ClientSession() as session:
        async with session.post(sys.argv[1] + "/videos/generations", json=body) as answer:
            await answer.json()
asyncio.run(main())
"""
#: Compiled files must be kept, or every round compiles this package anew, and only this one.
ENVIRONMENT = {name: value for name, value in os.environ.items() if "BYTECODE" not in name}
#: Milliseconds over bare Python, and a ratio.
MOST = {"import": 15.0, "help": 150.0, "ready": 1.1}
#: What has no limit takes part in every seventh round: it takes most of the time.
EVERY = 7


def run(tiny: bool) -> dict:
    """Return the figures of one run; three have limits."""
    rounds = 1 if tiny else 21
    codes = {
        "import grok_video": PACKAGE,
        "AsyncClient ready": READY,
        "aiohttp, anyio, attrs, cattrs": PARTS,
    }
    if importlib.util.find_spec("typer"):
        codes["grok-video --help"] = HELP
    barred = set(codes)
    codes |= {"first answer": FIRST, "first answer by hand": FIRST_BY_HAND}
    for way in _peers.PEERS:
        peer = _peers.WAYS[way]
        if peer.version() and f"import {peer.module}" not in codes.values():
            codes[way] = f"import {peer.module}"
    codes["bare aiohttp"] = "import aiohttp"
    bare: list[float] = []
    above: dict[str, list[float]] = {name: [] for name in codes}
    wall: dict[str, list[float]] = {name: [] for name in codes}
    with jobs.serving() as port:
        jobs.pin(0)
        base = f"http://127.0.0.1:{port}/grok/v1"
        for number in range(rounds + (not tiny)):  # the first compiles, and does not count
            start = fresh(BARE, base)
            if number or tiny:
                bare.append(start[0] * 1e3)
            for name, code in codes.items():
                if name not in barred and number % EVERY:
                    continue
                used, took = fresh(code, base)
                if number or tiny:
                    above[name].append((used - start[0]) * 1e3)
                    wall[name].append((took - start[1]) * 1e3)
    ready = paired(above["AsyncClient ready"], above["aiohttp, anyio, attrs, cattrs"])
    found = {
        "question": "CPU ms over bare Python of an import, a client, the first word",
        "bare_ms": spread(bare, 1),
        "ms over bare": {name: spread(seen, 1) for name, seen in above.items()},
        "wall ms over bare": {name: spread(seen, 1) for name, seen in wall.items()},
        "ready / its four libraries": ready,
        "first answer / by hand": paired(above["first answer"], above["first answer by hand"]),
        "missing": _peers.missing(),
    }
    of = found["ms over bare"]
    found["bars"] = [
        at_most("import grok_video, ms", of["import grok_video"], MOST["import"]),
        at_most("AsyncClient ready / its four libraries", ready, MOST["ready"]),
    ]
    if "grok-video --help" in of:
        bar = at_most("grok-video --help, ms", of["grok-video --help"], MOST["help"])
        found["bars"].append(bar)
    return found


def fresh(code: str, argument: str) -> tuple[float, float]:
    """Run a line in a fresh interpreter; return its CPU and wall seconds."""
    began, before = time.perf_counter(), used_by_children()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, argument],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return used_by_children() - before, time.perf_counter() - began


def used_by_children() -> float:
    """Return the CPU seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    print(json.dumps(run("--tiny" in sys.argv), indent=1))

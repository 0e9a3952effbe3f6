"""What does a job cost this client? Against a hand-written aiohttp loop, in one run.

A job is one create, five polls and a download of 64 KiB. The server is a process of its own on
another processor and speaks just enough HTTP. The hand-written loop pools all its connections and
does nothing that is not needed: it is the practical limit in Python. The ways take turns, each in a
process of its own whose CPU counts, and each pair of processes is a new one: how a process happens
to lie in memory makes its jobs dearer or cheaper by a tenth for as long as it lives. Ratios are
taken pair by pair.

    python -m benchmarks.jobs [--tiny | --patient]
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import statistics
import sys
import time
from typing import TYPE_CHECKING, ClassVar

import aiohttp

from benchmarks import _processes
from benchmarks._bars import at_most, paired, spread
from benchmarks._memory import peak_mib
from benchmarks._processes import Client, answer, measured_once, pin, served

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

POLLS = 5
FILE = b"\0\0\0\x18ftypmp42" + bytes(2**16 - 12)
#: Connections of either way.
POOL = 200
#: Seconds between polls: long enough that many jobs are in flight at once, and where 200 are, not
#: much longer than their work takes.
INTERVAL = 0.1
SHORT_INTERVAL = 0.05
#: By how many jobs are at once: jobs of a round, rounds of a process, pairs of processes. One after
#: the other is a short round, in which what else the machine does strikes one way alone: so many.
CROWDS = {1: (60, 5, 9), 200: (400, 1, 7)}
#: What the raw job takes on the machine for which the 40 us of a poll were asked, 200 at once.
RAW_JOB_MS = 1.04
#: Rounds of 10,000 jobs in flight. A slow machine, where one takes half a minute and more, begins
#: none that would not end within these seconds, and has these at least; `--patient` has them all
#: anywhere.
FLIGHTS, FLIGHT_SECONDS, FEWEST_FLIGHTS = 7, 180, 3
#: What a program that does nothing else may set (README, Settings): by default Python looks for
#: garbage after 700 new objects, which are hardly ever any, and each look visits what waits.
RARELY = (50_000, 20, 100)
CLIENT = ("benchmarks.jobs", "--client")


def run(tiny: bool, *, patient: bool = False) -> dict:
    """Return the figures of one run, with what must hold on any machine in `bars`."""
    crowds = {1: (10, 1, 1), 50: (50, 1, 1)} if tiny else CROWDS
    found: dict = {"question": f"CPU of a job: a create, {POLLS} polls, 64 KiB"}
    bars = found["bars"] = []
    with serving() as port:
        pin(0)
        for at_once, (jobs, rounds, pairs) in crowds.items():
            interval = 0.0 if at_once == 1 else INTERVAL / 10 if tiny else SHORT_INTERVAL
            seen: dict[str, list[float]] = {"raw": [], "ours": []}
            for number in range(pairs):
                ways = ("raw", "ours") if number % 2 else ("ours", "raw")
                costs = in_turns(ways, rounds, port, jobs, at_once, interval)
                for way, ms in costs.items():
                    seen[way].append(statistics.median(ms))
            ratio = paired(seen["ours"], seen["raw"])
            found[f"at once: {at_once}"] = {
                "raw_ms": spread(seen["raw"]),
                "ours_ms": spread(seen["ours"]),
                "ratio": ratio,
            }
            bars.append(at_most(f"CPU of a job over raw aiohttp, {at_once} at once", ratio, 1.25))
        shares = own_shares(1 if tiny else 7, jobs=10 if tiny else 40)
        share = found["own share of a poll, us"] = spread(shares, 1)
        bars.append(at_most("own share of a poll, us", share, 40))
        # Microseconds of another machine say little here, a share of its raw job says the same.
        relative = spread(
            [one / 1e3 / found[f"at once: {max(crowds)}"]["raw_ms"]["median"] for one in shares]
        )
        found["own share of a poll / a raw job"] = relative
        bars.append(at_most("own share of a poll / a raw job", relative, 0.040 / RAW_JOB_MS))
        if not tiny:
            found["in flight"], more = in_flight(port, math.inf if patient else FLIGHT_SECONDS)
            bars += more
    return found


def in_flight(port: int, seconds: float) -> tuple[dict, list[dict]]:
    """Return figures and bars of very many jobs at once, each round in processes of its own."""
    seen: dict[int, dict[str, list[dict]]] = {
        1000: {"ours": []},
        10_000: {"raw": [], "ours": []},
    }
    rarely: list[float] = []
    began = time.monotonic()
    for number in range(FLIGHTS):
        took = time.monotonic() - began
        if number >= FEWEST_FLIGHTS and took + took / number > seconds:
            break
        for count, ways in seen.items():
            for way in ways if number % 2 else reversed(ways):
                ways[way].append(flight(way, port, count))
        if number < FEWEST_FLIGHTS:  # there is no bar for it
            rarely.append(flight("rarely", port, 1000)["ms"])

    def figures(count: int, way: str, figure: str) -> list[float]:
        return [one[figure] for one in seen[count][way]]

    found: dict = {
        count: {
            way: {figure: spread(figures(count, way, figure)) for figure in ("ms", "peak_mib")}
            for way in ways
        }
        for count, ways in seen.items()
    }
    usual = figures(1000, "ours", "ms")[: len(rarely)]
    found["1000 with rare garbage collection / as usual"] = paired(rarely, usual)
    cpu = paired(figures(10_000, "ours", "ms"), figures(10_000, "raw", "ms"))
    memory = paired(figures(10_000, "ours", "peak_mib"), figures(10_000, "raw", "peak_mib"))
    growth = paired(figures(10_000, "ours", "ms"), figures(1000, "ours", "ms"))
    return found, [
        at_most("CPU of a job over raw aiohttp, 10,000 in flight", cpu, 1.3),
        at_most("peak memory over raw aiohttp, 10,000 in flight", memory, 1.2),
        at_most("CPU of a job, 10,000 over 1000 in flight", growth, 1.25),
    ]


def own_shares(rounds: int, jobs: int) -> list[float]:
    """Return microseconds that a poll costs where its answer comes at once, without a connection.

    What is left is the package's own: wire, lifecycle, policies, tasks and timers.
    """
    return [
        (asyncio.run(unconnected(21, jobs)) - asyncio.run(unconnected(1, jobs))) / 20 * 1e6
        for _ in range(rounds)
    ]


async def unconnected(polls: int, jobs: int) -> float:
    """Return the CPU seconds of a job with so many polls, over a transport without connections."""
    from grok_video import AsyncClient, Limits, Polling
    from grok_video._transports._base import Answer, Transport

    class Answering(Transport):
        """Answers at once; the percentage grows, so that no answer is as the one before."""

        def __init__(self) -> None:
            self.asked: dict[str, int] = {}

        async def post(self, url, body) -> Answer:
            name = b"%x" % len(self.asked)
            self.asked[f"{url.rpartition('/')[0]}/{name.decode()}"] = 0
            return Answer(200, {}, b'{"request_id":"%s"}' % name)

        async def get(self, url) -> Answer:
            self.asked[url] = asked = self.asked[url] + 1
            if asked < polls:
                return Answer(200, {}, b'{"status":"pending","progress":%d}' % asked)
            return Answer(200, {}, b'{"status":"done","video":{"url":"http://h/a.mp4"}}')

        def stream(self, *_, **__):
            raise NotImplementedError

        async def aclose(self) -> None:
            pass

    client = AsyncClient(
        "key",
        base_url="http://127.0.0.1:9/v1",
        transport=Answering(),
        polling=Polling.fixed(0.01),
        limits=Limits(polls_per_second=None),
    )

    async def one() -> None:
        # Without an end: a transport that was given may never answer, so that each of its polls is
        # timed from outside. The package's own transports end by themselves.
        await (await client.submit("drift")).result(timeout=None)

    await one()
    gc.collect()
    began = time.process_time()
    await asyncio.gather(*[one() for _ in range(jobs)])
    return (time.process_time() - began) / jobs


async def crowd(way: str, port: int, jobs: int, at_once: int, interval: float) -> float:
    """Run the jobs, so many at once; return the CPU seconds of one."""
    async with opened(way, port, interval) as one:
        await one()
        gc.collect()
        began = time.process_time()
        await run_jobs(one, jobs, at_once)
        return (time.process_time() - began) / jobs


async def run_jobs(one: Callable[[], Awaitable[None]], jobs: int, at_once: int) -> None:
    left = iter(range(jobs))

    async def worker() -> None:
        for _ in left:
            await one()

    await asyncio.gather(*[worker() for _ in range(at_once)])


@contextlib.asynccontextmanager
async def opened(
    way: str, port: int, interval: float
) -> AsyncGenerator[Callable[[], Awaitable[None]], None]:
    """Give the function that runs one job that way, over connections that all its calls share."""
    base = f"http://127.0.0.1:{port}/grok/v1"
    async with contextlib.AsyncExitStack() as stack:
        if way == "raw":
            connector = aiohttp.TCPConnector(limit=POOL)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))

            async def one() -> None:
                await raw_job(session, base, interval)

        else:
            # Here, so that `peers` can take the loop and the server without the package.
            from grok_video import AsyncClient, Limits, Polling

            client = await stack.enter_async_context(
                AsyncClient(
                    "key",
                    base_url=base,
                    polling=Polling.fixed(interval or 0.001),
                    limits=Limits(
                        polls_per_second=None, connections=POOL, concurrent_downloads=POOL
                    ),
                )
            )

            async def one() -> None:
                job = await client.submit("drift", image="https://example.com/a.jpg")
                if interval == 0:
                    while not job.is_finished:
                        await job.refresh()
                size = 0
                async for chunk in job.stream():
                    size += len(chunk)
                assert size == len(FILE)

        yield one


async def raw_job(session: aiohttp.ClientSession, base: str, interval: float) -> None:
    headers = {"Authorization": "Bearer key"}
    body = {"model": "m", "prompt": "drift", "image": {"url": "https://example.com/a.jpg"}}
    async with session.post(f"{base}/videos/generations", json=body, headers=headers) as answer:
        name = (await answer.json())["request_id"]
    while True:
        await asyncio.sleep(interval)
        async with session.get(f"{base}/videos/{name}", headers=headers) as answer:
            document = await answer.json()
        if document["status"] == "done":
            break
    size = 0
    async with session.get(document["video"]["url"]) as answer:
        async for chunk in answer.content.iter_any():
            size += len(chunk)
    assert size == len(FILE)


# --- client processes ----------------------------------------------------------------------------


def in_turns(
    ways: tuple[str, ...], rounds: int, port: int, jobs: int, at_once: int, interval: float
) -> dict[str, list[float]]:
    """Return what a job cost in each round of new processes, one of each way, in this order."""
    with contextlib.ExitStack() as stack:
        clients = {
            way: stack.enter_context(Client(*CLIENT, way, port, jobs, at_once, interval))
            for way in ways
        }
        for client in clients.values():
            client.ready()
        seen: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, client in clients.items():
                seen[way].append(client.ask()["ms"])
    return seen


def flight(way: str, port: int, count: int) -> dict:
    """Run so many jobs, all in flight, in a new process."""
    return measured_once(*CLIENT, way, port, count, count, INTERVAL)


def client(way: str, port: str, jobs: str, at_once: str, interval: str) -> None:
    """Answer each round with CPU milliseconds of one job, and the peak memory so far."""

    if way == "rarely":
        gc.set_threshold(*RARELY)

    def measure() -> dict:
        cost = asyncio.run(crowd(way, int(port), int(jobs), int(at_once), float(interval)))
        return {"ms": round(cost * 1e3, 3), "peak_mib": round(peak_mib(), 1)}

    answer(measure)


# --- the server ----------------------------------------------------------------------------------


class Server(asyncio.Protocol):
    """Just enough HTTP/1.1: requests come whole or in pieces, never pipelined."""

    seen: ClassVar[dict[bytes, int]] = {}
    port: ClassVar[int]
    connections: ClassVar[int] = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.held = b""
        Server.connections += 1

    def data_received(self, data: bytes) -> None:
        self.held += data
        head, end, rest = self.held.partition(b"\r\n\r\n")
        if not end:
            return
        length = 0
        if head.startswith(b"POST"):
            lower = head.lower()
            at = lower.index(b"content-length:") + 15
            length = int(lower[at:].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        self.held = b""
        self.respond(head, head.split(b" ", 2)[1])

    def respond(self, head: bytes, path: bytes) -> None:
        if head.startswith(b"POST"):
            name = b"%016x" % len(self.seen)
            self.seen[name] = 0
            self.answer(b'{"request_id":"%s"}' % name)
        elif path.startswith(b"/files/"):
            self.answer(FILE, b"video/mp4")
        elif path == b"/connections":
            self.answer(b"%d" % self.connections)
        else:
            name = path.rsplit(b"/", 1)[1]
            self.seen[name] += 1
            if self.seen[name] < POLLS:
                self.answer(b'{"status":"pending","progress":35}')
            else:
                self.answer(
                    b'{"status":"done","video":{"url":"http://127.0.0.1:%d/files/%s.mp4",'
                    b'"duration":6,"respect_moderation":true},"model":"grok-imagine-video",'
                    b'"usage":{"cost_in_usd_ticks":4220000000},"progress":100}' % (self.port, name)
                )

    def answer(self, body: bytes, kind: bytes = b"application/json") -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
            + body
        )


async def listen(protocol: type[Server]) -> None:
    """Serve from now on, on the second processor; the protocol knows the port."""
    pin(1)
    server = await asyncio.get_running_loop().create_server(
        protocol, "127.0.0.1", 0, backlog=20_000
    )
    protocol.port = server.sockets[0].getsockname()[1]


async def serve() -> None:
    await listen(Server)
    await served(Server.port)


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """Run the server in a process of its own; yield its port."""
    with _processes.serving("benchmarks.jobs", "--serve") as (port,):
        yield port


def main() -> None:
    if "--serve" in sys.argv:
        asyncio.run(serve())
    elif "--client" in sys.argv:
        client(*sys.argv[2:])
    else:
        found = run("--tiny" in sys.argv, patient="--patient" in sys.argv)
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

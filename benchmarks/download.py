"""What does it cost to save a video? Against hand-written aiohttp loops, in one run.

The server is a process of its own on another processor and hands out a file of 256 MiB with
`sendfile`. Each way runs in turns in this process for its CPU (event loop, worker threads, its
share of the kernel), and once in a fresh process for its peak memory and its longest stall. The
hand-written loops keep their writes off the event loop; "plain" does nothing else, "same work" also
hashes, syncs and renames, as `download` does with `sha256=True`. "bare socket" is the limit of
Python with a hash: one thread that receives into one buffer, writes it and hashes it, without HTTP
library, event loop or hand-over.

    python -m benchmarks.download [--tiny]
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import aiohttp

from benchmarks._bars import at_most, paired
from benchmarks._heart import Heart
from benchmarks._memory import MIB, peak_mib
from benchmarks._processes import answer, measured_once, pin, serving
from grok_video import _download
from grok_video._models import Video
from grok_video._policies import Deadline, Retry
from grok_video._redaction import Secret
from grok_video._transports._aiohttp import AiohttpTransport
from grok_video._transports._base import TransportConfig
from grok_video._urls import Origin

HEAD = b"\0\0\0\x18ftypmp42"
#: The hand-written loops: bytes of each write, as `iter_chunked` takes them. With 64 KiB the same
#: costs three times as much, and 4 MiB were never the best in four runs.
PLAIN = {"plain 1 MiB": MIB, "plain 2 MiB": 2 * MIB}
SAME_WORK = "same work 1 MiB"
#: As `download` is called when nothing else is asked for.
OURS = "grok_video"
#: SHA-256 of 256 MiB is 150 ms where the processor has instructions for it, about as much as
#: everything that a plain loop does.
HASHED = "grok_video, sha256=True"
#: What no way can go below that takes the bytes from a socket, keeps them and hashes them.
LIMIT = "bare socket, hashed"


def run(tiny: bool) -> dict:
    """Return the figures of one run; `ratios` are what must hold on any machine."""
    rounds, size = (1, 8 * MIB) if tiny else (7, 256 * MIB)
    ways = [*PLAIN, SAME_WORK, OURS, HASHED, LIMIT]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving("benchmarks.download", "--serve", size) as (port,),
    ):
        pin(0)
        cpu = asyncio.run(compare(port, Path(folder), ways, rounds))
        fresh = {
            way: [
                measured_once("benchmarks.download", "--fresh", way, port, folder)
                for _ in range(7 if way in (OURS, HASHED) and not tiny else 1)
            ]
            for way in ways
            if way != LIMIT
        }
    median = {way: statistics.median(seen) for way, seen in cpu.items()}
    best = min(PLAIN, key=lambda way: median[way])
    found: dict = {
        "question": f"CPU, memory and loop stall of saving {size / MIB:g} MiB",
        "cpu_ms": {way: spread(seen) for way, seen in cpu.items()},
        "best_plain": best,
        "peak_mib_above_start": {
            way: round(statistics.median(one["peak_mib"] for one in seen), 1)
            for way, seen in fresh.items()
        },
        "longest_stall_ms": {
            way: round(statistics.median(one["stall_ms"] for one in seen), 1)
            for way, seen in fresh.items()
        },
        "ratios": {
            # Each round is a pair, so that what else the machine does strikes both.
            "grok_video / best plain loop": paired(cpu[OURS], cpu[best]),
            f"{HASHED} / same work by hand": paired(cpu[HASHED], cpu[SAME_WORK]),
        },
        "with a hash": {
            f"{way} / best plain loop": paired(cpu[way], cpu[best]) for way in (HASHED, LIMIT)
        },
        "goals": {
            "grok_video / best plain loop": 1.2,
            f"{HASHED} / same work by hand": 1.2,
            "peak_mib_above_start": 16,
            "longest_stall_ms": 10,
        },
    }
    goals = found.pop("goals")
    found["bars"] = [
        *[at_most(name, figure, goals[name]) for name, figure in found["ratios"].items()],
        *[
            at_most(f"{name}, {way}", found[name][way], goals[name])
            for name in ("peak_mib_above_start", "longest_stall_ms")
            for way in (OURS, HASHED)
        ],
    ]
    return found


def spread(seen: list[float]) -> dict:
    """Return median, least and most, in milliseconds."""
    return {
        "median": round(statistics.median(seen) * 1e3, 1),
        "min": round(min(seen) * 1e3, 1),
        "max": round(max(seen) * 1e3, 1),
    }


async def compare(port: int, folder: Path, ways: list[str], rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of each way, taken in turns."""
    seen: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way in ways:
            gc.collect()
            before = time.process_time()
            await fetch(way, port, folder / "video.mp4")
            seen[way].append(time.process_time() - before)
            (folder / "video.mp4").unlink()
    return {way: times[1:] for way, times in seen.items()}  # the first round imports


async def fetch(way: str, port: int, path: Path, name: str = "video.mp4") -> None:
    url = f"http://127.0.0.1:{port}/{name}"
    if way == OURS:
        await save(url, path)
    elif way == HASHED:
        await save(url, path, sha256=True)
    elif way == SAME_WORK:
        await same_work(url, path)
    elif way == LIMIT:
        await asyncio.to_thread(bare, port, path, name)
    else:
        await plain(url, path, PLAIN[way])


async def save(url: str, path: Path, *, sha256: bool = False) -> None:
    transport = AiohttpTransport(
        TransportConfig(
            # Another origin than the file's, as in life.
            base_url="http://127.0.0.1:1",
            api_key=Secret("sk-benchmark"),
            timeout=120.0,
            proxy=None,
            ssl_context=None,
            headers={},
        )
    )
    video = await _download.save(
        lambda: transport,
        NoSource(),
        Video("4b2cd27e", url),
        path,
        overwrite=False,
        sha256=sha256,
        deadline=Deadline.after(0.0, None),
        retry=Retry(),
        api_origin=Origin.of("http://127.0.0.1:1"),
        random=random.Random(1),
    )
    await transport.aclose()
    assert video.size == os.stat(path).st_size  # noqa: PTH116


class NoSource:
    request_id = "4b2cd27e"

    async def fresh_video(self) -> Video:
        raise NotImplementedError


async def plain(url: str, path: Path, size: int) -> None:
    async with (
        aiohttp.ClientSession(auto_decompress=False, read_bufsize=size) as session,
        session.get(url) as response,
    ):
        with path.open("wb", buffering=0) as file:
            async for chunk in response.content.iter_chunked(size):
                await asyncio.to_thread(file.write, chunk)


async def same_work(url: str, path: Path) -> None:
    digest = hashlib.sha256()
    part = path.with_suffix(".part")

    def write(chunk: bytes) -> None:
        file.write(chunk)
        digest.update(chunk)

    def finish() -> None:
        os.fsync(file.fileno())
        part.replace(path)

    async with (
        aiohttp.ClientSession(auto_decompress=False, read_bufsize=MIB) as session,
        session.get(url) as response,
    ):
        with part.open("wb", buffering=0) as file:
            async for chunk in response.content.iter_chunked(MIB):
                await asyncio.to_thread(write, chunk)
            await asyncio.to_thread(finish)


def bare(port: int, path: Path, name: str) -> None:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(MIB))
    with socket.create_connection(("127.0.0.1", port)) as line, path.open("wb", 0) as file:
        line.sendall(f"GET /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += line.recv(4096)
        head, _, start = head.partition(b"\r\n\r\n")
        left = int(head.lower().partition(b"content-length:")[2].split()[0]) - len(start)
        file.write(start)
        digest.update(start)
        while left:
            got = buffer[: line.recv_into(buffer)]
            file.write(got)
            digest.update(got)
            left -= len(got)
        os.fsync(file.fileno())


# --- memory and stalls, in fresh processes -------------------------------------------------------


async def fresh(way: str, port: int, folder: Path) -> dict:
    path = folder / "fresh.mp4"
    await fetch(way, port, path, "small.mp4")  # imports, the first connection, the first thread
    path.unlink(missing_ok=True)
    gc.collect()
    start = peak_mib()
    async with Heart() as heart:
        await fetch(way, port, path)
    path.unlink(missing_ok=True)
    return {"peak_mib": peak_mib() - start, "stall_ms": heart.longest * 1e3}


# --- the server ----------------------------------------------------------------------------------


def serve(size: int) -> None:
    """Serve the file until stdin ends; the port is the first line printed."""
    with tempfile.TemporaryFile() as file:
        file.write(HEAD)
        file.write(random.Random(1).randbytes(MIB - len(HEAD)))
        file.truncate(size)  # the rest is a hole: reading it costs no disk
        listener = socket.create_server(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)

        def one(connection: socket.socket) -> None:
            head = (
                b'HTTP/1.1 200 OK\r\nETag: "1"\r\nConnection: close\r\nContent-Length: %d\r\n\r\n'
            )
            with connection, contextlib.suppress(ConnectionError):
                small = b"small" in connection.recv(2**16)
                length = MIB if small else size
                connection.sendall(head % length)
                sent = 0
                while sent < length:
                    sent += os.sendfile(connection.fileno(), file.fileno(), sent, length - sent)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)

        def accept() -> None:
            while True:
                threading.Thread(target=one, args=[listener.accept()[0]], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        sys.stdin.read()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--serve", length]:
            pin(1)
            serve(int(length))
        case ["--fresh", name, address, place]:
            answer(lambda: asyncio.run(fresh(name, int(address), Path(place))))
        case arguments:
            print(json.dumps(run("--tiny" in arguments), indent=2))

"""What does it cost to send a local picture? Against `b64encode` then `json.dumps`, in one run.

The server is a sink in a process of its own, pinned to another processor. CPU is that of the whole
client process (event loop, worker threads, its share of the kernel), measured interleaved; memory
is the peak of fresh processes that send many pictures at once, above the same creates by URL. As
the API is, so many are sent at once over TLS as well, where encryption is most of the CPU.

    python -m benchmarks.upload [--tiny]
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import os
import ssl
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import trustme

from benchmarks._bars import at_most
from benchmarks._heart import Heart
from benchmarks._memory import MIB, peak_mib, start_of_peak
from benchmarks._processes import answer, measured_once, pin, served, serving
from grok_video import _base64, _body
from grok_video._redaction import Secret
from grok_video._requests import Image, VideoRequest
from grok_video._transports._aiohttp import AiohttpTransport
from grok_video._transports._base import TransportConfig

ANSWER = b'{"request_id":"4b2cd27e-0000-4000-8000-000000000000"}'
PROMPT = "slow push-in"
OVER_TLS = ", over TLS"
#: How often each way sends many at once. Memory and stalls of the slow codec and of a data URI are
#: far from their bars, and take most of the time.
CROWDS = {
    "url": 7,
    "path": 7,
    "path-stdlib": 3,
    "data": 3,
    "usual": 1,
    f"url{OVER_TLS}": 3,
    f"path{OVER_TLS}": 7,
}


def run(tiny: bool) -> dict:
    """Return the figures of one run; `ratios` are what must hold on any machine."""
    rounds, size, at_once = (1, MIB, 4) if tiny else (9, 10 * MIB, 50)
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as (port, tls_port):
        photograph = Path(folder, "photograph.jpg")
        photograph.write_bytes(b"\xff\xd8\xff\xe0" + os.urandom(size - 4))
        pin(0)
        cpu = asyncio.run(compare(port, photograph, photograph.read_bytes(), rounds))
        crowd: dict = {
            way: [
                measured_once("benchmarks.upload", "--crowd", way, at, photograph, at_once)
                for _ in range(1 if tiny else times)
            ]
            for way, times in CROWDS.items()
            for at in [tls_port if way.endswith(OVER_TLS) else port]
        }
    usual = statistics.median(cpu["usual, not sent"])
    peak = {way: statistics.median(one["peak_mib"] for one in seen) for way, seen in crowd.items()}
    fast = pybase64_is_here()
    found: dict = {
        "question": f"CPU, memory and loop stall of a {size / MIB:g} MiB picture",
        "pybase64": fast,
        "cpu_ms": {way: spread(seen) for way, seen in cpu.items()},
        "peak_mib_above_url": {
            way: round(peak[way] - peak["url" + OVER_TLS * way.endswith(OVER_TLS)], 1)
            for way in peak
        },
        "at_once": at_once,
        "cpu_ms_each_at_once": {
            way: round(statistics.median(one["cpu_ms"] for one in seen), 2)
            for way, seen in crowd.items()
        },
        "longest_stall_ms": {
            way: round(statistics.median(one["stall_ms"] for one in seen), 1)
            for way, seen in crowd.items()
        },
        "ratios": {
            **{
                f"{way} / usual way, not sent": round(statistics.median(seen) / usual, 3)
                for way, seen in cpu.items()
            },
        },
        "goals": {
            "path / usual way, not sent": 10 / 70 if fast else 0.5,
            "path-stdlib / usual way, not sent": 0.5,
            "peak_mib_above_url": 16,
            "longest_stall_ms": 10,
        },
    }
    goals = found.pop("goals")
    each = found["cpu_ms_each_at_once"]["path"] / usual / 1e3
    crowded = f"path, {at_once} at once / usual way, not sent"
    found["ratios"][crowded] = round(each, 3)
    goals[crowded] = goals["path / usual way, not sent"]
    found["bars"] = [
        *[
            at_most(f"CPU, {name}", found["ratios"][name], limit)
            for name, limit in goals.items()
            if name in found["ratios"]
        ],
        *[
            at_most(f"{name}, {way}", found[name][way], goals[name])
            for name in ("peak_mib_above_url", "longest_stall_ms")
            for way in ("path", "path-stdlib", "data", f"path{OVER_TLS}")
        ],
    ]
    return found


def spread(seen: list[float]) -> dict:
    """Return median, least and most, in milliseconds."""
    return {
        "median": round(statistics.median(seen) * 1e3, 2),
        "min": round(min(seen) * 1e3, 2),
        "max": round(max(seen) * 1e3, 2),
    }


# --- CPU, one after the other ----------------------------------------------------------------


async def compare(
    port: int, photograph: Path, content: bytes, rounds: int
) -> dict[str, list[float]]:
    """Return CPU seconds of each way, taken in turns."""
    uri = as_data_uri(content)
    requests = {
        "url": VideoRequest(PROMPT, "https://example.com/photograph.jpg"),
        "path": VideoRequest(PROMPT, photograph),
        "bytes": VideoRequest(PROMPT, content),
        "data": VideoRequest(PROMPT, uri),
    }
    seen: dict[str, list[float]] = {}
    base = f"http://127.0.0.1:{port}"
    transport = make_transport(base)
    async with aiohttp.ClientSession() as session:

        async def take(way: str, work) -> None:
            gc.collect()
            before = time.process_time()
            await work()
            seen.setdefault(way, []).append(time.process_time() - before)

        async def usual_not_sent() -> None:
            usual_body(photograph)

        for _ in range(rounds + 1):
            await take("usual, not sent", usual_not_sent)
            await take("usual, sent", lambda: send_usual(session, base, photograph))
            for way, request in requests.items():
                await take(way, lambda request=request: send(transport, base, request))
            with without_pybase64():
                await take("path-stdlib", lambda: send(transport, base, requests["path"]))
                await take("data-stdlib", lambda: send(transport, base, requests["data"]))
    await transport.aclose()
    return {way: times[1:] for way, times in seen.items()}  # the first round imports and connects


async def send(transport: AiohttpTransport, base: str, request: VideoRequest) -> None:
    async with _body.create_body(request) as body:
        answer = await transport.post(f"{base}/videos/generations", body)
    assert answer.status == 200


def usual_body(photograph: Path) -> bytes:
    content = base64.b64encode(photograph.read_bytes()).decode()
    uri = f"data:image/jpeg;base64,{content}"
    return json.dumps({"model": "m", "prompt": PROMPT, "image": {"url": uri}}).encode()


async def send_usual(session: aiohttp.ClientSession, base: str, photograph: Path) -> None:
    body = usual_body(photograph)
    async with session.post(f"{base}/videos/generations", data=body) as response:
        await response.read()


def make_transport(base: str, ssl_context: ssl.SSLContext | None = None) -> AiohttpTransport:
    return AiohttpTransport(
        TransportConfig(
            base_url=base,
            api_key=Secret("sk-benchmark"),
            timeout=120.0,
            proxy=None,
            ssl_context=ssl_context,
            headers={},
        )
    )


def pybase64_is_here() -> bool:
    try:
        import pybase64  # noqa: F401
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def without_pybase64():
    """Let the package find only the standard library inside."""
    held = sys.modules.get("pybase64")
    sys.modules["pybase64"] = None  # type: ignore[assignment]
    _base64.forget_codec()
    try:
        yield
    finally:
        if held is None:
            del sys.modules["pybase64"]
        else:
            sys.modules["pybase64"] = held
        _base64.forget_codec()


# --- memory and stalls, many at once -------------------------------------------------------------


async def crowd(way: str, port: int, photograph: Path, at_once: int) -> dict:
    """Send the same picture `at_once` times together; return CPU, peak memory and stall."""
    # One string that all share: what is measured is what sending adds to it.
    data_uri = as_data_uri(await asyncio.to_thread(photograph.read_bytes)) if way == "data" else ""
    base, context = f"http://127.0.0.1:{port}", None
    if way.endswith(OVER_TLS):
        base, context = f"https://127.0.0.1:{port}", trusting(photograph.parent)
    way = way.removesuffix(OVER_TLS)
    transport = make_transport(base, context)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one() -> None:
            if way == "usual":
                await send_usual(session, base, photograph)
            elif way == "url":
                await send(transport, base, VideoRequest(PROMPT, "https://example.com/cat.jpg"))
            elif way == "data":
                # Not `Image.from_url`: its copies belong to making the request.
                await send(transport, base, VideoRequest(PROMPT, Image("data", data_uri)))
            else:
                await send(transport, base, VideoRequest(PROMPT, photograph))

        with without_pybase64() if way.endswith("-stdlib") else contextlib.nullcontext():
            await one()  # imports, the first connection, the first thread
            gc.collect()
            async with Heart() as heart:
                held = start_of_peak()
                before = time.process_time()
                await asyncio.gather(*(one() for _ in range(at_once)))
                cpu = time.process_time() - before
    await transport.aclose()
    return {
        "cpu_ms": cpu / at_once * 1e3,
        "peak_mib": peak_mib("VmHWM") - held,
        "stall_ms": heart.longest * 1e3,
    }


def as_data_uri(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


# --- the servers ---------------------------------------------------------------------------------


def servers(folder: Path) -> contextlib.AbstractContextManager[list[int]]:
    """Run one without TLS and one with it, its certificate in this folder; give both ports."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    own = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
    own.write_to_path(folder / "server.pem")
    return serving("benchmarks.upload", "--serve", folder)


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=folder / "authority.pem")


class Sink(asyncio.BufferedProtocol):
    """Reads requests into one buffer that all connections overwrite, and says yes to each."""

    buffer = memoryview(bytearray(MIB))

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.missing = -1

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        if self.missing < 0:
            head, _, rest = bytes(self.buffer[:count]).partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            self.missing = int(fields[b"content-length"])
            count = len(rest)
        self.missing -= count
        if self.missing == 0:
            self.missing = -1
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            self.transport.write(head + b"Content-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER)


async def serve(folder: Path) -> None:
    certified = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certified.load_cert_chain(folder / "server.pem")
    loop = asyncio.get_running_loop()
    listening = [
        await loop.create_server(Sink, "127.0.0.1", 0, ssl=context) for context in (None, certified)
    ]
    await served(*[server.sockets[0].getsockname()[1] for server in listening])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--serve", folder]:
            pin(1)
            asyncio.run(serve(Path(folder)))
        case ["--crowd", way, port, photograph, at_once]:
            answer(lambda: asyncio.run(crowd(way, int(port), Path(photograph), int(at_once))))
        case arguments:
            print(json.dumps(run("--tiny" in arguments), indent=2))

"""One client, several event loops; and none of them ever held up."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from blockbuster import BlockBuster, BlockingError, blockbuster_ctx
from trio.testing import MockClock

import grok_video
from grok_video import (
    AsyncClient,
    AsyncJob,
    ConfigurationError,
    CreateOutcomeUnknown,
    Limits,
    Polling,
    _session,
)
from grok_video._transports import _loops
from grok_video._transports._loops import Bell, current_time, finish
from grok_video.emulator import Emulator

from ..conftest import NO_LIMITS, PHOTO, QUICK
from ..transports.rawserver import PATIENCE, Visit, raw_server

EMULATOR = "grok_video.emulator"


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp"), ("asyncio", "httpx")], indirect=True)
def test_one_client_works_across_three_runs(
    lane: tuple[str, str], grok_emulator: Emulator, tmp_path: Path
) -> None:
    """Made outside any loop, never closed by hand: no warning, no duplicate create."""

    def use_and_drop() -> None:
        client = AsyncClient(
            base_url=grok_emulator.base_url,
            api_key=grok_emulator.api_key,
            polling=QUICK,
            limits=NO_LIMITS,
            transport=lane[1],
        )

        async def work(place: Path) -> None:
            await client.generate("drift", duration=1, resolution="480p", save_to=place, timeout=20)

        for number in range(3):
            asyncio.run(work(tmp_path / f"{number}.mp4"), debug=True)

    use_and_drop()
    gc.collect()
    assert grok_emulator.accepted == 3
    assert len(list(tmp_path.glob("*.mp4"))) == 3


def test_one_client_works_across_runs_of_both_libraries(grok_emulator: Emulator) -> None:
    client = AsyncClient(
        base_url=grok_emulator.base_url, api_key=grok_emulator.api_key, polling=QUICK
    )
    job_ids = []

    async def work() -> None:
        job = await client.submit("drift", duration=1)
        job_ids.append(job.request_id)
        await job.result(timeout=20)

    for run in (asyncio.run, trio.run, asyncio.run, trio.run):
        run(work()) if run is asyncio.run else run(work)
    gc.collect()
    assert [create.request_id for create in grok_emulator.creates] == job_ids


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp")], indirect=True)
def test_a_job_that_is_awaited_in_loops_of_different_clocks_is_polled_as_in_one(
    new_client: Callable[..., AsyncClient], grok_emulator_factory: Callable[..., Emulator]
) -> None:
    """Each run of trio begins its clock somewhere else; and two waits at once share their polls."""
    emulator = grok_emulator_factory(time_scale=0.02)
    client = new_client(emulator, polling=Polling.fixed(0.05), limits=Limits(), transport=None)
    jobs: list[AsyncJob] = []
    links: list[str | None] = []

    async def submit() -> None:
        jobs.append(await client.submit("drift"))

    async def wait() -> None:
        links.append((await jobs[0].result(timeout=PATIENCE)).url)

    asyncio.run(submit())
    began = time.monotonic()
    runs: list[Callable[[], None]] = [
        lambda: asyncio.run(wait()),
        lambda: trio.run(wait),
        lambda: trio.run(wait),
    ]
    threads = [threading.Thread(target=run) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(links) == 3
    assert len(set(links)) == 1
    assert emulator.polls <= (time.monotonic() - began) / 0.05 + 2


def test_aiohttp_asked_for_on_trio_is_refused_before_anything_is_sent(
    grok_emulator: Emulator,
) -> None:
    client = AsyncClient("k", base_url=grok_emulator.base_url, transport="aiohttp")

    async def submit() -> None:
        with pytest.raises(ConfigurationError, match="aiohttp cannot run on trio"):
            await client.submit("drift")

    trio.run(submit)
    assert grok_emulator.accepted == 0


def test_all_event_loops_of_a_process_share_one_clock() -> None:
    told: list[float] = []

    async def look() -> None:
        told.append(current_time())

    def virtual() -> None:
        async def jump() -> None:
            await look()
            await trio.sleep(1000)
            await look()

        trio.run(jump, clock=MockClock(autojump_threshold=0))

    began = time.monotonic()
    for _ in range(3):
        trio.run(look)
        asyncio.run(look())
    assert told == sorted(told)
    assert told[-1] - told[0] <= time.monotonic() - began
    virtual()
    assert told[-1] - told[-2] == pytest.approx(1000)
    trio.run(look)
    asyncio.run(look())
    virtual()
    assert told == sorted(told)


@pytest.mark.parametrize("lead", [0.001, 0.6, 1000.0])
def test_a_clock_that_was_turned_a_little_is_not_turned_back_by_the_next_loop(
    monkeypatch: pytest.MonkeyPatch, lead: float
) -> None:
    monkeypatch.setattr(_loops, "_latest", -math.inf)  # whatever other tests have turned
    told: list[float] = []

    async def look() -> None:
        told.append(current_time())

    async def turn() -> None:
        await look()
        await trio.sleep(lead)
        await look()

    for _ in range(3):
        trio.run(turn, clock=MockClock(autojump_threshold=0))
        asyncio.run(look())
        trio.run(look)
    assert told == sorted(told)


class Turned(asyncio.SelectorEventLoop):
    """A loop whose clock is turned to its next timer, as libraries for tests do; or set back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 5000.0
        self.turns = 0
        self._look = self._selector.select
        self._selector.select = self._turn  # type: ignore[method-assign]  # its only way in

    def time(self) -> float:
        return self.now

    def _turn(self, timeout: float | None = None) -> Any:
        self.turns += 1
        assert self.turns < 1000, "nobody gets on"
        if timeout:
            # asyncio runs a timer that is due within the resolution of the clock.
            early = 0.9 * time.get_clock_info("monotonic").resolution
            self.now += max(0.0, timeout - early)
        return self._look(0)


def test_a_clock_that_stands_still_a_hair_too_early_holds_nobody_up() -> None:
    async def sleep() -> None:
        for number in range(1, 100):
            when = current_time() + number / 7
            while current_time() < when:
                await Bell().wait_until(when)

    loop = Turned()
    loop.run_until_complete(sleep())
    loop.close()


def test_a_clock_that_is_set_back_goes_on_from_where_it_was() -> None:
    """Libraries for tests freeze the clock, or turn it, while a loop runs and between two runs."""
    told: list[float] = []

    async def look() -> None:
        told.append(current_time())

    async def set_back() -> None:
        await look()
        loop.now -= 4000
        await look()
        await Bell().wait_until(current_time() + 1)
        await look()

    loop = Turned()
    loop.run_until_complete(set_back())
    loop.close()
    asyncio.run(look())
    assert told == sorted(told)
    assert told[2] - told[0] == pytest.approx(1, abs=1e-5)


def test_a_client_that_was_never_closed_leaves_no_noise(grok_emulator: Emulator) -> None:
    """In a process of its own, with every warning shown and the loop in debug mode."""
    script = f"""
import asyncio
from grok_video import AsyncClient, Polling
client = AsyncClient(base_url={grok_emulator.base_url!r}, api_key={grok_emulator.api_key!r},
                     polling=Polling.fixed(0.01))
async def work():
    await (await client.submit("drift", duration=1))
for _ in range(3):
    asyncio.run(work())
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "always", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    noise = [line for line in done.stderr.splitlines() if "took" not in line]
    assert noise == []
    assert grok_emulator.accepted == 3


@pytest.fixture
def no_blocking() -> Iterator[BlockBuster]:
    # The emulator is a server in a thread of its own; what it does there is its own business.
    excluded = [sys.modules[name] for name in sys.modules if name.startswith(EMULATOR)]
    with blockbuster_ctx(scanned_modules=["grok_video"], excluded_modules=excluded) as guard:
        yield guard


@pytest.mark.usefixtures("no_blocking")
async def test_no_coroutine_of_the_package_blocks_its_loop(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator, tmp_path: Path
) -> None:
    async with new_client(grok_emulator) as client:
        video = await client.generate(
            "drift", image=PHOTO, duration=1, resolution="480p", save_to=tmp_path / "a.mp4"
        )
        job = client.job(video.request_id)
        async for _ in job.updates():
            pass
        assert b"".join([chunk async for chunk in job.stream()])
        with PHOTO.open("rb") as file:
            jobs = [
                await client.submit("drift", image=file, duration=1),
                await client.submit("drift", image=b"".join(file), duration=1),
            ]
        async for done in client.as_completed(jobs, timeout=20):
            assert (await done.result()).url


async def test_the_guard_sees_a_coroutine_that_blocks(no_blocking: BlockBuster) -> None:
    """The check of the check: blocking inside the package's own frames is an error."""
    code = compile(
        "import time\nasync def hold():\n    time.sleep(0.001)\n",
        str(Path(grok_video.__file__).with_name("_x.py")),
        "exec",
    )
    space = {"__name__": "grok_video.x"}
    exec(code, space)
    if trio.lowlevel.in_trio_task():
        await space["hold"]()  # blockbuster guards asyncio loops only
        return
    with pytest.raises(BlockingError):
        await space["hold"]()


def test_whoever_cancels_every_task_there_is_does_not_find_what_is_done_to_its_end() -> None:
    """Some programs end like that, in no order."""

    async def main() -> None:
        begun: list[str] = []
        steps = asyncio.Event()

        async def work() -> str:
            begun.append("work")
            await steps.wait()
            return "done"

        caller = asyncio.ensure_future(finish(work))
        for _ in range(3):
            await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {caller, asyncio.current_task()}:
                task.cancel()
        steps.set()
        assert await asyncio.wait_for(caller, 5) == "done"
        assert begun == ["work"]

    asyncio.run(main())


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp"), ("asyncio", "httpx")], indirect=True)
@pytest.mark.parametrize("end", ["of asyncio.run", "by cancelling every task"])
def test_a_create_in_the_background_has_its_id_at_the_end(
    new_client: Callable[..., AsyncClient], end: str
) -> None:
    ending = threading.Event()
    taken = threading.Event()

    def answers_at_the_end(visit: Visit) -> None:
        visit.request()
        taken.set()
        assert ending.wait(PATIENCE)
        visit.answer(b'{"request_id":"job-1"}')
        visit.until_gone()

    told: list[str] = []

    async def watch() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()

    async def main(base: str) -> None:
        client = new_client(api_key="k", base_url=base)
        submit = client.submit("drift", on_submitted=lambda job: told.append(job.request_id))
        tasks = [asyncio.create_task(submit), asyncio.create_task(watch())]
        while not taken.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0)
        if end == "by cancelling every task":
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    with raw_server(answers_at_the_end) as server:
        asyncio.run(main(server.base))
    assert told == ["job-1"]


async def test_a_client_that_is_closed_waits_for_the_answers_of_its_creates(
    new_client: Callable[..., AsyncClient],
) -> None:
    taken, closing = threading.Event(), threading.Event()

    def answers_when_closing(visit: Visit) -> None:
        visit.request()
        taken.set()
        assert closing.wait(PATIENCE)
        visit.answer(b'{"request_id":"job-1"}')
        visit.until_gone()

    told: list[str] = []
    with raw_server(answers_when_closing) as server:
        client = new_client(api_key="k", base_url=server.base)

        async def submit() -> None:
            told.append((await client.submit("drift")).request_id)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(submit)
            while not taken.is_set():
                await anyio.lowlevel.checkpoint()
            tasks.start_soon(client.aclose)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            with pytest.raises(ConfigurationError, match="closed"):
                await client.submit("drift")
            closing.set()
    assert told == ["job-1"]


async def test_a_client_may_be_closed_by_the_function_that_is_told_of_the_job(
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_session, "CANCEL_GRACE", 600.0)
    client = new_client(grok_emulator)

    async def close(_: object) -> None:
        await client.aclose()

    with anyio.fail_after(60):
        assert (await client.submit("drift", on_submitted=close)).request_id


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
async def test_a_client_that_is_closed_does_not_wait_for_ever_for_a_create(
    said: bytes, new_client: Callable[..., AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_session, "CANCEL_GRACE", 0.05)
    taken = threading.Event()

    def never_answers(visit: Visit) -> None:
        visit.request()
        visit.send(said)
        taken.set()
        visit.until_gone()

    with raw_server(never_answers) as server:
        client = new_client(api_key="k", base_url=server.base)

        async def submit() -> None:
            with pytest.raises(CreateOutcomeUnknown):
                await client.submit("drift")

        with anyio.fail_after(60) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(submit)
                await anyio.to_thread.run_sync(taken.wait)
                # Before the server itself gives up.
                scope.deadline = anyio.current_time() + 0.9 * PATIENCE
                await client.aclose()


@pytest.mark.parametrize("cancelled", [False, True], ids=["alone", "in the grace of a cancelled"])
def test_ctrl_c_on_trio_leaves_what_was_begun_its_grace(cancelled: bool) -> None:
    """Pressed twice, or once where the caller was cancelled before: the id comes, then it ends."""
    kept: list[str] = []

    async def main() -> None:
        scope = trio.CancelScope()

        async def work() -> None:
            scope.cancel() if cancelled else signal.raise_signal(signal.SIGINT)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            signal.raise_signal(signal.SIGINT)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            kept.append("id")

        with scope:
            await finish(work, grace=5)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert kept == ["id"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, OSError])
def test_what_the_work_raises_on_trio_comes_out_as_it_is(kind: type[BaseException]) -> None:
    """As on asyncio: `sys.exit` in a callback ends the program with its code, and in no group."""

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        raise kind

    with pytest.raises(kind) as caught:
        trio.run(finish, work)
    assert type(caught.value) is kind

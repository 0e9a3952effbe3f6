"""A provider in memory and virtual time: hours pass in milliseconds, on trio's autojump clock."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
import trio
from trio.testing import MockClock

from grok_video import AsyncClient
from grok_video._transports._base import Answer, Body, StreamedAnswer, Transport

LINK = "https://files.test/a.mp4"


class Provider(Transport):
    """A provider in memory: jobs take `seconds`, answers take `latency`; a real transport else."""

    def __init__(self, seconds: float = 600.0, latency: float = 0.5) -> None:
        self.seconds = seconds
        self.latency = latency
        self.born: dict[str, float] = {}
        self.creates: list[float] = []
        self.polls: dict[str, list[float]] = {}
        #: Answers to the next polls, and to the next creates.
        self.failing: list[Answer] = []
        self.refusing: list[Answer] = []

    async def post(self, url: str, body: Body) -> Answer:
        self.creates.append(anyio.current_time())
        await anyio.sleep(self.latency)
        if self.refusing:
            return self.refusing.pop(0)
        name = f"job-{len(self.born)}"
        self.born[name] = anyio.current_time()
        self.polls[name] = []
        return answer(200, {"request_id": name})

    async def get(self, url: str) -> Answer:
        name = url.rsplit("/", 1)[1]
        self.polls.setdefault(name, []).append(trio.current_time())
        await trio.sleep(self.latency)
        if self.failing:
            return self.failing.pop(0)
        age = trio.current_time() - self.born.get(name, -1e9)
        if age < self.seconds:
            return PENDING
        return answer(200, {"status": "done", "video": {"url": LINK, "duration": 8}})

    @contextlib.asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], *, public_only: bool
    ) -> AsyncIterator[StreamedAnswer]:
        raise AssertionError("the file would be fetched now")
        yield

    async def aclose(self) -> None:
        pass


def answer(status: int, document: Any, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps(document).encode())


#: Made once: thousands of jobs are told so, and what is measured is not this server.
PENDING = answer(202, {"status": "pending"})


class Steps(trio.abc.Instrument):
    """Counts how often a task was woken: the cost of a run that no other load changes."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: object) -> None:
        self.count += 1


def run(main: Any, provider: Provider, **words: Any) -> int:
    """Run in virtual time; return how often any task was woken."""

    async def work() -> None:
        async with AsyncClient("key", transport=provider, **words) as client:
            await main(client)

    steps = Steps()
    trio.run(work, clock=MockClock(autojump_threshold=0), instruments=[steps])
    return steps.count

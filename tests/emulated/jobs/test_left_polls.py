"""Polls that nobody will ever end, because their loop was stopped in the middle of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from grok_video import AsyncClient, _poller
from grok_video._job import poller_of

from ...transports.rawserver import PATIENCE, Visit, ok, raw_server

DONE = b'{"status":"done","video":{"url":"https://files.test/a.mp4"}}'


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp"), ("asyncio", "httpx")], indirect=True)
@pytest.mark.parametrize("waits", ["afterwards", "already"])
@pytest.mark.parametrize("look", ["result", "refresh"])
def test_a_job_whose_poll_stopped_with_its_loop_is_polled_in_another(
    new_client: Callable[..., AsyncClient],
    monkeypatch: pytest.MonkeyPatch,
    waits: str,
    look: str,
) -> None:
    """As Ctrl-C stops it that comes out of `run_until_complete`; its tasks are not cancelled."""
    monkeypatch.setattr(_poller, "_LOOK_AGAIN", 0.05, raising=False)
    asked = threading.Event()
    told: list[str] = []

    def never_answers(visit: Visit) -> None:
        visit.request()
        asked.set()
        visit.until_gone()

    async def wait() -> None:
        await getattr(job, look)(timeout=0.8 * PATIENCE)
        told.append(job.status)

    async def interrupted() -> None:
        left.append(asyncio.create_task(job.result()))
        while not asked.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0)
        if waits == "already":
            other.start()
            while not poller_of(job)._news._waiting:  # noqa: ASYNC110 - another loop does
                await asyncio.sleep(0)
        raise KeyboardInterrupt

    left: list[asyncio.Task[object]] = []
    other = threading.Thread(target=lambda: asyncio.run(wait()))
    loop = asyncio.new_event_loop()
    with raw_server(never_answers, ok(DONE)) as server:
        client = new_client(api_key="k", base_url=server.base)
        job = client.job("job-1")
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(interrupted())
        if waits == "afterwards":
            other.start()
        other.join()
        # What becomes of the poll that was left is no news of the job.
        left[0].cancel()
        loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(client.aclose())
        loop.close()
    assert told == ["done"]
    assert job.status == "done"

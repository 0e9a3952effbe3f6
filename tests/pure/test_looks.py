"""Looks at a job in virtual time: `refresh`, and what a download asks when its link has died."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

import anyio
import pytest

from grok_video import (
    AsyncClient,
    AsyncJob,
    ConfigurationError,
    JobTimeout,
    LinkExpired,
    ServerError,
)
from grok_video._transports._base import StreamedAnswer
from tests.pure.provider import Provider, answer, run

BUSY = {"error": {"message": "busy"}}


async def asked_to_wait(client: AsyncClient, provider: Provider, seconds: int) -> AsyncJob:
    """Return a job of which the server has just said that it wants no poll for so long."""
    job = await client.submit("drift")
    provider.failing = [answer(503, BUSY, **{"retry-after": str(seconds)})]
    with pytest.raises(ServerError):
        await job.refresh()
    return job


def test_a_look_waits_for_as_long_as_the_server_asked_of_this_job() -> None:
    provider = Provider(latency=0.1)

    async def main(client: AsyncClient) -> None:
        job = await asked_to_wait(client, provider, 300)
        heard_at = anyio.current_time()
        another = client.job("another")
        await another.refresh()
        assert anyio.current_time() - heard_at < 1  # nothing was said of that one
        await job.refresh()
        _, second = provider.polls[job.request_id]
        assert second - heard_at == pytest.approx(300)

    run(main, provider)


def test_a_look_ends_at_its_timeout_where_the_server_asked_for_longer() -> None:
    provider = Provider(latency=0.1)

    async def main(client: AsyncClient) -> None:
        job = await asked_to_wait(client, provider, 300)
        began = anyio.current_time()
        with pytest.raises(JobTimeout, match="after 20 s"):
            await job.refresh(timeout=20)
        assert anyio.current_time() - began == pytest.approx(20)
        assert len(provider.polls[job.request_id]) == 1

    run(main, provider)


def test_looks_that_waited_together_go_one_after_the_other() -> None:
    provider = Provider(latency=7)

    async def main(client: AsyncClient) -> None:
        job = await asked_to_wait(client, provider, 300)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(job.refresh)
        _, *later = provider.polls[job.request_id]
        assert [round(at - later[0]) for at in later] == [0, 7, 14]

    run(main, provider)


def test_a_look_that_waits_for_the_server_hears_that_the_client_is_closed() -> None:
    provider = Provider(latency=0.1)

    async def main(client: AsyncClient) -> None:
        job = await asked_to_wait(client, provider, 300)
        began = anyio.current_time()

        async def look() -> None:
            with pytest.raises(ConfigurationError, match="closed"):
                await job.refresh()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            await anyio.sleep(5)
            await client.aclose()
        assert anyio.current_time() - began == pytest.approx(5)
        assert len(provider.polls[job.request_id]) == 1

    run(main, provider)


def test_a_download_whose_link_died_asks_for_another_no_earlier_than_the_server_wants() -> None:
    class Gone:
        status = 404
        headers: Mapping[str, str] = MappingProxyType({})

        async def chunks(self) -> AsyncIterator[bytes]:
            yield b""

    class Dead(Provider):
        @contextlib.asynccontextmanager
        async def stream(
            self, url: str, headers: Mapping[str, str], *, public_only: bool
        ) -> AsyncIterator[StreamedAnswer]:
            yield Gone()

    provider = Dead(seconds=0, latency=0.1)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        await job.refresh()
        provider.failing = [answer(503, BUSY, **{"retry-after": "300"})]
        with pytest.raises(ServerError):
            await job.refresh()
        heard_at = anyio.current_time()
        with pytest.raises(LinkExpired):
            assert not [piece async for piece in job.stream()]
        later = [at for at in provider.polls[job.request_id] if at > heard_at]
        assert later[0] - heard_at == pytest.approx(300)

    run(main, provider)

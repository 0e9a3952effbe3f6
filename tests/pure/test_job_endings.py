"""What a job's end is told as, whatever a provider says of it."""

from __future__ import annotations

import contextlib
import gc
import pickle
import weakref
from collections.abc import AsyncIterator, Mapping

import anyio
import pytest

from grok_video import (
    AsyncClient,
    AuthenticationError,
    DownloadError,
    InvalidRequest,
    JobFailed,
    JobTimeout,
    ModerationRefused,
    PermissionDenied,
)
from grok_video._transports._base import Answer, StreamedAnswer
from tests.pure.provider import LINK, PENDING, Provider, answer, run


def test_a_job_that_changes_its_mind_about_its_end_is_told_as_it_is() -> None:
    """Gateways do: it failed, goes on, and is done."""
    provider = Provider(seconds=0)

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        provider.failing = [answer(200, {"status": "failed", "error": {"message": "x"}}), PENDING]
        assert [(await job.refresh()).status for _ in range(3)] == ["failed", "queued", "done"]
        assert (await job).url == LINK

    run(main, provider)


def test_a_job_done_without_a_link_is_good_only_where_the_provider_was_to_deliver_it() -> None:
    class Delivering(Provider):
        async def get(self, url: str) -> Answer:
            return answer(200, {"status": "done", "video": {"url": None}})

    async def main(client: AsyncClient) -> None:
        target = {"upload_url": "https://put.example/x"}
        job = await client.submit("drift", output=target)
        assert (await job).url is None
        # A handle from an id knows what its create asked for only if it is told, else says both.
        assert (await client.job(job.request_id, uploaded=True)).url is None
        with pytest.raises(JobFailed, match="the video was delivered there") as caught:
            await client.job(job.request_id)
        assert "pass uploaded=True" in str(caught.value)
        assert "costs again" not in str(caught.value)
        with pytest.raises(JobFailed, match="may be billed as any video") as caught:
            await (await client.submit("drift", output={}))
        assert "pass uploaded=True" not in str(caught.value)

    run(main, Delivering())


def test_who_waits_for_a_delivery_in_vain_is_told_the_handle_that_knows_of_it() -> None:
    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift", output={"upload_url": "https://put.example/x"})
        name = job.request_id
        for waiting in (job, client.job(name, uploaded=True)):
            with pytest.raises(JobTimeout) as caught:
                await waiting.result(timeout=30)
            assert caught.value.resume == (
                f"Resume with client.job({name!r}, uploaded=True) or: "
                f"grok-video wait {name} --uploaded"
            )
            assert str(caught.value).endswith(caught.value.resume)
            assert pickle.loads(pickle.dumps(caught.value)).resume == caught.value.resume
        with pytest.raises(InvalidRequest, match="uploaded must be"):
            client.job(name, uploaded="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # on purpose

    run(main, Provider(seconds=600))


def test_nothing_is_paid_for_a_file_that_the_provider_is_to_deliver_elsewhere() -> None:
    provider = Provider()

    async def main(client: AsyncClient) -> None:
        with pytest.raises(InvalidRequest, match=r"save_to must be left out where output"):
            await client.generate(
                "drift", output={"upload_url": "https://put.example/x"}, save_to="drift.mp4"
            )

    run(main, provider)
    assert provider.creates == []


def test_an_error_shows_no_signature_of_a_link_that_came_with_it() -> None:
    link = "https://files.test/a.mp4?X-Amz-Signature=SECRET"

    class Moderating(Provider):
        async def get(self, url: str) -> Answer:
            video = {"url": link, "respect_moderation": False}
            return answer(200, {"data": {"status": "done", "video": video, "more": [{"at": link}]}})

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        with pytest.raises(ModerationRefused) as caught:
            await job
        snapshot = caught.value.snapshot
        assert snapshot == job.snapshot
        assert snapshot.raw["data"]["more"] == [{"at": "https://files.test/a.mp4?..."}]
        assert b"SECRET" not in pickle.dumps(caught.value)
        assert "SECRET" in str(job.snapshot.raw), "what was told by a poll stays as it came"

    run(main, Moderating())


def test_a_transport_refuses_a_private_host_as_it_is_documented() -> None:
    class Refusing(Provider):
        @contextlib.asynccontextmanager
        async def stream(
            self, url: str, headers: Mapping[str, str], *, public_only: bool
        ) -> AsyncIterator[StreamedAnswer]:
            raise PermissionError("files.test is private")
            yield

    async def main(client: AsyncClient) -> None:
        job = await client.submit("drift")
        with pytest.raises(DownloadError, match="leads into a private network"):
            async for _ in job.stream():
                pass

    run(main, Refusing(seconds=0))


def test_a_poll_that_is_refused_is_told_to_all_who_waited_for_it() -> None:
    provider = Provider(seconds=1e9)
    refusal = answer(401, {"error": {"message": "Invalid token"}})
    provider.failing = [refusal] * 100
    caught: list[tuple[float, AuthenticationError]] = []

    async def main(client: AsyncClient) -> None:
        job = client.job("job-0")
        began = anyio.current_time()

        async def wait(after: float) -> None:
            await anyio.sleep(after)
            with pytest.raises(AuthenticationError, match=r"Resume with client\.job") as info:
                await job
            caught.append((anyio.current_time() - began, info.value))

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(wait, number / 100)
        assert len(provider.polls["job-0"]) == 1
        with pytest.raises(AuthenticationError):
            await job
        # Who comes later asks anew.
        assert len(provider.polls["job-0"]) == 2

    run(main, provider)
    assert {at for at, _ in caught} == {provider.latency}
    errors = [error for _, error in caught]
    assert len({id(error) for error in errors}) == 40
    assert {(error.request_id, str(error), error.status) for error in errors} == {
        ("job-0", str(errors[0]), 401)
    }
    assert str(errors[0]).count("Resume") == 1


def test_as_completed_hears_of_a_refusal_that_somebody_else_asked_for() -> None:
    provider = Provider(seconds=1e9)
    provider.failing = [answer(403, {"error": {"message": "not yours"}})] * 2

    async def main(client: AsyncClient) -> None:
        job = client.job("job-0")

        async def wait() -> None:
            with pytest.raises(PermissionDenied):
                await job

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(0.1)
            assert [one async for one in client.as_completed([job])] == [job]
        assert len(provider.polls["job-0"]) == 1

    run(main, provider)


def test_what_a_refusal_was_raised_through_is_not_kept_by_its_job() -> None:
    class Held:
        pass

    provider = Provider(seconds=1e9)
    provider.failing = [answer(401, {"error": {"message": "Invalid token"}})] * 2

    async def main(client: AsyncClient) -> None:
        job = client.job("job-0")

        async def wait() -> weakref.ref[Held]:
            held = Held()
            with contextlib.suppress(AuthenticationError):
                await job
            return weakref.ref(held)

        found: list[weakref.ref[Held]] = []

        async def keep() -> None:
            found.append(await wait())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep)
            tasks.start_soon(keep)
        gc.collect()
        assert [ref() for ref in found] == [None, None]

    run(main, provider)

"""Batches in virtual time: while the server wants no polls, while a manifest has nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio

from grok_video import AsyncClient, JobTimeout, OutcomeState, Polling, VideoRequest

from .test_waiting import Provider, answer, run

LINES = [(f"key-{number}", VideoRequest(f"drift {number}")) for number in range(20)]
QUIET = {"error": {"message": "slow down"}}


def batch_against(provider: Provider, **words: Any) -> Any:
    """Run a batch of twenty, two at a time; return its outcomes and its summary."""
    found: list[Any] = []

    async def main(client: AsyncClient) -> None:
        async with client.batch(LINES, max_in_flight=2, **words) as batch:
            found.append([outcome async for outcome in batch])
        found.append(batch.summary)

    run(main, provider, polling=Polling.fixed(5))
    return found


def test_no_create_is_sent_that_could_not_be_followed_within_its_timeout() -> None:
    provider = Provider(seconds=60)
    provider.failing = [answer(429, QUIET, **{"retry-after": "700"})]
    outcomes, _ = batch_against(provider, timeout=600)
    blocked_at = min(polls[0] for polls in provider.polls.values() if polls) + provider.latency
    assert not [at for at in provider.creates if blocked_at < at < blocked_at + 160 - 1e-6]
    pending = [outcome for outcome in outcomes if outcome.state is OutcomeState.PENDING]
    assert len(pending) == 2
    for outcome in pending:
        assert isinstance(outcome.error, JobTimeout)
        assert "asks for no poll in the next 700 s" in str(outcome.error)
    assert len([one for one in outcomes if one.state is OutcomeState.DONE]) == 18
    assert len(provider.creates) == 20


def test_what_one_job_is_told_holds_back_no_other() -> None:
    provider = Provider(seconds=60)
    provider.failing = [answer(503, QUIET, **{"retry-after": "80000"})]
    outcomes, summary = batch_against(provider, timeout=600)
    assert len([one for one in outcomes if one.state is OutcomeState.DONE]) == 19
    assert len([one for one in outcomes if one.state is OutcomeState.PENDING]) == 1
    assert summary.stopped is None


def test_a_batch_ends_where_polls_are_not_wanted_for_longer_than_patience() -> None:
    provider = Provider(seconds=60)
    provider.failing = [answer(429, QUIET, **{"retry-after": "80000"})]
    outcomes, summary = batch_against(provider, timeout=600)
    assert len(provider.creates) == 2
    assert len([one for one in outcomes if one.state is OutcomeState.LEFT]) == 18
    assert "no poll in the next" in summary.stopped
    assert "could not be followed within its timeout (600 s)" in summary.stopped


def test_a_batch_without_an_end_to_its_waits_follows_every_job() -> None:
    provider = Provider(seconds=60)
    provider.failing = [answer(429, QUIET, **{"retry-after": "700"})]
    outcomes, _ = batch_against(provider, timeout=None)
    assert {outcome.state for outcome in outcomes} == {OutcomeState.DONE}


def test_a_batch_that_is_stopped_ends_though_creates_are_held_back() -> None:
    provider = Provider(seconds=60)
    provider.failing = [answer(429, QUIET, **{"retry-after": "700"})]

    async def main(client: AsyncClient) -> None:
        async with client.batch(LINES, max_in_flight=2) as batch:
            first = await anext(batch)
            assert first.state is OutcomeState.PENDING
            batch.stop()
            began = anyio.current_time()
            rest = [outcome async for outcome in batch]
            # What is asked just then is answered (in half a second); 700 s would have to pass.
            assert anyio.current_time() - began < 5
        assert len(rest) == 19
        assert len(provider.creates) == 2

    run(main, provider, polling=Polling.fixed(5))


def test_a_batch_that_is_stopped_does_not_wait_for_a_manifest_that_is_silent() -> None:
    """A queue may be silent for hours; what comes in a moment is told as left."""
    provider = Provider(seconds=60)

    async def main(client: AsyncClient) -> None:
        is_stopped = anyio.Event()

        async def slow_and_then_silent() -> AsyncIterator[tuple[str, VideoRequest]]:
            yield LINES[0]
            await is_stopped.wait()
            for line in LINES[1:4]:
                await anyio.sleep(0.5)
                yield line
            await anyio.sleep_forever()

        with anyio.fail_after(1000):
            async with client.batch(slow_and_then_silent(), max_in_flight=2) as batch:
                first = await anext(batch)
                assert first.state is OutcomeState.DONE
                batch.stop()
                is_stopped.set()
                began = anyio.current_time()
                rest = [outcome.state async for outcome in batch]
                assert rest == [OutcomeState.LEFT] * 3
                assert anyio.current_time() - began < 5
        assert batch.summary.stopped == "stop() was called"

    run(main, provider, polling=Polling.fixed(5))

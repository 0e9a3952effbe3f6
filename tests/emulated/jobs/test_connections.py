"""Waiting for a connection or a place is bounded, and keeps no create waiting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    APITimeoutError,
    AsyncClient,
    CreateOutcomeUnknown,
    DownloadError,
    JobTimeout,
    Limits,
)
from grok_video.emulator import Emulator, faults


async def test_waiting_for_a_connection_is_bounded_by_the_wait_of_the_caller(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    """One connection, a silent server: those who queue for it end at their own deadline."""
    grok_emulator.script("poll", [faults.Stall(5.0)] * 4)
    late: list[float] = []

    async def one(client: AsyncClient, name: str) -> None:
        began = anyio.current_time()
        with pytest.raises(JobTimeout):
            await client.job(name).result(timeout=0.4)
        late.append(anyio.current_time() - began - 0.4)

    limits = Limits(connections=1, polls_per_second=None)
    client = new_client(grok_emulator, limits=limits, timeout=0.3)
    async with client, anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(one, client, f"job-{number}")
    assert max(late) < 0.25, late


async def test_waiting_for_a_connection_is_not_waiting_for_the_server(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    """Two answers of 0.3 s each, one after the other, and 0.5 s for either."""
    grok_emulator.script("poll", [faults.Stall(0.3, resume=True)] * 2)
    limits = Limits(connections=1, polls_per_second=None)
    async with new_client(grok_emulator, limits=limits, timeout=0.5) as client:
        jobs = [await client.submit("drift"), await client.submit("drift")]
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(job.refresh)
        assert anyio.current_time() - began >= 0.6
    grok_emulator.assert_faults_consumed()


async def test_polls_in_flight_keep_no_create_waiting(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("poll", [faults.Stall(60)])
    limits = Limits(connections=1, polls_per_second=None)
    client = new_client(grok_emulator, limits=limits)
    async with client, anyio.create_task_group() as tasks:
        tasks.start_soon((await client.submit("first")).refresh)
        while not grok_emulator.faults_consumed:
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(5):
            await client.submit("second")
        tasks.cancel_scope.cancel()


async def test_a_create_that_waits_for_a_connection_is_not_sent_after_its_deadline(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Stall(0.6, resume=True)])
    seen: list[str] = []

    async def one(client: AsyncClient) -> None:
        try:
            await client.generate("drift", duration=1, timeout=0.3)
        except (APITimeoutError, CreateOutcomeUnknown, JobTimeout) as error:
            seen.append(type(error).__name__)

    limits = Limits(connections=1, polls_per_second=None)
    client = new_client(grok_emulator, limits=limits)
    async with client, anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(one, client)
    assert seen.count("APITimeoutError") == 3, seen
    assert grok_emulator.accepted == 1


@pytest.mark.parametrize("call", ["download", "generate"])
async def test_waiting_for_a_download_slot_is_bounded_by_the_wait_of_the_caller(
    call: str, new_client: Callable[..., AsyncClient], grok_emulator: Emulator, tmp_path: Path
) -> None:
    """One download at a time, and the first stands still."""
    grok_emulator.script("download", [faults.Stall(60)])
    client = new_client(grok_emulator, limits=Limits(concurrent_downloads=1))
    async with client, anyio.create_task_group() as tasks:
        first, second = [await client.submit("drift", duration=1) for _ in range(2)]
        await first
        await second
        tasks.start_soon(first.download, tmp_path / "first.mp4")
        while not grok_emulator.faults_consumed:
            await anyio.lowlevel.checkpoint()
        place = tmp_path / "second.mp4"
        with anyio.fail_after(10), pytest.raises(DownloadError, match="was not fetched: no other"):
            if call == "download":
                await second.download(place, timeout=0.2)
            else:
                await client.generate("drift", duration=1, save_to=place, timeout=1.0)
        tasks.cancel_scope.cancel()


async def test_a_cancelled_create_that_waits_for_a_connection_ends_at_once_and_sends_nothing(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Stall(0.5, resume=True)])
    limits = Limits(connections=1, polls_per_second=None)
    client = new_client(grok_emulator, limits=limits)
    async with client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.submit, "first")
        while not grok_emulator.faults_consumed:
            await anyio.lowlevel.checkpoint()
        began = anyio.current_time()
        with anyio.move_on_after(0.05):
            await client.submit("second")
        assert anyio.current_time() - began < 0.4
    assert grok_emulator.accepted == 1

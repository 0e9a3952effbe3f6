"""What type checkers see of the asynchronous face; checked by mypy and pyright, never run.

A `type: ignore` here is an assertion too: both checkers are told to report one that is not needed.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import assert_type

import PIL.Image

from grok_video import (
    AspectRatio,
    AsyncClient,
    AsyncJob,
    BatchSource,
    BatchSummary,
    Client,
    Image,
    ImageInput,
    Job,
    JobStatus,
    JobTimeout,
    Limits,
    Polling,
    Resolution,
    Retry,
    Snapshot,
    Transport,
    Video,
    VideoRequest,
    frame_size,
    list_price,
)


async def face(client: AsyncClient) -> None:
    job = await client.submit("drift", Path("cat.jpg"), duration=6, resolution="720p")
    assert_type(job, AsyncJob)
    assert_type(await client.submit(VideoRequest("drift")), AsyncJob)
    assert_type(await job, Video)
    assert_type(await job.result(timeout=None), Video)
    assert_type(await job.refresh(), Snapshot)
    assert_type(await job.download(Path("a.mp4"), overwrite=True), Video)
    assert_type(job.request_id, str)
    assert_type(job.status, JobStatus | None)
    assert_type(job.progress, float | None)
    assert_type(job.snapshot, Snapshot | None)
    async for snapshot in job.updates():
        assert_type(snapshot, Snapshot)
    async for chunk in job.stream():
        assert_type(chunk, bytes)
    async with contextlib.aclosing(job.stream()) as stream:
        async for chunk in stream:
            assert_type(chunk, bytes)
    await client.submit("drift", bytearray(b"\xff\xd8\xff"))
    await client.submit("drift", memoryview(b"\xff\xd8\xff"))
    Image.from_bytes(bytearray(b"\xff\xd8\xff"))
    assert_type(client.as_completed([job]), AsyncIterator[AsyncJob])
    video = await client.generate("drift", save_to="a.mp4", timeout=60)
    assert_type(video.url, str | None)
    assert_type(video.cost_usd, Decimal | None)
    assert_type(video.path, Path | None)
    async with client as same:
        assert_type(same, AsyncClient)


async def hooks(client: AsyncClient) -> None:
    def plain(job: AsyncJob) -> None:
        print(job.request_id)

    async def later(job: AsyncJob) -> None:
        print(job.request_id)

    await client.submit("drift", on_submitted=plain)
    await client.generate("drift", on_submitted=later)


def images() -> None:
    for source in (
        VideoRequest("drift", "https://host/a.jpg"),
        VideoRequest("drift", Path("a.jpg")),
        VideoRequest("drift", b"\xff\xd8\xff"),
        VideoRequest("drift", io.BytesIO()),
        VideoRequest("drift", PIL.Image.new("RGB", (2, 2))),
        VideoRequest("drift", Image.from_path("a.jpg")),
    ):
        assert_type(source.image, Image | None)


def values(error: JobTimeout) -> None:
    assert_type(frame_size("720p", "16:9"), tuple[int, int])
    assert_type(list_price(VideoRequest("drift")), Decimal)
    assert_type(error.request_id, str)
    assert_type(error.snapshot, Snapshot | None)
    assert_type(error.resume, str)
    AsyncClient("key", retry=Retry(attempts=3), polling=Polling.fixed(5), limits=Limits())


async def words(
    client: AsyncClient,
    picture: ImageInput,
    ratio: AspectRatio,
    resolution: Resolution,
    transport: Transport,
    source: BatchSource,
) -> None:
    """Whoever wraps the client can say what it takes."""
    await client.submit("drift", picture, aspect_ratio=ratio, resolution=resolution)
    assert_type(await client.run_batch(source), BatchSummary)
    AsyncClient("key", transport=transport)
    AsyncClient("key", transport="httpx")


async def mistakes(client: AsyncClient, snapshot: Snapshot) -> None:
    VideoRequest("drift", resolution="4k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    VideoRequest("drift", aspect_ratio="21:9")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    VideoRequest("drift", size="1280x720")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.submit("drift", duration="8")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.submit(VideoRequest("drift"), duration=8)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    AsyncClient("key", transport="requests")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    snapshot.status = JobStatus.DONE  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def blocking_face(client: Client) -> None:
    with contextlib.closing(client.job("id").stream()) as stream:
        for chunk in stream:
            assert_type(chunk, bytes)
    assert_type(client.submit("drift", memoryview(b"\xff\xd8\xff")), Job)

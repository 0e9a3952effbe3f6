"""How a user of each peer runs a job and sends a local picture, through the peer's public face.

Each way is an asynchronous context manager that opens a client of its own and yields two
coroutine functions: `job()` leads one job through a create, its polls and its download, and
`send(photograph)` creates one with a local picture. Defaults stay the peer's, but for three
things: where the server is, the seconds between polls, and what `note` says. Where a peer has no
helper for the download, its user takes aiohttp here: the cheapest that a user could take.

Nothing is imported from a peer before its way is opened, so that each can live in a process of its
own and be missing.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

import aiohttp

from benchmarks import jobs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks._peerserver import Place

PROMPT = "drift"
PICTURE = "https://example.com/a.jpg"
BY_HAND = "no helper for the file: aiohttp, by hand"


class Way(NamedTuple):
    """One way to run a job; `package` is its distribution, `needs` what else it wants installed."""

    open: Callable[[Place, float], contextlib.AbstractAsyncContextManager]
    package: str
    module: str
    note: str
    needs: str = ""

    def version(self) -> str | None:
        """Return the installed version, None where something is missing."""
        try:
            if self.needs:
                metadata.version(self.needs)
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None


def as_data_uri(photograph: Path) -> str:
    content = base64.b64encode(photograph.read_bytes()).decode()
    return f"data:image/jpeg;base64,{content}"


async def fetch(session: aiohttp.ClientSession, url: str) -> int:
    """Return the size of a file that was read by hand, as `jobs.raw_job` does."""
    size = 0
    async with session.get(url) as answer:
        async for chunk in answer.content.iter_any():
            size += len(chunk)
    return size


def by_hand() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=jobs.POOL))


@contextlib.asynccontextmanager
async def raw(place: Place, interval: float):
    base = f"{place.url}/grok/v1"
    async with by_hand() as session:

        async def job() -> int:
            await jobs.raw_job(session, base, interval)
            return len(jobs.FILE)

        async def send(photograph: Path) -> None:
            body = {"model": "m", "prompt": PROMPT, "image": {"url": as_data_uri(photograph)}}
            async with session.post(f"{base}/videos/generations", json=body) as answer:
                await answer.json()

        yield job, send


@contextlib.asynccontextmanager
async def grok_video(place: Place, interval: float):
    from grok_video import AsyncClient, Limits, Polling

    limits = Limits(polls_per_second=None, connections=jobs.POOL, concurrent_downloads=jobs.POOL)
    client = AsyncClient(
        "key", base_url=f"{place.url}/grok/v1", polling=Polling.fixed(interval), limits=limits
    )
    async with client:

        async def job() -> int:
            one = await client.submit(PROMPT, image=PICTURE)
            size = 0
            async for chunk in one.stream():
                size += len(chunk)
            return size

        async def send(photograph: Path) -> None:
            await client.submit(PROMPT, image=photograph)

        yield job, send


@contextlib.asynccontextmanager
async def xai(place: Place, interval: float):
    from xai_sdk import AsyncClient

    words = {"api_host": f"127.0.0.1:{place.grpc}", "use_insecure_channel": True}
    pause = dt.timedelta(seconds=interval)
    async with AsyncClient("key", **words) as client, by_hand() as session:

        async def job() -> int:
            video = await client.video.generate(
                PROMPT, "grok-imagine-video", image_url=PICTURE, interval=pause
            )
            return await fetch(session, video.url)

        async def send(photograph: Path) -> None:
            await client.video.start(
                PROMPT, "grok-imagine-video", image_url=as_data_uri(photograph)
            )

        yield job, send


@contextlib.asynccontextmanager
async def openai(
    place: Place, interval: float, http_client: object = None, *, as_file: bool = False
):
    from openai import AsyncOpenAI
    from openai.types import Video

    async with AsyncOpenAI(
        api_key="key", base_url=f"{place.url}/v1", http_client=http_client
    ) as client:

        async def job() -> int:
            # `input_reference={"image_url": ...}` is in its types and refused by its code (3.57).
            words = {"input_reference": {"image_url": PICTURE}}
            video = await client.videos.create(prompt=PROMPT, extra_body=words)
            await client.videos.poll(video.id, poll_interval_ms=round(interval * 1000))
            return len((await client.videos.download_content(video.id)).content)

        async def send(photograph: Path) -> None:
            reference = {"image_url": as_data_uri(photograph)}
            body = {"prompt": PROMPT, "input_reference": reference}
            await client.post("/videos", cast_to=Video, body=body)

        async def send_file(photograph: Path) -> None:
            await client.videos.create(prompt=PROMPT, input_reference=photograph)

        yield job, send_file if as_file else send


@contextlib.asynccontextmanager
async def openai_on_aiohttp(place: Place, interval: float):
    from openai import DefaultAioHttpClient

    async with openai(place, interval, DefaultAioHttpClient()) as doors:
        yield doors


@contextlib.asynccontextmanager
async def openai_as_file(place: Place, interval: float):
    async with openai(place, interval, as_file=True) as doors:
        yield doors


@contextlib.asynccontextmanager
async def google(place: Place, interval: float):
    import asyncio

    from google import genai
    from google.genai import types

    client = genai.Client(
        vertexai=True, api_key="key", http_options=types.HttpOptions(base_url=place.url)
    )
    model = "veo-3.0-generate-001"

    async def create(image: types.Image) -> types.GenerateVideosOperation:
        source = types.GenerateVideosSource(prompt=PROMPT, image=image)
        return await client.aio.models.generate_videos(model=model, source=source)

    async with client.aio, by_hand() as session:

        async def job() -> int:
            picture = types.Image(gcs_uri="gs://bucket/a.jpg", mime_type="image/jpeg")
            operation = await create(picture)
            while not operation.done:
                await asyncio.sleep(interval)
                operation = await client.aio.operations.get(operation)
            return await fetch(session, operation.result.generated_videos[0].video.uri)

        async def send(photograph: Path) -> None:
            await create(types.Image.from_file(location=str(photograph)))

        yield job, send


@contextlib.asynccontextmanager
async def replicate(place: Place, interval: float):
    from replicate.client import Client
    from replicate.helpers import FileOutput

    client = Client("key", base_url=place.url)
    client.poll_interval = interval

    async def create(image: object):
        return await client.models.predictions.async_create(
            ("x", "y"), {"prompt": PROMPT, "image": image}, file_encoding_strategy="base64"
        )

    async def job() -> int:
        prediction = await create(PICTURE)
        await prediction.async_wait()
        return len(await FileOutput(prediction.output, client).aread())

    async def send(photograph: Path) -> None:
        await create(photograph)

    try:
        yield job, send
    finally:
        await client._async_client.aclose()  # noqa: SLF001 - it has no door for this


@contextlib.asynccontextmanager
async def fal(place: Place, interval: float):
    import fal_client
    from fal_client import client as inside

    inside.QUEUE_URL_FORMAT = f"{place.url}/"  # its own is always https
    client = fal_client.AsyncClient(key="key")

    async def create(image: str):
        return await client.submit("fal/veo", {"prompt": PROMPT, "image_url": image})

    async with by_hand() as session:

        async def job() -> int:
            result = await (await create(PICTURE)).get(interval=interval)
            return await fetch(session, result["video"]["url"])

        async def send(photograph: Path) -> None:
            await create(fal_client.encode_file(photograph))

        yield job, send
    await (await client._client).aclose()  # noqa: SLF001 - it has no door for this


@contextlib.asynccontextmanager
async def runway(place: Place, interval: float):
    from runwayml import AsyncRunwayML
    from runwayml.lib import polling

    polling.POLL_TIME, polling.POLL_JITTER = interval, 0

    async with (
        AsyncRunwayML(api_key="key", base_url=place.url) as client,
        by_hand() as session,
    ):

        async def create(image: str):
            return await client.image_to_video.create(
                model="gen4_turbo", prompt_image=image, prompt_text=PROMPT, ratio="1280:720"
            )

        async def job() -> int:
            task = await (await create(PICTURE)).wait_for_task_output()
            return await fetch(session, task.output[0])

        async def send(photograph: Path) -> None:
            await create(as_data_uri(photograph))

        yield job, send


OURS = "grok_video"
RAW = "raw aiohttp"
XAI = "xai-sdk"
#: The cheap ones first; `raw aiohttp` is what everything is compared with.
WAYS = {
    RAW: Way(raw, "aiohttp", "aiohttp", "a loop by hand, jobs.raw_job"),
    OURS: Way(grok_video, "grok-video", "grok_video", "submit, then stream"),
    XAI: Way(xai, "xai-sdk", "xai_sdk", f"gRPC, video.generate; {BY_HAND}"),
    "openai on aiohttp": Way(
        openai_on_aiohttp, "openai", "openai", "DefaultAioHttpClient; else as openai"
    ),
    "google-genai": Way(
        google,
        "google-genai",
        "google.genai",
        f"Vertex AI by key, on aiohttp; no helper for the wait: a loop by hand; {BY_HAND}",
    ),
    "replicate": Way(
        replicate, "replicate", "replicate", "predictions.async_create, async_wait, FileOutput"
    ),
    "fal-client": Way(
        fal, "fal-client", "fal_client", f"submit, get; its result is the last poll; {BY_HAND}"
    ),
    "runwayml": Way(runway, "runwayml", "runwayml", f"wait_for_task_output; {BY_HAND}"),
    "openai": Way(openai, "openai", "openai", "videos.create, poll, download_content"),
}
#: Sends the picture as it is, in a form: no base64, and nothing that xAI or CometAPI would take.
AS_FILE = "openai, a form"
WAYS[AS_FILE] = Way(openai_as_file, "openai", "openai", "videos.create(input_reference=path)")
PEERS = [name for name in WAYS if name not in (RAW, OURS, AS_FILE)]


def missing() -> list[str]:
    return [name for name in PEERS if WAYS[name].version() is None]

"""From a photograph to an MP4, step by step, through the embedded emulator: `nox -s demo`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import av

from grok_video import AsyncClient, Polling
from grok_video.emulator import Emulator

HERE = Path(__file__).parent
PHOTO = HERE / "photographs" / "rocket.jpg"
RESULT = HERE.parent / "out" / "rocket.mp4"


async def main() -> None:
    RESULT.parent.mkdir(exist_ok=True)
    steps: list[tuple[str, float]] = []
    began = time.perf_counter()

    def done(step: str) -> None:
        nonlocal began
        now = time.perf_counter()
        steps.append((step, now - began))
        began = now

    # A twentieth of the real time: a job of about a minute takes a few seconds.
    async with Emulator(time_scale=0.05) as emulator:
        done("start the emulator")
        async with AsyncClient(
            base_url=emulator.base_url, api_key=emulator.api_key, polling=Polling.fixed(0.25)
        ) as client:
            job = await client.submit(
                "The rocket rises slowly while the camera pushes in.",
                image=PHOTO,
                duration=4,
                resolution="720p",
                aspect_ratio="16:9",
            )
            done("submit")
            async for snapshot in job.updates():
                print(f"  {snapshot.status.value:<10} {snapshot.progress or 0:3.0f} %")
            done("wait")
            video = await job.download(RESULT, overwrite=True, sha256=True)
            done("download")

    with av.open(str(video.path)) as file:
        stream = file.streams.video[0]
        length = float(stream.frames / stream.average_rate)
        print(f"path    {video.path}")
        print(f"codec   {stream.codec_context.name} ({stream.codec_context.pix_fmt})")
        print(f"frame   {stream.width}x{stream.height}")
        print(f"length  {length:.2f} s, {stream.frames} frames")
    print(f"size    {video.size} bytes, sha256 {video.sha256}")
    print(f"cost    {video.cost_usd:.4f} USD at the provider, had it been real")
    for step, seconds in steps:
        print(f"took    {seconds:6.2f} s to {step}")


if __name__ == "__main__":
    asyncio.run(main())

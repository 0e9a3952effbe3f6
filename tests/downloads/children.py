"""A download in a process of its own, which may be killed or held short of disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .fileserver import FileServer
from .harness import ID

CHILD = """
import asyncio, random, resource, signal, sys
from pathlib import Path
from grok_video import Retry, DestinationError, _download
from grok_video._models import Video
from grok_video._policies import Deadline
from grok_video._redaction import Secret
from grok_video._transports._aiohttp import AiohttpTransport
from grok_video._transports._base import TransportConfig
from grok_video._urls import Origin

url, path, limit, job = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))

async def main():
    transport = AiohttpTransport(TransportConfig(url, Secret("k"), 10.0, None, None, {}))
    try:
        video = await _download.save(
            lambda: transport, None, Video(job, url), path, overwrite=False, sha256=True,
            deadline=Deadline.after(asyncio.get_running_loop().time(), 30.0), retry=Retry(),
            api_origin=Origin.of(url), random=random.Random(1),
            on_bytes=lambda here, total: print(here, flush=True),
        )
        print("whole", video.sha256)
    except DestinationError as error:
        print("refused", error.bytes_kept, error)
    await transport.aclose()

asyncio.run(main())
"""


def child(server: FileServer, path: Path, limit: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD, server.link(), str(path), str(limit), ID],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )

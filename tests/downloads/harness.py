"""`save` and `stream` with everything but the question filled in, and what all must hold."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define, field

from grok_video import DownloadError, JobExpired, Retry, _download
from grok_video._models import Video
from grok_video._policies import Deadline
from grok_video._redaction import Secret
from grok_video._transports._base import Transport, TransportConfig
from grok_video._transports._loops import current_time
from grok_video._urls import Origin

from .fileserver import FileServer

if TYPE_CHECKING:
    from collections.abc import Callable

ID = "4b2cd27e-0000-4000-8000-000000000000"
KEY = "sk-canary-0123456789"
EAGER = Retry(base=0.001, cap=0.01)
PUBLIC = Origin.of("https://api.cometapi.com/grok/v1")


@define
class Job:
    """The job as a download sees it."""

    server: FileServer
    links: list = field(factory=list)
    failure: Exception | None = None
    polls: int = 0
    request_id: str = ID

    async def fresh_video(self) -> Video:
        self.polls += 1
        if self.failure is not None:
            raise self.failure
        return Video(ID, self.links.pop(0) if self.links else self.server.link())


@define
class Downloads:
    """`save` and `stream` with everything but the question filled in."""

    transport: Transport
    server: FileServer
    job: Job

    def _words(self, timeout: float | None, retry: Retry, api: Origin) -> dict[str, Any]:
        return {
            "deadline": Deadline.after(current_time(), timeout),
            "retry": retry,
            "api_origin": api,
            "random": random.Random(1),
        }

    async def save(
        self,
        destination: str | os.PathLike[str],
        *,
        url: str | None = None,
        overwrite: bool = False,
        sha256: bool = True,
        timeout: float | None = 30.0,
        retry: Retry = EAGER,
        api: Origin | None = None,
        request_id: str = ID,
        on_bytes: Callable[[int, int | None], None] | None = None,
    ) -> Video:
        return await _download.save(
            lambda: self.transport,
            self.job,
            Video(request_id, url or self.server.link()),
            destination,
            overwrite=overwrite,
            sha256=sha256,
            on_bytes=on_bytes,
            **self._words(timeout, retry, api or Origin.of(self.server.origin)),
        )

    def stream(self) -> Any:
        words = self._words(None, EAGER, Origin.of(self.server.origin))
        del words["deadline"]
        video = Video(ID, self.server.link())
        return _download.stream(lambda: self.transport, self.job, video, **words)

    async def refused(
        self, kind: type[DownloadError], destination: str | os.PathLike[str], **words: Any
    ) -> Any:
        """Return the error of a download that fails, after checking what every one must hold."""
        with pytest.raises(kind) as caught:
            await self.save(destination, **words)
        error = caught.value
        assert type(error) is kind
        assert error.request_id == ID
        is_over = isinstance(error.__cause__, JobExpired)
        assert (f"client.job({ID!r})" in str(error)) is not is_over
        assert "canary" not in str(error) + error.url
        assert (error.part is None) == (error.bytes_kept == 0)
        if error.part is not None:
            assert error.part.stat().st_size == error.bytes_kept
            assert f"{error.bytes_kept} bytes are kept in {error.part}" in str(error)
        return error


def config(timeout: float = 10.0) -> TransportConfig:
    return TransportConfig(
        # Another origin than the file's, as in life.
        base_url="http://127.0.0.1:9/grok/v1",
        api_key=Secret(KEY),
        timeout=timeout,
        proxy=None,
        ssl_context=None,
        headers={},
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def is_whole(video: Video, path: Path, data: bytes) -> bool:
    return (
        path.read_bytes() == data
        and video.path == path
        and video.sha256 == hashlib.sha256(data).hexdigest()
        and video.size == len(data)
    )


def descriptors() -> set[str]:
    """Return what this process has open."""
    gc.collect()
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()))
    return found

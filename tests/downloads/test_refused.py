"""What is no video, is too large, or lies elsewhere is refused and leaves no file."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from attrs import field, frozen

from grok_video import DownloadError, NotAVideo, Retry, Truncated, _download
from grok_video._models import Video
from grok_video._policies import NO_END

from .fileserver import MEDIUM, SMALL, Chunked, Cut, FileServer, Say, Slice
from .harness import ID, KEY, PUBLIC, Downloads, is_whole, names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html><title>Sign in</title>", b'{"error": "x"}', b"", b"ftyp", b"\0" * 99]
)
async def test_what_is_no_video_leaves_no_file(
    downloads: Downloads, tmp_path: Path, body: bytes
) -> None:
    downloads.server.script.append(Say(200, body))
    await downloads.refused(NotAVideo, tmp_path / "cat.mp4")
    assert names(tmp_path) == set()


async def test_what_is_no_video_does_not_cost_the_part(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Cut(100_000), Say(200, b"<html>the portal of the hotel")])
    error = await downloads.refused(NotAVideo, tmp_path / "cat.mp4")
    assert error.bytes_kept == 100_000
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.ranges[-1] == "bytes=100000-"


async def test_a_compressed_answer_is_no_video(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.script.append(Say(200, SMALL, {"Content-Encoding": "gzip"}))
    await downloads.refused(NotAVideo, tmp_path / "cat.mp4")


async def test_a_file_of_more_than_4_gib_is_refused_unread(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.append(Say(200, SMALL, {"Content-Length": str(4 * 2**30 + 1)}))
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4")
    assert str(4 * 2**30 + 1) in str(error)
    assert names(tmp_path) == set()


async def test_a_file_without_a_length_has_a_bound_too(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grok_video._transfer.MOST_BYTES", 200_000)
    downloads.server.always = Chunked()
    await downloads.refused(DownloadError, tmp_path / "cat.mp4")
    assert not (tmp_path / "cat.mp4").exists()


@pytest.mark.parametrize(
    ("size", "kind", "most"), [(70_000, DownloadError, 5), (100, Truncated, 8)]
)
async def test_slices_without_end_come_to_an_end(
    downloads: Downloads,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    kind: type[DownloadError],
    most: int,
) -> None:
    """Large ones by the bytes that are fetched at most, small ones because they bring nothing."""
    monkeypatch.setattr("grok_video._transfer.MOST_BYTES", 200_000)
    downloads.server.data = MEDIUM
    downloads.server.script.append(Chunked(2**16))
    downloads.server.always = Slice(size)
    await downloads.refused(kind, tmp_path / "cat.mp4")
    assert len(downloads.server.requests) <= most + 1
    assert not (tmp_path / "cat.mp4").exists()


async def test_a_redirect_is_followed_without_the_key(downloads: Downloads, tmp_path: Path) -> None:
    with FileServer() as other:
        downloads.server.script.append(Say(302, headers={"Location": other.link("moved.mp4")}))
        assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
        for request in downloads.server.requests + other.requests:
            assert KEY not in json.dumps(request)
            assert "authorization" not in request


@pytest.mark.parametrize("name", ["my video.mp4", "b\u00e4r.mp4"])
async def test_a_redirect_to_a_name_that_nobody_encoded_is_followed(
    downloads: Downloads, tmp_path: Path, name: str
) -> None:
    downloads.server.script.append(Say(302, headers={"Location": f"/{name}?sig=a%2Fb+c"}))
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.server.requests[-1]["path"] == f"/{quote(name)}?sig=a%2Fb+c"


async def test_redirects_in_a_circle_end(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.always = Say(302, headers={"Location": "/again.mp4"})
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4")
    assert "redirected more than 5 times" in str(error)
    assert len(downloads.server.requests) == 6


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://x/y",
        "http://user:pw@host/x",
        "http://[x",
        "//[::1",
        "http://host:port/x",
        "http://\u2100.example/x",
        "http://a..example/x",
        f"http://{'a' * 70}.example/x",
        "http://.example/x",
        "http://\u00ad/x",
    ],
)
async def test_a_redirect_elsewhere_is_refused(
    downloads: Downloads, tmp_path: Path, target: str
) -> None:
    downloads.server.script.append(Say(302, headers={"Location": target}))
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4")
    assert "not followed" in str(error)
    assert len(downloads.server.requests) == 1


async def test_a_link_that_the_library_cannot_request_is_refused_at_once(
    downloads: Downloads, lane: tuple[str, str], tmp_path: Path
) -> None:
    # Each library has its own idea of a URL.
    url = {"aiohttp": "http://127.1/v.mp4", "httpx": "http://127.0.0.1/v\0.mp4"}[lane[1]]
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4", url=url)
    assert "not followed" in str(error)


@frozen
class Elsewhere:
    """A transport whose every answer is a redirect to http, as over TLS."""

    status: int = 302
    headers: dict[str, str] = field(factory=lambda: {"location": "http://files.example/v.mp4"})

    @contextlib.asynccontextmanager
    async def stream(self, *_: object, **__: object) -> AsyncIterator[Elsewhere]:
        yield self


async def test_a_redirect_from_https_to_http_is_refused(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.transport = Elsewhere()
    link = "https://files.example/v.mp4?signature=canary"
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4", url=link)
    assert "it leads from https to http" in str(error)


async def test_a_private_link_of_a_public_api_is_refused(
    downloads: Downloads, tmp_path: Path
) -> None:
    error = await downloads.refused(DownloadError, tmp_path / "cat.mp4", api=PUBLIC)
    assert "private network" in str(error)
    assert downloads.server.requests == []


async def test_a_job_without_a_link_says_so(downloads: Downloads, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="upload_url"):
        await _download.save(
            lambda: downloads.transport,
            downloads.job,
            Video(ID, None),
            tmp_path / "cat.mp4",
            overwrite=False,
            sha256=True,
            deadline=NO_END,
            retry=Retry(),
            api_origin=PUBLIC,
            random=random.Random(1),
        )
    assert names(tmp_path) == set()

"""Dead links are replaced by one poll, and a server that asks for time gets it."""

from __future__ import annotations

import socket
import traceback
from pathlib import Path

import anyio
import pytest

from grok_video import (
    APIConnectionError,
    DownloadTimeout,
    JobExpired,
    LinkExpired,
    Retry,
    Truncated,
)
from grok_video._transports._aiohttp import AiohttpTransport
from grok_video._transports._httpx import HttpxTransport

from .fileserver import MEDIUM, MIB, SMALL, Cut, FileServer, Hold, RefuseRange, Say
from .harness import ID, Downloads, Job, config, is_whole, names


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_dead_link_is_replaced_by_one_poll(
    downloads: Downloads, tmp_path: Path, status: int
) -> None:
    downloads.server.script.extend([Cut(100_000), Say(status)])
    downloads.job.links = [downloads.server.link("fresh.mp4")]
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)
    assert downloads.job.polls == 1
    assert downloads.server.requests[-1]["path"].startswith("/fresh.mp4")
    assert downloads.server.ranges[-1] == "bytes=100000-"


async def test_a_link_that_is_not_ready_yet_is_waited_for(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Say(404), Say(403), Say(404)])
    began = anyio.current_time()
    video = await downloads.save(tmp_path / "cat.mp4", retry=Retry(base=0.1, cap=0.1))
    assert is_whole(video, tmp_path / "cat.mp4", SMALL)
    assert anyio.current_time() - began >= 3 * 0.05


async def test_a_fresh_link_is_used_at_once(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.script.append(Say(403))
    downloads.job.links = [downloads.server.link("fresh.mp4")]
    slow = Retry(base=100.0, cap=100.0)  # with which any wait would be past the deadline
    video = await downloads.save(tmp_path / "cat.mp4", retry=slow)
    assert is_whole(video, tmp_path / "cat.mp4", SMALL)


async def test_links_that_are_all_dead_end_it(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.always = Say(403)
    error = await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    assert "HTTP 403" in str(error)
    assert downloads.job.polls == 4
    assert names(tmp_path) == set()


@pytest.mark.parametrize(("status", "polls"), [(400, 2), (403, 2), (404, 2), (412, 0), (501, 0)])
@pytest.mark.parametrize("way", ["in the same call", "in the next call", "as a stream"])
async def test_a_server_that_refuses_every_range_gives_the_file_all_the_same(
    downloads: Downloads, tmp_path: Path, status: int, polls: int, way: str
) -> None:
    """What is kept is skipped, not written twice; a 4xx might have been the link's."""
    path, server = tmp_path / "cat.mp4", downloads.server
    server.script.append(Cut(100_000))
    if way == "in the next call":
        server.script.extend([Say(404)] * 5)
        await downloads.refused(LinkExpired, path)
    server.always = RefuseRange(status)
    before = len(server.requests)
    downloads.job.polls = 0
    if way == "as a stream":
        assert b"".join([chunk async for chunk in downloads.stream()]) == SMALL
    else:
        parts: list[int] = []
        video = await downloads.save(path, on_bytes=lambda here, _: parts.append(here))
        assert is_whole(video, path, SMALL)
        assert parts == sorted(parts), "nothing begins anew"
    assert downloads.job.polls == polls
    assert server.ranges[-1] is None
    assert len(server.requests) - before <= 4


async def test_ranges_are_asked_for_again_where_the_whole_file_broke_in_what_is_skipped(
    downloads: Downloads, tmp_path: Path
) -> None:
    """Two dead links in a row may have been a refused range, or just dead links."""
    downloads.server.data = MEDIUM
    downloads.server.script.extend([Cut(MIB), Cut(MIB), Say(403), Say(403)])
    downloads.server.always = Cut(MIB)  # of each answer, so that no whole one gets any further
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", MEDIUM)
    assert downloads.server.ranges[-2:] == [None, f"bytes={2 * MIB}-"]


@pytest.mark.parametrize(
    "refusal",
    [
        RefuseRange(403),
        RefuseRange(412),
        RefuseRange(501),
        Say(206, headers={"Content-Range": "bytes 0-0/300000", "Content-Length": "1"}, body=b"x"),
    ],
    ids=["403", "412", "501", "another range"],
)
async def test_a_server_without_ranges_gives_the_file_as_long_as_each_answer_brings_more(
    downloads: Downloads, tmp_path: Path, refusal: object
) -> None:
    downloads.server.data = MEDIUM
    for cut in range(400_000, len(MEDIUM), 400_000):
        refusals = 2 if refusal == RefuseRange(403) else 1  # the first might be the link's
        downloads.server.script.extend([Cut(cut), *[refusal] * refusals])
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", MEDIUM)
    assert not downloads.server.script


@pytest.mark.parametrize("status", [400, 403, 412, 501])
async def test_a_server_without_ranges_whose_every_answer_breaks_off_is_given_up_for_that(
    downloads: Downloads, tmp_path: Path, status: int
) -> None:
    """The link is not said to be dead, nor the file to change: neither is so."""
    downloads.server.script.append(Cut(100_000))
    downloads.server.always = RefuseRange(status, at=80_000)
    error = await downloads.refused(Truncated, tmp_path / "cat.mp4")
    assert "8 attempts in a row brought nothing new" in str(error)
    assert "broke off" in str(error)
    assert error.bytes_kept == 100_000
    assert downloads.server.ranges.count(None) == 8
    assert len(downloads.server.requests) <= 1 + 3 * 8


async def test_a_job_that_has_expired_meanwhile_ends_it(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.extend([Cut(100_000), Say(404)])
    downloads.job.failure = JobExpired("the provider dropped it.", request_id=ID)
    error = await downloads.refused(LinkExpired, tmp_path / "cat.mp4")
    assert isinstance(error.__cause__, JobExpired)
    assert error.bytes_kept == 100_000
    assert error.resume == "", "no poll gives a link any more"
    assert "Resume" not in str(error)
    assert downloads.job.polls == 1


async def test_a_poll_that_fails_in_passing_is_not_the_end(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.script.append(Say(403))
    downloads.job.failure = APIConnectionError("reset", may_have_been_sent=True)
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", SMALL)


async def test_a_retry_after_is_honoured(downloads: Downloads, tmp_path: Path) -> None:
    downloads.server.script.extend(
        [Say(503, headers={"Retry-After-Ms": "150"}), Say(429, headers={"Retry-After-Ms": "100"})]
    )
    began = anyio.current_time()
    await downloads.save(tmp_path / "cat.mp4")
    assert anyio.current_time() - began >= 0.25


@pytest.mark.parametrize(("wish", "timeout"), [("60", 20.0), ("3600", None)])
async def test_a_retry_after_that_is_too_long_ends_it_at_once(
    downloads: Downloads, tmp_path: Path, wish: str, timeout: float | None
) -> None:
    downloads.server.script.extend([Cut(100_000), Say(503, headers={"Retry-After": wish})])
    began = anyio.current_time()
    kind = Truncated if timeout is None else DownloadTimeout
    error = await downloads.refused(kind, tmp_path / "cat.mp4", timeout=timeout)
    assert f"asks to wait {wish} s" in str(error)
    assert error.bytes_kept == 100_000
    assert anyio.current_time() - began < 5


async def test_the_deadline_ends_a_transfer_and_keeps_what_came(
    downloads: Downloads, tmp_path: Path
) -> None:
    downloads.server.data = MEDIUM
    downloads.server.script.append(Hold(2 * MIB))
    error = await downloads.refused(DownloadTimeout, tmp_path / "cat.mp4", timeout=0.4)
    assert isinstance(error, TimeoutError)
    assert "deadline of 0.4 s" in str(error)
    assert "downloading again continues" in str(error)
    assert error.bytes_kept == 2 * MIB
    assert is_whole(await downloads.save(tmp_path / "cat.mp4"), tmp_path / "cat.mp4", MEDIUM)


async def test_a_server_that_falls_silent_is_asked_again(
    lane: tuple[str, str], server: FileServer, tmp_path: Path
) -> None:
    kind = AiohttpTransport if lane[1] == "aiohttp" else HttpxTransport
    transport = kind(config(timeout=0.3))
    server.script.append(Hold(100_000))
    video = await Downloads(transport, server, Job(server)).save(tmp_path / "cat.mp4")
    await transport.aclose()
    assert is_whole(video, tmp_path / "cat.mp4", SMALL)


async def test_a_link_that_leads_nowhere_stands_in_no_frame_of_the_package(
    downloads: Downloads, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"http://127.0.0.1:{listener.getsockname()[1]}/cat.mp4?X-Amz-Signature=deadbeef"
    pending = KeyError("what the caller was handling")
    try:
        raise pending
    except KeyError:
        error = await downloads.refused(Truncated, tmp_path / "cat.mp4", url=dead)
    assert pending.__traceback__ is not None
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    link = shown
    while link is not None:
        frames = [frame for frame in link.stack if "grok_video/_" in frame.filename]
        assert "deadbeef" not in str([frame.locals for frame in frames])
        link = link.__cause__

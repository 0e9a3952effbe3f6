"""The bytes alone, without a file."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from grok_video import NotAVideo, Truncated

from .fileserver import MEDIUM, MIB, SMALL, Change, Cut, IgnoreRange, Say, clip
from .harness import Downloads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def collect(chunks: AsyncIterator[bytes], received: list[bytes]) -> None:
    async for chunk in chunks:
        received.append(chunk)


async def test_a_stream_gives_every_byte_once_over_breaks_and_dead_links(
    downloads: Downloads,
) -> None:
    downloads.server.data = MEDIUM
    downloads.server.script.extend(
        [Cut(5), Cut(MIB + 3), Say(403), Cut(1), IgnoreRange(MIB), Cut(MIB), Say(500)]
    )
    received = b"".join([chunk async for chunk in downloads.stream()])
    assert received == MEDIUM
    assert not downloads.server.script


async def test_a_stream_of_a_file_that_changed_cannot_be_continued(downloads: Downloads) -> None:
    downloads.server.script.extend([Cut(100_000), Change(clip(300_000, 2), '"v2"')])
    received: list[bytes] = []
    with pytest.raises(Truncated, match="after 100000 bytes were handed out"):
        await collect(downloads.stream(), received)
    assert b"".join(received) == SMALL[:100_000]


async def test_a_stream_of_something_else_gives_nothing(downloads: Downloads) -> None:
    downloads.server.script.append(Say(200, b"<html>"))
    received: list[bytes] = []
    with pytest.raises(NotAVideo):
        await collect(downloads.stream(), received)
    assert received == []


async def test_a_stream_left_early_leaves_nothing_open(downloads: Downloads) -> None:
    downloads.server.data = MEDIUM
    chunks = downloads.stream()
    async for _ in chunks:
        break
    await chunks.aclose()
    gc.collect()

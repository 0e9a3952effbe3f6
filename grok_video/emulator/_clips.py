"""Rendered clips on disk: each made once, the oldest dropped when the folder grows too large.

One folder in the system's temp directory for each emulator, removed with it. Made when asked for,
or ahead of that, one at a time. Knows the renderer and the pool it runs in, no jobs and no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

# Half a gigabyte of clips is a hundred of the default kind: room for any test, small for a disk.
_MOST: Final = 512 * 1024 * 1024

# So many may stand in line to be made ahead; the others are made when they are asked for.
_AHEAD: Final = 32

# What another version of a clip carries: a box that players skip (ISO/IEC 14496-12, 8.1.2).
_FREE_BOX: Final = (16).to_bytes(4, "big") + b"freeanother."


@attrs.frozen
class Clip:
    """A finished file: bytes in memory or a path, with what HTTP says about it."""

    etag: str
    size: int
    data: bytes | None = None
    path: Path | None = None

    def read(self) -> bytes:
        """The whole file."""
        return self.data if self.data is not None else self.path.read_bytes() if self.path else b""


@attrs.frozen
class Wanted:
    """Which clip: the same value always gives the same bytes."""

    digest: str
    size: tuple[int, int]
    duration: int
    version: int = 0


class Clips:
    """The folder of clips and pictures of one emulator; used from the server's loop only."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self.picture: Callable[[str], bytes | None] = lambda _: None
        """Where a picture is read from; `None` stands for the test card."""
        self._folder = Path(tempfile.mkdtemp(prefix="grok-video-emulator-"))
        self._removing = weakref.finalize(self, _remove, self._folder, os.getpid())
        self._kept: OrderedDict[Wanted, Clip] = OrderedDict()
        self._making: dict[Wanted, asyncio.Future[Clip]] = {}
        self._ahead: OrderedDict[Wanted, None] = OrderedDict()
        self._working: asyncio.Task[None] | None = None
        self._bytes = 0
        self._stopped = threading.Event()
        self.rendered = 0

    @property
    def folder(self) -> Path:
        """Where clips, and pictures without a state file, are kept."""
        return self._folder

    @property
    def busy(self) -> bool:
        """Whether anything is being rendered or stands in line for it."""
        return bool(self._making or self._ahead)

    def expect(self, wanted: Wanted) -> None:
        """The clip is made soon, in its turn, unless too many stand in line."""
        known = wanted in self._kept or wanted in self._making or wanted in self._ahead
        if known or len(self._ahead) >= _AHEAD:
            return
        self._ahead[wanted] = None
        if self._working is None:
            self._working = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        # One at a time: whoever asks for a clip now has the rest of the pool.
        while self._ahead:
            wanted, _ = self._ahead.popitem(last=False)
            # Whoever asks for it is told what went wrong; nobody is waiting here.
            with contextlib.suppress(Exception):
                await self.get(wanted)
        self._working = None

    async def get(self, wanted: Wanted) -> Clip:
        """The clip, rendered now if nobody asked for it before; one rendering serves all."""
        if wanted in self._kept:
            self._kept.move_to_end(wanted)
            return self._kept[wanted]
        making = self._making.get(wanted)
        if making is None:
            loop = asyncio.get_running_loop()
            making = loop.run_in_executor(self._pool, self._make, wanted)
            self._making[wanted] = making
            making.add_done_callback(lambda made: self._finish(wanted, made))
        # Shielded: a client that goes away must not take the clip from the others.
        return await asyncio.shield(making)

    def _make(self, wanted: Wanted) -> Clip:
        from ._render import render

        name = hashlib.sha256(repr(wanted).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.mp4"
        render(
            self.picture(wanted.digest), wanted.size, wanted.duration, path, self._stopped.is_set
        )
        if wanted.version:
            path.write_bytes(altered(path.read_bytes(), wanted.version))
        return Clip(f'"{name}"', path.stat().st_size, path=path)

    def _finish(self, wanted: Wanted, made: asyncio.Future[Clip]) -> None:
        del self._making[wanted]
        if made.cancelled() or made.exception() is not None:
            return
        clip = self._kept[wanted] = made.result()
        self.rendered += 1
        self._bytes += clip.size
        while self._bytes > _MOST and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.size
            if oldest.path is not None:
                oldest.path.unlink(missing_ok=True)

    def stop(self) -> None:
        """What is being rendered is given up within a frame, with `Abandoned` for who waits."""
        self._stopped.set()
        self._ahead.clear()

    def close(self) -> None:
        """Removes the folder."""
        self._removing()


def _remove(folder: Path, owner: int) -> None:
    # A forked child ends, and its exit must not take away what its parent still serves from.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def given(data: bytes | Path, version: int = 0) -> Clip:
    """A clip the caller brought, as it is or as another version of it."""
    if isinstance(data, Path) and not version:
        facts = data.stat()
        return Clip(f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"', facts.st_size, path=data)
    whole = data.read_bytes() if isinstance(data, Path) else data
    if version:
        whole = altered(whole, version)
    # Its ends and its length tell one clip from another; hashing 256 MiB each time would not do.
    ends = whole[: 1 << 16] + whole[-(1 << 16) :] + len(whole).to_bytes(8, "big")
    return Clip(f'"{hashlib.sha256(ends).hexdigest()[:32]}"', len(whole), data=whole)


def altered(clip: bytes, version: int) -> bytes:
    """Another version of an MP4: still playable, different at both ends and longer.

    The minor version of `ftyp` changes near the start and a free box is added at the end, so that
    gluing a part of one to a part of the other gives neither.
    """
    return clip[:12] + version.to_bytes(4, "big") + clip[16:] + _FREE_BOX * version

"""`generate()` cancelled at each await in turn: nothing stays behind, and every id is told.

Each run meets a 429, a broken poll, a broken transfer and a dead link, so that the waits of
retries are among the awaits. Without `--whole` one step of each place in the code is taken.
"""

from __future__ import annotations

import gc
import hashlib
import http.client
import logging
import random
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import pytest
from attrs import define, field

from grok_video import AsyncClient, AsyncJob, GrokVideoError, Limits, Video, VideoRequest
from grok_video.emulator import Emulator, faults

from ..conftest import LANES, PHOTO
from .account import TABLE, served_file
from .cancelling import (
    MANNERS,
    Steps,
    cancelled_by,
    client_sockets,
    closing,
    open_files,
    run,
    soon,
    tasks_alive,
)
from .cases import CLIP
from .doors import DEFAULTS, bounded

#: Steps of each manner on each lane in the normal run.
SAMPLE = 24
#: One of each: a slot that is not given back blocks whatever comes after.
LIMITS = Limits(polls_per_second=None, connections=1, concurrent_downloads=1)
WAYS = [
    pytest.param(name, manner, id=f"{name}, {manner}")
    for name, (loop, _) in LANES.items()
    for manner in MANNERS[loop]
]


@define
class Trace:
    """What one cancelled run came to."""

    cancelled: bool = False
    accepted: int = 0
    known: int = 0
    resumed: bool = False
    problems: list[str] = field(factory=list)


@pytest.mark.parametrize(("lane", "manner"), WAYS)
def test_a_call_cancelled_at_any_await_leaves_nothing_and_tells_its_id(
    lane: str, manner: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    watched = Steps(manner=manner, watching=True)
    whole_run = cancelled_run(lane, watched, tmp_path / "0")
    assert whole_run.problems == []
    assert not whole_run.cancelled
    chosen = _choose(watched, request.config.getoption("--whole", default=False))
    traces = {}
    for at in chosen:
        traces[at] = cancelled_run(lane, Steps(at=at, manner=manner), tmp_path / str(at))
    gc.collect()  # an unclosed socket or file is an error of its own
    problems = [f"step {at}: {words}" for at, trace in traces.items() for words in trace.problems]
    places = len(frozenset().union(*(watched.sites[at - 1] for at in chosen)))
    TABLE.lines.append(
        f"cancel {lane + ', ' + manner:<42}{len(chosen):>5} steps of {watched.taken:>4}, "
        f"{places:>3} places, {sum(t.cancelled for t in traces.values()):>4} cancelled, "
        f"accepted {sum(t.accepted for t in traces.values()):>4}, "
        f"known {sum(t.known for t in traces.values()):>4}, "
        f"resumed {sum(t.resumed for t in traces.values()):>4}, "
        f"left behind {len(problems)}"
    )
    assert problems == []
    assert sum(trace.cancelled for trace in traces.values()) >= len(traces) * 0.8
    assert any(trace.known for trace in traces.values())


@pytest.mark.parametrize(("lane", "manner"), WAYS)
def test_a_batch_without_a_ledger_that_is_cancelled_at_any_await_tells_every_id(
    lane: str,
    manner: str,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Steps(manner=manner, watching=True)
    assert batch_run(lane, watched, caplog) == set()
    untold = {
        at: ids
        for at in _choose(watched, request.config.getoption("--whole", default=False))
        if (ids := batch_run(lane, Steps(at=at, manner=manner), caplog))
    }
    assert untold == {}


def batch_run(lane: str, steps: Steps, caplog: pytest.LogCaptureFixture) -> set[str]:
    """Cancel a batch as `steps` says; return the ids that no outcome and no warning told."""
    loop, transport = LANES[lane]
    told: set[str | None] = set()
    caplog.clear()
    things = [(f"key {number}", VideoRequest(f"drift {number}")) for number in range(4)]

    async def work() -> None:
        words = DEFAULTS | {"transport": transport}
        async with AsyncClient(emulator.api_key, base_url=emulator.base_url, **words) as client:

            async def iterate() -> None:
                async with client.batch(things, max_in_flight=3) as batch:
                    async for outcome in batch:
                        told.add(outcome.request_id)

            await cancelled_by(steps, iterate)
            _barrier(emulator)

    with Emulator() as emulator, bounded():
        run(loop, steps, work)
        accepted = {create.request_id for create in emulator.creates}
    warnings = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    return {
        request_id
        for request_id in accepted - told
        if not any(request_id in words for words in warnings)
    }


def cancelled_run(lane: str, steps: Steps, folder: Path) -> Trace:
    loop, transport = LANES[lane]
    trace = Trace()
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    (folder / "out").mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(temporary)
    try:
        with Emulator(clip=CLIP, separate_files=True) as emulator:
            emulator.script("create", [faults.rate_limited(0.01)])
            emulator.script("poll", [faults.CutRequest(), faults.Pass()])
            emulator.script("download", [faults.CutFile(90_000), faults.LinkDied()])

            async def work() -> None:
                await _cancel_and_look(emulator, transport, loop, steps, folder / "out", trace)

            with bounded():
                run(loop, steps, work)
            ports = [urlsplit(url).port or 0 for url in (emulator.base_url, emulator.other_origin)]
            if client_sockets(*ports):
                trace.problems.append("a socket is open after the loop ended")
        left = [path.name for path in temporary.iterdir()]
        if left:
            trace.problems.append(f"temporary files: {left}")
    finally:
        tempfile.tempdir = before
    return trace


async def _cancel_and_look(
    emulator: Emulator, transport: str, loop: str, steps: Steps, folder: Path, trace: Trace
) -> None:
    file = folder / "video.mp4"
    told: list[str] = []

    async def write_down(job: AsyncJob) -> None:
        await anyio.lowlevel.checkpoint()  # as a database would
        told.append(job.request_id)

    words = DEFAULTS | {"transport": transport, "limits": LIMITS}
    client = AsyncClient(emulator.api_key, base_url=emulator.base_url, **words)
    # No `async with` here: closing is looked at on its own.
    async with closing(client):

        async def generate() -> Video:
            return await client.generate(
                "drift",
                image=PHOTO,
                save_to=file,
                sha256=True,
                timeout=30,
                on_submitted=write_down,
            )

        alive = tasks_alive(loop)
        video = await cancelled_by(steps, generate)
        trace.cancelled = video is None
        note = trace.problems.append
        if tasks_alive(loop) != alive:
            note(f"{tasks_alive(loop) - alive} tasks are alive")
        if not await soon(lambda: not open_files(folder, PHOTO)):
            note(f"open: {open_files(folder, PHOTO)}")
        _barrier(emulator)
        accepted = [create.request_id for create in emulator.creates]
        trace.accepted, trace.known = len(accepted), len(set(accepted) & set(told))
        if accepted != told:
            note(f"accepted {accepted}, told {told}")
        if len(accepted) > 1:
            note("more than one create was accepted")
        note_files(folder, video, note)
        if told and video is None and names_in(folder) == ["video.mp4"]:
            # Cancelled as the file got its name: it is there, and whole.
            trace.resumed = True
            if sha256_of(file) != served_file(emulator, told[0]):
                note("the file that is there is another one")
        elif told:
            # The same client, with one slot for everything: what the cancelled call held is free.
            try:
                saved = video or await client.job(told[0]).download(file, sha256=True, timeout=20)
            except GrokVideoError as error:
                note(f"not resumed: {error}")
            else:
                trace.resumed = video is None
                if saved.sha256 != served_file(emulator, told[0]):
                    note("what was resumed is another file")
                if names_in(folder) != ["video.mp4"]:
                    note(f"after the resumed download: {names_in(folder)}")
    ports = [urlsplit(url).port or 0 for url in (emulator.base_url, emulator.other_origin)]
    if not await soon(lambda: not client_sockets(*ports)):
        note(f"{client_sockets(*ports)} sockets are open after aclose()")
    if tasks_alive(loop) != alive:
        note(f"{tasks_alive(loop) - alive} tasks are alive after aclose()")


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def note_files(folder: Path, video: Video | None, note: object) -> None:
    """Complain of every file but the ones that are documented."""
    left = names_in(folder)
    if video is not None:
        allowed = [["video.mp4"]]
    else:
        # Kept for the next try, with its record; or the call ended as the file got its name.
        allowed = [[], ["video.mp4.part", "video.mp4.part.json"], ["video.mp4"]]
    if left not in allowed:
        note(f"files: {left}")  # type: ignore[operator]
    if "video.mp4.part" in left and not (folder / "video.mp4.part").stat().st_size:
        note("an empty part was kept")  # type: ignore[operator]


def _barrier(emulator: Emulator) -> None:
    """Return once the emulator has dealt with whatever reached it before."""
    place = urlsplit(emulator.base_url)
    line = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
    line.request("GET", "/_emulator/", headers={"Authorization": f"Bearer {emulator.api_key}"})
    assert line.getresponse().read()
    line.close()


def _choose(watched: Steps, whole: bool) -> list[int]:
    """Return every step, or the first and one more of each place in the code."""
    steps = range(1, watched.taken + 1)
    if whole:
        return list(steps)
    chance = random.Random(watched.taken)
    by_site: dict[frozenset[str], list[int]] = {}
    for step, where in zip(steps, watched.sites, strict=True):
        by_site.setdefault(where, []).append(step)
    firsts = [found[0] for found in by_site.values()]
    return sorted(chance.sample(firsts, min(SAMPLE, len(firsts))))

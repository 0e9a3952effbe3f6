"""One story in both modes: the same words must send the same requests and give the same results.

The story is written once, for the asynchronous client. The blocking one is told by a narrator that
turns `await`, `async for` and `async with` into plain calls, so neither copy can drift.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import grok_video
from grok_video import BatchItem, GrokVideoError, VideoRequest
from grok_video.emulator import Emulator, faults
from grok_video.emulator.pytest_plugin import EmulatorFactory
from tests.blocking.children import CLIP
from tests.conftest import EAGER, NO_LIMITS, PHOTO, QUICK

Log = list[tuple[Any, ...]]
FAULTS = {
    "create": [
        faults.Pass(),
        faults.overloaded(),  # refused before anything took it: sent again
        faults.Pass(),
        faults.Moderated("failed"),
        faults.Failed("internal_error", "It failed."),
        faults.Expired(),
        faults.CutAnswer(0),  # the create whose outcome nobody knows
        faults.out_of_credits(),
        *[faults.Pass()] * 6,
        faults.rate_limited(0.01),  # the last one: a client that met it takes its time
    ],
    "poll": [faults.bad_upstream(), faults.CutAnswer(0)],
    "download": [faults.CutFile(3000)],
}


async def the_story(client: Any, folder: Path, log: Log) -> None:
    tell = Narrator(log)
    # A job from its create to its file.
    job = await client.submit(
        "slow push-in", image=PHOTO, duration=1, resolution="480p", on_submitted=tell.accepted
    )
    tell("submitted", job.status, job.progress, job.snapshot, job.is_finished)
    video = await job.result(timeout=30)
    tell("done", video.duration, video.model, video.cost_usd, job.is_finished)
    video = await job.download(folder / "first.mp4", sha256=True)
    tell("saved", video.sha256, video.size, video.path.name)
    size = 0
    async for chunk in job.stream():
        size += len(chunk)
    tell("streamed", size)
    try:
        await job.download(folder / "first.mp4")
    except GrokVideoError as error:
        tell.error(error)
    # The same from its id, polled once.
    snapshot = await client.job(job.request_id).refresh()
    tell("refreshed", snapshot.status, snapshot.progress)
    # All in one, through a server that is full at first.
    video = await client.generate("drift", duration=2, save_to=folder / "second.mp4", sha256=True)
    tell("generated", video.sha256, video.duration)
    # The ends that are no videos.
    for prompt in ("moderated", "failed", "expired"):
        job = await client.submit(prompt, duration=1)
        last = None
        async for update in job.updates():
            last = update.status
        tell("updates", last)
        try:
            await job.result()
        except GrokVideoError as error:
            tell.error(error)
    # What was never accepted, or nobody knows.
    for words in (
        {"prompt": "cut"},
        {"prompt": "broke"},
        {"prompt": ""},
        {"prompt": "x", "size": 1},
    ):
        try:
            await client.submit(**words)
        except GrokVideoError as error:
            tell.error(error)
    # Several, as they are completed.
    jobs = [await client.submit(f"many {number}", duration=1) for number in range(3)]
    async for job in client.as_completed(jobs, timeout=30):
        video = await job.result()
        tell.several(job in jobs, video.duration)
    # A batch.
    items = [BatchItem(f"item-{number}", VideoRequest("x", duration=1)) for number in range(3)]
    async with client.batch(items, out=folder, max_in_flight=1) as batch:
        async for outcome in batch:
            tell("outcome", outcome.key, outcome.state, outcome.video.path.name)
    tell("summary", batch.summary.counts)
    summary = await client.run_batch([VideoRequest("y", duration=1)], max_in_flight=1)
    tell("summary", summary.counts)
    # The end.
    await client.aclose()
    try:
        await client.submit("late")
    except GrokVideoError as error:
        tell.error(error)


class Narrator:
    """Writes the log: facts as they are, ids and places as words."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def __call__(self, *facts: Any) -> None:
        self.log.append(facts)

    def accepted(self, job: Any) -> None:
        self("accepted", job.status)

    def several(self, *facts: Any) -> None:
        self("several", *facts)

    def error(self, error: GrokVideoError) -> None:
        text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", str(error))
        text = re.sub(r"127\.0\.0\.1:\d+|/\S*/|[0-9a-f]{12,}|\d\d:\d\d:\d\d\S*", "PLACE", text)
        self(type(error).__name__, text, sorted(vars(error)))


class Plain(ast.NodeTransformer):
    """Makes a blocking story of an asynchronous one."""

    def visit_Await(self, node: ast.Await) -> ast.AST:
        return self.visit(node.value)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        self.generic_visit(node)
        return ast.For(node.target, node.iter, node.body, node.orelse)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        self.generic_visit(node)
        return ast.With(node.items, node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        self.generic_visit(node)
        return ast.FunctionDef(node.name, node.args, node.body, [], node.returns)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        node.attr = "close" if node.attr == "aclose" else node.attr
        return node


def as_plain(story: Callable[..., Any]) -> Callable[..., None]:
    tree = Plain().visit(ast.parse(textwrap.dedent(inspect.getsource(story))))
    namespace = dict(globals())
    exec(compile(ast.fix_missing_locations(tree), __file__, "exec"), namespace)
    return namespace[story.__name__]


def told(emulator: Emulator, mode: str, folder: Path) -> tuple[Log, Log]:
    """Return what the story logs, and the requests that the emulator saw."""
    for phase, script in FAULTS.items():
        emulator.script(phase, script)  # type: ignore[arg-type]
    words = {"polling": QUICK, "limits": NO_LIMITS, "retry": EAGER}
    place = {"base_url": emulator.base_url, "api_key": emulator.api_key}
    log: Log = []
    folder.mkdir()
    if mode == "async":
        asyncio.run(the_story(grok_video.AsyncClient(**place, **words), folder, log))
    else:
        as_plain(the_story)(grok_video.Client(**place, **words), folder, log)
    emulator.assert_faults_consumed()
    return log, [fact_of(request) for request in emulator.requests]


def fact_of(request: Any) -> tuple[Any, ...]:
    path = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[\w-]+\.mp4", "ID", request.path)
    return request.method, path, request.status


def test_one_story_in_both_modes_has_the_same_requests_and_results(
    grok_emulator_factory: EmulatorFactory, tmp_path: Path
) -> None:
    # Jobs are done at the first poll, so that the number of polls is no matter of timing.
    first, second = (
        told(grok_emulator_factory(time_scale=0.0, seed=7, clip=CLIP), mode, tmp_path / mode)
        for mode in ("async", "blocking")
    )
    assert first[0] == second[0]
    assert first[1] == second[1]
    assert len(first[0]) == 27
    assert len(first[1]) == 38


@pytest.mark.parametrize("name", ["AsyncClient", "AsyncJob"])
def test_the_story_uses_every_public_name(name: str) -> None:
    source = inspect.getsource(the_story) + inspect.getsource(Narrator)
    public = [each for each in vars(getattr(grok_video, name)) if not each.startswith("_")]
    assert [each for each in public if not re.search(rf"\.{each}\b", source)] == []

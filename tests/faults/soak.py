"""Many jobs through one client in one process, with all faults mixed in: what grows, what is lost?

`python -m tests.faults.soak --jobs 20000`. The emulator runs in a process of its own, so that the
figures are the client's alone; one request in twenty meets a fault, any of the matrix. Of each job
one line is written (not remembered), and compared with the emulator's account at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import attrs
import trio
from anyio import create_task_group

from grok_video import AsyncClient, CreateOutcomeUnknown, GrokVideoError, JobFailed, Retry
from grok_video._transports._base import KEEPALIVE
from grok_video.emulator import Emulator
from grok_video.emulator._clips import altered
from grok_video.emulator.faults import EndlessHeaders, Fault, GzipBomb, HugeJSON, Refuse, Stall

from ..conftest import LANES, NO_LIMITS, QUICK
from .cases import cases

#: Share of requests that meet a fault.
SHARE: Final = 0.05
#: Jobs at the same time.
WINDOW: Final = 48
#: Job from which on everything has to be flat.
WARM: Final = 2000
CLIP: Final = b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + random.Random(1).randbytes(30_000)
VERSIONS: Final = {hashlib.sha256(altered(CLIP, n) if n else CLIP).hexdigest() for n in range(20)}
RETRY: Final = Retry(attempts=12, base=0.01, cap=0.2)


# --- the emulator's process ----------------------------------------------------------------------


def chaos(seed: int, share: float) -> Callable[[str], Fault | None]:
    """Return what chooses a fault for each request: any of the matrix, each as likely."""
    chance = random.Random(seed)
    found: dict[str, list[Fault]] = {"create": [], "poll": [], "download": []}
    for case in cases():
        found[case.phase] += [_quick(fault) for fault in case.script[:1]]

    def choose(phase: str) -> Fault | None:
        return chance.choice(found[phase]) if chance.random() < share else None

    return choose


def _quick(fault: Fault) -> Fault:
    """Return the fault with less of it, where more of it only takes longer."""
    if isinstance(fault, Stall | EndlessHeaders | Refuse):
        return attrs.evolve(fault, seconds=min(fault.seconds, 2.0))
    if isinstance(fault, HugeJSON | GzipBomb):
        return attrs.evolve(fault, size=min(fault.size, 8 * 2**20))
    return fault


def serve(jobs: int, seed: int, share: float) -> None:
    """Run an emulator until stdin ends; then print what it saw."""
    # Long after a job was fetched nobody asks for it, and the emulator may forget it.
    with Emulator(clip=CLIP, chaos=chaos(seed, share), keep=3 * jobs, keep_jobs=4000) as emulator:
        _tell([emulator.base_url, emulator.api_key])
        sys.stdin.read()
        _tell(
            {
                "creates": [[one.request_id, one.fields["prompt"]] for one in emulator.creates],
                "accepted": emulator.accepted,
                "connections": emulator.connections,
                "polls": emulator.polls,
                "downloads": emulator.downloads,
                "faults": emulator._scripts.count,
            }
        )


def _tell(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def emulator(jobs: int, seed: int, share: float) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    command = [sys.executable, "-m", "tests.faults.soak", "--serve", str(share)]
    command += ["--jobs", str(jobs), "--seed", str(seed)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        base_url, key = json.loads(process.stdout.readline())

        def report() -> Any:
            out, _ = process.communicate()
            return json.loads(out)

        yield base_url, key, report


# --- the client's process ------------------------------------------------------------------------


@attrs.frozen
class Sample:
    """What this process holds after so many jobs."""

    jobs: int
    seconds: float
    files: int
    tasks: int
    #: Blocks of memory that Python has given out: the finest measure, without the allocator.
    blocks: int
    rss_kib: int

    def line(self) -> str:
        return (
            f"{self.jobs:>7} {self.seconds:>8.1f} s {self.files:>5} files {self.tasks:>5} tasks "
            f"{self.blocks:>9} blocks {self.rss_kib:>8} KiB"
        )


@attrs.define
class Run:
    """One soak."""

    jobs: int
    lane: str = "asyncio-aiohttp"
    seed: int = 20261124
    share: float = SHARE
    window: int = WINDOW
    say: Callable[[str], object] = print
    done: int = 0
    samples: list[Sample] = attrs.field(factory=list)
    endings: Counter[str] = attrs.field(factory=Counter)
    problems: list[str] = attrs.field(factory=list)
    report: dict[str, Any] = attrs.field(factory=dict)
    _began: float = 0.0

    @property
    def every(self) -> int:
        return max(50, min(1000, self.jobs // 20))

    def go(self) -> None:
        """Run it; what is wrong is in `problems` afterwards."""
        loop, transport = LANES[self.lane]
        with (
            tempfile.TemporaryDirectory(prefix="grok-video-soak-") as folder,
            emulator(self.jobs, self.seed, self.share) as (base_url, key, report),
        ):
            notes = Path(folder) / "notes.jsonl"

            async def work() -> None:
                client = AsyncClient(
                    key,
                    base_url=base_url,
                    transport=transport,
                    polling=QUICK,
                    limits=NO_LIMITS,
                    retry=RETRY,
                    timeout=1.0,
                )
                with notes.open("w") as file:
                    async with client, create_task_group() as tasks:
                        self._began = time.monotonic()
                        numbers = iter(range(self.jobs))
                        for _ in range(self.window):
                            tasks.start_soon(self._worker, client, numbers, Path(folder), file)

            before = open_files()
            trio.run(work) if loop == "trio" else asyncio.run(work())
            gc.collect()
            if (left_open := open_files() - before) > 0:
                self.problems.append(f"files left open: {left_open}")
            self.report = report()
            self._compare(notes)
            left = sorted(path.name for path in Path(folder).iterdir() if path != notes)
            if left:
                self.problems.append(f"files left: {left[:5]}")
        self._judge()

    async def _worker(
        self, client: AsyncClient, numbers: Iterator[int], folder: Path, notes: IO[str]
    ) -> None:
        for number in numbers:
            ending, told = await self._one(client, f"job {number}", folder / f"{number}.mp4")
            self.endings[ending] += 1
            notes.write(json.dumps([f"job {number}", ending, told]) + "\n")
            self.done += 1
            if self.done % self.every == 0:
                self._look()

    async def _one(self, client: AsyncClient, prompt: str, file: Path) -> tuple[str, list[str]]:
        told: list[str] = []
        ending = "delivered"
        try:
            video = await client.generate(
                prompt,
                save_to=file,
                sha256=True,
                timeout=120,
                on_submitted=lambda j: told.append(j.request_id),
            )
        except CreateOutcomeUnknown:
            return "unknown", told
        except GrokVideoError as error:
            if not told:
                return f"refused: {type(error).__name__}", told
            ending, video = "recovered", None
        except Exception as error:  # noqa: BLE001 - none may come
            self.problems.append(f"untyped: {error!r}")
            return "untyped", told
        tries = 0
        while video is None:
            try:
                video = await client.job(told[0]).download(file, sha256=True, timeout=120)
            except GrokVideoError as error:
                tries += 1
                if isinstance(error, JobFailed) or type(error).__name__ == "JobExpired":
                    return "ended", told
                if tries == 10:
                    self.problems.append(f"not delivered: {error!r}")
                    return "not delivered", told
        content = file.read_bytes()  # noqa: ASYNC240 - a small file, and nothing else waits
        digest = hashlib.sha256(content).hexdigest()
        if digest != video.sha256 or digest not in VERSIONS:
            self.problems.append(f"{prompt}: {len(content)} bytes that the emulator never served")
        file.unlink()  # noqa: ASYNC240
        return ending, told

    def _look(self) -> None:
        gc.collect()
        tasks = len(asyncio.all_tasks()) if self.lane.startswith("asyncio") else trio_tasks()
        page = resource.getpagesize() // 1024
        sample = Sample(
            self.done,
            time.monotonic() - self._began,
            open_files(),
            tasks,
            sys.getallocatedblocks(),
            int(Path("/proc/self/statm").read_text().split()[1]) * page,
        )
        self.samples.append(sample)
        self.say(sample.line())

    def _compare(self, notes: Path) -> None:
        """Find each create that the emulator accepted in what the caller was told."""
        told: set[str] = set()
        in_doubt: set[str] = set()
        for line in notes.read_text().splitlines():
            prompt, ending, ids = json.loads(line)
            told.update(ids)
            if ending == "unknown":
                in_doubt.add(prompt)
        creates = [tuple(one) for one in self.report["creates"]]
        assert len(creates) == self.report["accepted"]
        twice = [prompt for prompt, n in Counter(prompt for _, prompt in creates).items() if n > 1]
        lost = [one for one in creates if one[0] not in told and one[1] not in in_doubt]
        self.report |= {"known": len(told), "in_doubt": len(in_doubt), "twice": len(twice)}
        self.report |= {"lost": len(lost)}
        del self.report["creates"]
        if twice or lost:
            self.problems.append(f"paid twice: {twice[:5]}, lost: {lost[:5]}")
        if told - {one[0] for one in creates}:
            self.problems.append("an id was told that the emulator never gave")

    def growth(self) -> dict[str, float]:
        """Return how much more there was in the last quarter than just after the start.

        Both are means over several samples: how many jobs are in which phase differs each time.
        Open files swing by as many as there are jobs in flight, and a mean over a few samples with
        them: there, what each quarter has at the least is compared, which a leak raises as well. A
        quarter that is shorter than an idle connection lives may never see the end of such a swing:
        then it is as long, or half of all.
        """
        warm = [one for one in self.samples if one.jobs >= min(WARM, self.jobs // 4)]
        size = max(1, len(warm) // 4)
        first, last = warm[:size], warm[-size:]

        def mean(rows: list[Sample], name: str) -> float:
            return sum(getattr(row, name) for row in rows) / len(rows)

        since = last[-1].seconds - 1.5 * KEEPALIVE
        quiet = [one for one in warm[-max(size, len(warm) // 2) :] if one.seconds >= since]
        files = min(one.files for one in quiet + last) - min(one.files for one in first)
        names = ("tasks", "blocks", "rss_kib")
        return {"files": files} | {name: mean(last, name) - mean(first, name) for name in names}

    def _judge(self) -> None:
        growth = self.growth()
        if sum(self.endings.values()) != self.jobs:
            self.problems.append(f"{self.jobs} jobs, {sum(self.endings.values())} endings")
        # Connections come and go with the jobs in flight; a leak of one in a thousand jobs would
        # show as more than this over 18,000.
        if growth["files"] > self.window / 4:
            self.problems.append(f"open files grow: {growth['files']:+.1f}")
        if growth["tasks"] > 2:
            self.problems.append(f"tasks grow: {growth['tasks']:+.1f}")
        if growth["blocks"] > 6000:
            self.problems.append(f"memory grows: {growth['blocks']:+.0f} blocks")
        if growth["rss_kib"] > 8 * 1024:
            self.problems.append(f"memory grows: {growth['rss_kib']:+.0f} KiB")

    def lines(self) -> list[str]:
        """Return what came of it."""
        growth = ", ".join(f"{name} {value:+.1f}" for name, value in self.growth().items())
        seconds = self.samples[-1].seconds if self.samples else 0.0
        return [
            f"soak {self.lane}: {self.jobs} jobs in {seconds:.0f} s; {dict(self.endings)}",
            f"soak {self.lane}: {self.report}",
            f"soak {self.lane}: growth after warming up: {growth}",
            f"soak {self.lane}: problems: {self.problems or 'none'}",
        ]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def trio_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--lane", choices=LANES, default="asyncio-aiohttp")
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.jobs, given.seed, given.serve)
        return 0
    run = Run(given.jobs, given.lane, given.seed, given.share)
    run.go()
    sys.stdout.write("\n".join(run.lines()) + "\n")
    return 1 if run.problems else 0


if __name__ == "__main__":
    sys.exit(main())

# ruff: noqa: T201 - a program
"""Kill a worker, and the server, at every bad moment; then add up what was paid and what is here.

Real processes, real SIGKILLs and a real server that keeps its own books: what the provider
accepted is compared with what the ledger knows, item by item. Run it large with

    python -m tests.processes.kills --items 2000 --kills 30 --forced 12 --server-kills 3 --storm 60
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image

ROOT = Path(__file__).parents[2]
#: Seconds in which a step of a healthy run always comes.
PATIENCE = 60.0


class Server:
    """An emulator in a process of its own, whose state outlives it."""

    def __init__(self, state: Path, time_scale: float) -> None:
        self.state = state
        self._command = [
            *(sys.executable, "-m", "grok_video.emulator", "--port", "0"),
            *("--state", str(state), "--time-scale", str(time_scale)),
        ]
        self._process: subprocess.Popen[str] | None = None
        self.place: dict[str, str] = {}

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
        )
        assert self._process.stdout is not None
        place = json.loads(self._process.stdout.readline())
        assert self.place in ({}, place), "a restarted emulator is found where it was"
        self.place = place

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def ask(self, name: str = "", **words: Any) -> dict[str, Any]:
        origin = self.place["base_url"].removesuffix("/grok/v1")
        request = urllib.request.Request(
            f"{origin}/_emulator/{name}".removesuffix("/"),
            data=json.dumps(words).encode() if name else None,
            headers={"Authorization": f"Bearer {self.place['api_key']}"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def creates(self) -> dict[str, list[str]]:
        """The accepted creates: prompt to request_ids, from the server's own books."""
        found: dict[str, list[str]] = defaultdict(list)
        with contextlib.closing(sqlite3.connect(self.state, timeout=PATIENCE)) as books:
            for request_id, fields in books.execute("SELECT request_id, fields FROM jobs"):
                found[json.loads(fields)["prompt"]].append(request_id)
        return found

    def attempts(self) -> list[tuple[float, float | None, float | None]]:
        """All creates that came: (arrived, answered, Retry-After of the answer)."""
        with contextlib.closing(sqlite3.connect(self.state, timeout=PATIENCE)) as books:
            return list(books.execute("SELECT at, answered, retry_after FROM attempts ORDER BY at"))


class Worker:
    """One run of the batch in a process of its own."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.outcomes: list[tuple[str, str, str | None]] = []
        self.summary: dict[str, Any] | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.batch_worker", json.dumps(settings)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )

    def lines(self) -> Iterator[None]:
        """Step through what it prints; one step for each line."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("["):
                self.outcomes.append(tuple(json.loads(line)))
            elif line.startswith("{"):
                self.summary = json.loads(line)
            yield

    def kill(self) -> bool:
        """SIGKILL; return whether it was still running."""
        self._process.send_signal(signal.SIGKILL)
        ended = self._process.wait(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return ended == -signal.SIGKILL

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal sends it; return when it has ended of it."""
        self._process.send_signal(signal.SIGINT)
        for _ in self.lines():
            pass
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert self._process.wait(PATIENCE) in (1, 130, -signal.SIGINT)

    def finish(self) -> dict[str, Any]:
        for _ in self.lines():
            pass
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert self._process.wait(PATIENCE) == 0
        assert self.summary is not None
        return self.summary


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::ResourceWarning"}


def make_pictures(folder: Path, count: int, seed: int) -> None:
    folder.mkdir()
    chance = random.Random(seed)
    for number in range(count):
        colour = tuple(chance.randrange(256) for _ in range(3))
        content = io.BytesIO()
        PIL.Image.new("RGB", (64, 64), colour).save(content, "PNG")
        (folder / f"picture-{number:05}.png").write_bytes(content.getvalue())


def states(ledger: Path) -> dict[str, tuple[str, str | None]]:
    """What a person reads in the ledger: key to (state, request_id)."""
    if not ledger.exists():
        return {}
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as read:
        rows = read.execute("SELECT key, state, request_id FROM item")
        return {key: (state, request_id) for key, state, request_id in rows}


def run(
    folder: Path,
    *,
    items: int,
    kills: int,
    forced: int,
    server_kills: int = 0,
    storm: float = 0.0,
    max_in_flight: int = 40,
    time_scale: float = 0.002,
    seed: int = 0,
    say: Any = lambda _: None,
) -> dict[str, Any]:
    """Run the batch to its end through all that, check the books, and return what was counted."""
    chance = random.Random(seed)
    make_pictures(folder / "pictures", items, seed)
    ledger = folder / "run.sqlite"
    server = Server(folder / "server.sqlite", time_scale)
    server.start()
    settings = {
        **server.place,
        "pictures": str(folder / "pictures"),
        "out": str(folder / "videos"),
        "ledger": str(ledger),
        "max_in_flight": max_in_flight,
    }
    plan = ["forced"] * forced + ["random"] * (kills - forced)
    chance.shuffle(plan)
    for number in sorted(chance.sample(range(len(plan)), server_kills)):
        plan[number] += "+server"
    storm_at = len(plan) // 2 if storm else -1
    counted: Counter[str] = Counter()
    began = time.monotonic()
    try:
        for number, kind in enumerate(plan):
            # The share of the work that this process may do before it dies.
            pace = max(1, (items - len(saved(ledger))) // (len(plan) - number + 1))
            if number == storm_at:
                server.ask("storm", seconds=storm, retry_after=min(5.0, storm / 2))
                counted["storms"] += 1
            worker = Worker(settings)
            counted["kills"] += kill_one(worker, server, kind, chance.randrange(pace + 1), chance)
            cut = [key for key, (state, _) in states(ledger).items() if state == "submitting"]
            counted["creates cut short"] += len(cut)
            counted["kills in the window"] += bool(cut)
            counted["forced into the window"] += bool(cut) and "forced" in kind
            say(f"{number + 1:3} {kind:14} {len(saved(ledger)):5} saved, {len(cut)} cut short")
            if server.ask()["faults_left"]:
                # Nobody met the stall: the next worker must not either.
                server.kill()
                server.start()
        worker = Worker(settings)
        summary = worker.finish()
        say(f"undisturbed: {summary['counts']}")
        for key, state, error in worker.outcomes:
            if state not in ("saved", "skipped", "in_doubt"):
                say(f"{key}: {state}: {error}")
        told = dict(counted)
        told |= check_books(server, ledger, items, summary, settings)
        told |= resolve(server, ledger, items, settings)
        told["early creates"] = early_creates(server)
    finally:
        server.kill()
    return told | {"seconds": round(time.monotonic() - began, 1)}


def saved(ledger: Path) -> list[str]:
    return [key for key, (state, _) in states(ledger).items() if state == "saved"]


def kill_one(worker: Worker, server: Server, kind: str, after: int, chance: random.Random) -> int:
    """Let a worker live for so many outcomes, or into the window, and kill it."""
    lines = worker.lines()
    for _ in lines:
        if sum(state == "saved" for _, state, _ in worker.outcomes) >= after:
            break
    if "forced" in kind:
        # Taken and billed, or not taken at all; in both cases no answer comes in time.
        accepted = chance.random() < 0.6
        server.ask(
            "script",
            phase="create",
            faults=[["Stall", {"seconds": 10, "resume": accepted}]],
        )
        until = time.monotonic() + PATIENCE
        while server.ask()["faults_left"]:
            if time.monotonic() > until or worker.summary is not None:
                break
            # Its outcomes are read on: a full pipe would hold the worker back.
            next(lines, None)
    if "server" in kind and chance.random() < 0.5:
        server.kill()
    killed = worker.kill()
    if "server" in kind:
        server.kill()
        server.start()
    return killed


def check_books(
    server: Server, ledger: Path, items: int, summary: dict[str, Any], settings: dict[str, Any]
) -> dict[str, int]:
    """Compare what the server accepted with what the ledger knows, item by item."""
    creates, known = server.creates(), states(ledger)
    names = {f"push in on {path.stem}": path.stem for path in Path(settings["pictures"]).iterdir()}
    assert len(known) == items
    assert summary["stopped"] is None, summary["stopped"]
    assert not summary["left"]
    in_doubt = {key for key, (state, _) in known.items() if state == "in_doubt"}
    assert in_doubt == set(summary["in_doubt"])
    assert {state for state, _ in known.values()} <= {"saved", "in_doubt"}
    extra = {prompt: ids for prompt, ids in creates.items() if len(ids) != 1}
    assert extra == {}, "some were paid for twice"
    for prompt, (request_id,) in creates.items():
        state, written = known[names[prompt]]
        assert written == request_id or state == "in_doubt", "a paid job is lost"
    never_accepted = {key for key in in_doubt if f"push in on {key}" not in creates}
    accepted = sum(map(len, creates.values()))
    assert accepted == items - len(never_accepted)
    assert server.ask()["accepted"] == accepted
    return {
        "accepted": accepted,
        "in doubt": len(in_doubt),
        "in doubt and never accepted": len(never_accepted),
        "extra": accepted - len(creates),
        "lost": 0,  # asserted above
    }


def resolve(server: Server, ledger: Path, items: int, settings: dict[str, Any]) -> dict[str, int]:
    """Do what a person does about the items in doubt: look them up, and send the rest again."""
    creates = server.creates()
    found = {
        key: creates[f"push in on {key}"][0]
        for key, (state, _) in states(ledger).items()
        if state == "in_doubt" and f"push in on {key}" in creates
    }
    last = Worker(settings | {"found_ids": found, "resubmit_in_doubt": True}).finish()
    assert set(last["counts"]) <= {"saved", "skipped"}, last
    beside = {path.name for path in ledger.parent.glob("run.sqlite?*")}
    assert beside <= {"run.sqlite-wal", "run.sqlite-shm"}, "nothing of ours is left"
    files = sorted(Path(settings["out"]).iterdir())
    assert [path.stem for path in files] == sorted(states(ledger))
    assert all(path.read_bytes()[4:8] == b"ftyp" for path in files)
    assert sum(map(len, server.creates().values())) == items
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as read:
        sizes = dict(read.execute("SELECT path, size FROM item"))
    assert {str(path): path.stat().st_size for path in files} == sizes
    return {"valid MP4s": len(files), "found by hand": len(found)}


def early_creates(server: Server) -> int:
    """Count creates that came while an answer's Retry-After had time left.

    Those that were on their way when it was given (within 0.1 s) could not know.
    """
    attempts = server.attempts()
    waits = [(done, done + wait) for _, done, wait in attempts if done and wait]
    return sum(any(done + 0.1 < at < until for done, until in waits) for at, _, _ in attempts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("items", 2000), ("kills", 30), ("forced", 12), ("server-kills", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--storm", type=float, default=60.0, help="seconds of 429 in the middle")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="grok-video-kills-") as folder:
        counted = run(
            Path(folder),
            items=given.items,
            kills=given.kills,
            forced=given.forced,
            server_kills=given.server_kills,
            storm=given.storm,
            seed=given.seed,
            say=lambda line: print(line, file=sys.stderr),
        )
    print(json.dumps(counted, indent=1))


if __name__ == "__main__":
    main()

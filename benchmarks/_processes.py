"""The processes of a benchmark: a server and its clients, kept apart, ended with who began them.

A process is a module of this folder, run with words. A server prints the numbers by which it is
found and then serves until its stdin ends (`served`); a client says "ready" and then answers each
line of its stdin with a line, both JSON (`answer`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Seconds after which a client that hangs is killed: ten times what the longest takes.
PATIENCE = 300


def pin(processor: int) -> None:
    """Keep client (0) and server (1) apart, where the system lets us."""
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(0, {processor % (os.cpu_count() or 1)})


def _start(module: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", module, *map(str, words)],
        # As this process finds its modules, whatever folder it was started in.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# --- servers -------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(module: str, *words: object) -> Iterator[list[int]]:
    """Run a server; yield the numbers that it prints first."""
    with _start(module, *words) as process:
        try:
            yield [int(number) for number in process.stdout.readline().split()]
        finally:
            process.stdin.close()


async def served(*numbers: int) -> None:
    """Be a server that listens: say by which numbers it is found, return when it is to end."""
    print(*numbers, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# --- clients -------------------------------------------------------------------------------------


class Client:
    """A new process that measures when it is told to; use it as a context manager."""

    def __init__(self, module: str, *words: object) -> None:
        self.name = " ".join(map(str, (module, *words)))
        self._process = _start(module, *words)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with self._process:
            try:
                self._process.wait(PATIENCE)
            finally:
                self._process.kill()

    def ready(self) -> None:
        """Return once it has started: what else runs then would share its processor."""
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{self.name}: the client process did not start; see above")

    def ask(self, **words: object) -> dict:
        """Return the figures of one measurement, which no other process disturbs meanwhile."""
        print(json.dumps(words), file=self._process.stdin, flush=True)
        too_late = threading.Timer(PATIENCE, self._process.kill)
        too_late.start()
        answer = self._process.stdout.readline()
        too_late.cancel()
        if not answer:
            raise RuntimeError(
                f"{self.name}: the client process died, or took over {PATIENCE} s; see above"
            )
        return json.loads(answer)


def answer(measure: Callable[..., dict]) -> None:
    """Be a client: measure as often as is asked, then end."""
    pin(0)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)


def measured_once(module: str, *words: object, **more: object) -> dict:
    """Return the figures of one measurement in a process of its own."""
    with Client(module, *words) as client:
        client.ready()
        return client.ask(**more)

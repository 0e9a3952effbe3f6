"""What a child process says, read to the end of its pipes."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from typing import IO


def rest(child: subprocess.Popen[str], patience: float) -> tuple[str, str]:
    """Close a child's stdin, wait for its end and return what of its output was not read yet.

    `Popen.communicate` goes below the buffers of the pipes: what a `readline` before it had taken
    in along with its own line would be missing. Raises `subprocess.TimeoutExpired`, with the child
    killed, if it lives on for longer than `patience` seconds.
    """
    found = {"out": "", "err": ""}

    def read(name: str, pipe: IO[str]) -> None:
        with pipe:
            found[name] = pipe.read()

    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
    pipes = [(name, pipe) for name, pipe in (("out", child.stdout), ("err", child.stderr)) if pipe]
    readers = [threading.Thread(target=read, args=pair, daemon=True) for pair in pipes]
    for reader in readers:
        reader.start()
    try:
        child.wait(patience)
    finally:
        child.kill()
        for reader in readers:
            reader.join(patience)
    return found["out"], found["err"]

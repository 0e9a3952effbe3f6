"""What a child process says, read to the end of its pipes."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from typing import IO


class _Reader(threading.Thread):
    """Reads one pipe to its end."""

    def __init__(self, pipe: IO[str] | None) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self.said = ""
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        if self._pipe is not None:
            try:
                with self._pipe:
                    self.said = self._pipe.read()
            except Exception as error:  # noqa: BLE001 - raised by who waits
                self.error = error


def rest(child: subprocess.Popen[str], patience: float) -> tuple[str, str]:
    """Close a child's stdin, wait for its end and return what of its output was not read yet.

    `Popen.communicate` goes below the buffers of the pipes: what a `readline` before it had taken
    in along with its own line would be missing. Raises `subprocess.TimeoutExpired`, with the child
    killed, if after `patience` seconds it lives on or somebody whom it left behind holds its pipes.
    """
    end = time.monotonic() + patience
    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
    readers = [_Reader(child.stdout), _Reader(child.stderr)]
    for reader in readers:
        reader.join(max(end - time.monotonic(), 0))
    if any(reader.is_alive() for reader in readers):
        child.kill()
        child.wait()
        for reader in readers:
            reader.join(1)
        out, err = [reader.said for reader in readers]
        raise subprocess.TimeoutExpired(child.args, patience, out, err)
    child.wait(max(end - time.monotonic(), 1))
    for reader in readers:
        if reader.error is not None:
            raise reader.error
    return readers[0].said, readers[1].said

"""A terminal for a child process, and what would stand on its screen."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

from tests.processes.command import PATIENCE


def shown_on_terminal(
    *arguments: str, columns: int, env: Mapping[str, str], cwd: Path
) -> tuple[int, list[str]]:
    """Run a command whose streams are all one terminal; return its exit code and the screen."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-m", "grok_video", *arguments],
        # The size is the terminal's own.
        env={name: value for name, value in env.items() if name != "COLUMNS"},
        cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 65536):
            written += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    return child.wait(PATIENCE), screen(written.decode(), columns)


def screen(written: str, columns: int) -> list[str]:
    """Return the lines that a terminal of this width has in the end, those above its top included.

    It knows what a bar is drawn with (the beginning of the line, up, erase) and no more.
    """
    rows: list[list[str]] = [[]]
    x = y = 0
    for mark in re.finditer(r"\x1b\[([?0-9;]*)([A-Za-z])|.", written, re.DOTALL):
        match mark[2] or mark[0]:
            case "\r":
                x = 0
            case "\n":
                y += 1
            case "A" if mark[2]:
                y = max(y - int(mark[1] or 1), 0)
            case "K" if mark[2]:
                rows[y] = [] if mark[1] == "2" else rows[y][:x]
            case letter if not mark[2]:
                if x == columns:
                    x, y = 0, y + 1
                    rows += [[]] * (y + 1 - len(rows))
                row = rows[y] + [" "] * (x - len(rows[y]))
                rows[y] = [*row[:x], letter, *row[x + 1 :]]
                x += 1
            case _:
                pass  # a colour, the cursor shown or hidden
        rows += [[] for _ in range(y + 1 - len(rows))]
    return ["".join(row).rstrip() for row in rows]

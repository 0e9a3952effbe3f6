"""Nothing that a child said is lost between the line that was read and the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.pipes import rest

SAYS = "import sys; print('1\\n2\\n3', flush=True); print('4\\n5', file=sys.stderr, flush=True);"


def child(then: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SAYS + then],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_lines_that_came_along_with_one_that_was_read_are_in_the_rest() -> None:
    started = child("print('6')")
    assert started.stdout is not None
    assert started.stderr is not None
    assert (started.stdout.readline(), started.stderr.readline()) == ("1\n", "4\n")
    assert rest(started, 30) == ("2\n3\n6\n", "5\n")
    assert started.returncode == 0


def test_a_child_that_does_not_end_is_killed_and_told_of() -> None:
    started = child("import threading; threading.Event().wait()")
    with pytest.raises(subprocess.TimeoutExpired):
        rest(started, 0.1)
    assert started.wait(30) < 0

"""Nothing that a child said is lost between the line that was read and the rest."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.pipes import rest

SAYS = "import sys; print('1\\n2\\n3', flush=True); print('4\\n5', file=sys.stderr, flush=True);"


def child(then: str, *inherited: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SAYS + then],
        pass_fds=inherited,
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


def test_a_child_that_does_not_end_is_killed_and_told_of_with_what_it_said() -> None:
    started = child("import threading; threading.Event().wait()")
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        rest(started, 0.5)
    assert (caught.value.output, caught.value.stderr) == ("1\n2\n3\n", "4\n5\n")
    assert started.returncode < 0


def test_a_pipe_that_somebody_else_holds_is_not_taken_for_a_silent_child() -> None:
    left_behind = "subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)"
    # It ends with its own stdin, whose other end is this test's.
    mine, theirs = os.pipe()
    started = child(f"import subprocess; {left_behind.replace('subprocess.PIPE', str(mine))}", mine)
    os.close(mine)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            rest(started, 0.5)
    finally:
        os.close(theirs)


def test_what_cannot_be_read_is_raised() -> None:
    with pytest.raises(UnicodeDecodeError):
        rest(child("sys.stdout.buffer.write(b'\\xff')"), 30)

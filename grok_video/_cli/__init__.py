"""The command line, from the outside: `main`, which both `grok-video` and `python -m` call.

Only the standard library is imported here, so that a missing extra is one sentence and `--help`
costs what typer costs. The modules of this package: `_app` (commands) and `_options` (what several
of them take), `_connect` (where requests go), `_jobs`, `_doctor` and `_serve` (what is done),
`_arguments` (a request from words), `_endings` (exit codes, last words), `_interrupts` (signals),
`_console` and `_bar` (what is shown, and where). For many jobs: `_rows` (the manifest), `_plan`
(its options), `_forecast` (what it would send and cost), `_batch` (what is done), `_words` (what is
said of it), `_progress` (its bar) and `_show` (its report).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

#: What ends a command before its time; a terminal that closes is no signal on Windows.
SIGNALS: Final = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
#: Exit codes above this are those of signals.
_SIGNALLED: Final = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` default to the process's own.

    0 done, 1 failed, 2 usage, 3 the outcome of a create is unknown, 4 timed out with the job still
    running, 130 interrupted (143 for SIGTERM, 129 for a terminal
    that was closed). A closed stderr is silence; with a closed stdout
    nothing is sent, because an id that nobody hears may be paid for.
    """
    if arguments is None and not _has_streams():
        sys.stderr.write(
            "grok-video: stdout is closed, and the result would be lost; send it to a file or to "
            f"{os.devnull}. Nothing was sent.\n"
        )
        return 2
    own = arguments is None
    # Signals come to the main thread, and only it may say who hears them.
    is_main = threading.current_thread() is threading.main_thread()
    before = {one: signal.getsignal(one) for one in SIGNALS}
    try:
        code = _run(arguments)
        if own:
            _let_go_of_broken_streams()
        if own and is_main and code > _SIGNALLED:
            # All is said. What comes while the interpreter ends would have an exit code of its own.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return code
    finally:
        # A command that was interrupted keeps its handlers while it says its last words; a process
        # that goes on with something else gets its own back.
        if not own and is_main:
            for number, handler in before.items():
                if handler is not None:  # else it was not set from Python, and is as it was
                    signal.signal(number, handler)


def _has_streams() -> bool:
    """Let no file or socket become a standard stream; return whether there is a stdout."""
    stdout = sys.stdout
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - to the end
    return stdout is not None


def give_up(stream: TextIO) -> None:
    """Let a stream that takes no more take everything, and lose it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _let_go_of_broken_streams() -> None:
    # It was told already. Python would try once more at its end, complain, and exit with 120.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            give_up(stream)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        try:
            from grok_video._cli._app import run
        except ModuleNotFoundError as error:
            if error.name != "typer":
                raise
            sys.stderr.write(
                "grok-video: the command line needs typer, which is not installed: "
                'pip install "grok-video[cli]"\n'
            )
            return 2
        return run(arguments)
    except KeyboardInterrupt:
        # Before a command installs its own handlers nothing can have been sent.
        sys.stderr.write("grok-video: interrupted; nothing was sent\n")
        return 130
    except OSError as error:
        # Commands tell theirs: this one met --help or --version on its way out.
        if sys.flags.dev_mode:
            raise
        with contextlib.suppress(OSError):
            sys.stderr.write(f"grok-video: {error.strerror or error}: stdout.\n")
        return 1

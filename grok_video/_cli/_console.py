"""What one command says, and where: results on stdout, everything else on stderr.

Texts of other people (a provider's reason, a URL) pass through `one_line`, so that they can start
neither a second line nor a terminal's escape sequence; results pass through `printable`, as the
name of a file has to stay that. No exit codes and no clients here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import sys
import unicodedata
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from grok_video._cli._bar import Bar
    from grok_video._models import Snapshot

#: What a line on stderr begins with, as the tools of a shell pipeline do it.
PREFIX = "grok-video: "
#: Kinds of characters that are shown although Python calls them unprintable: names of files have
#: them, and no terminal obeys them. Other spaces (macOS puts U+202F before AM), marks of vendors,
#: what a later Unicode knows.
_SHOWN: Final = frozenset({"Zs", "Co", "Cn"})
#: Of the kind that is not shown, those that only join letters: Persian has one, emoji the other.
_JOINERS: Final = "\u200c\u200d"


class Console:
    """The two streams of one command, in words for people or in JSON lines."""

    def __init__(self, *, json_lines: bool) -> None:
        self.json_lines = json_lines
        self._bar: Bar | None = None

    def result(self, facts: Mapping[str, Any], line: str) -> None:
        """Put the result on stdout: `facts` as one JSON object, or the bare `line`.

        Where stdout is the terminal that has a bar at its end, the bar makes room for it.
        """
        said = json.dumps(facts) if self.json_lines else printable(line)
        try:
            if self._bar is not None and _share_a_terminal():
                self._bar.say(said)
            else:
                _write(sys.stdout, said)
        except OSError as error:
            error.filename = "stdout"  # else nobody could tell which disk is full
            raise

    def status(self, text: str) -> None:
        """Put one short line on stderr, above the bar where there is one."""
        line = PREFIX + one_line(text)
        # Whoever closed stderr wants no words; above all, they must not stop a create.
        with contextlib.suppress(OSError):
            if self._bar is not None:
                self._bar.say(line)
            else:
                _write(sys.stderr, line)

    def error(self, facts: Mapping[str, Any]) -> None:
        """Tell an error once: as an object on stdout with --json, as one line on stderr without.

        Raises `OSError` where that was not taken; an object was then said on stderr, if that works.
        """
        if not self.json_lines:
            _write(sys.stderr, self.error_line(facts))
            return
        try:
            _write(sys.stdout, json.dumps(facts))
        except OSError:
            with contextlib.suppress(OSError):
                _write(sys.stderr, self.error_line(facts))
            raise

    def error_line(self, facts: Mapping[str, Any]) -> str:
        """Return the one line that an error is for people."""
        message = one_line(str(facts["message"]))
        if facts.get("resume"):
            stop = "" if message.endswith((".", "!", "?")) else "."
            message += f"{stop} Resume with: {in_bash(facts['resume'])}"
        return PREFIX + message

    def error_at_once(self, facts: Mapping[str, Any]) -> None:
        """Tell an error from inside a signal handler: past all buffers, and the cursor is back.

        Raises `OSError` as `error` does.
        """
        if self._bar is not None:
            with contextlib.suppress(OSError):
                os.write(2, b"\r\x1b[K\x1b[?25h")
        if not self.json_lines:
            _write_at_once(2, self.error_line(facts))
            return
        try:
            _write_at_once(1, json.dumps(facts))
        except OSError:
            with contextlib.suppress(OSError):
                _write_at_once(2, self.error_line(facts))
            raise

    # --- what the library notes on its way -------------------------------------------------------

    @contextlib.contextmanager
    def notes(self) -> Generator[None]:
        """Show what the library logs (a create that is sent again, a poll that failed), once each.

        A wait outlives any number of failed polls, and a person should know what it is waiting for.
        """
        logger = logging.getLogger("grok_video")
        handler = _Notes(self)
        before = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before[0])
            logger.propagate = before[1]

    # --- progress --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def progress(self, text: str) -> Generator[None]:
        """Show a bar for as long as this lasts, if stderr is a terminal that can show one."""
        self._bar = _bar(text)
        try:
            yield
        finally:
            bar, self._bar = self._bar, None
            if bar is not None:
                with contextlib.suppress(OSError):  # its terminal was closed
                    bar.stop()

    def phase(self, text: str) -> None:
        """Name what is going on now."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.phase(text)

    def snapshot(self, snapshot: Snapshot) -> None:
        """Show what a poll said."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.phase(snapshot.status.value, snapshot.progress)


class _Notes(logging.Handler):
    """Passes on each different record once: a server that is away would fill the screen."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on one record; what became of a job the command line says in its own words."""
        if record.name != "grok_video":
            return
        text = record.getMessage()
        if text not in self._told:
            self._told.add(text)
            self._console.status(text)


def _write(stream: TextIO, line: str) -> None:
    try:
        stream.write(f"{line}\n")
    except UnicodeEncodeError:
        # A path that the stream's encoding does not have is no reason to stop: it was saved.
        spelled = line.encode(stream.encoding, "backslashreplace").decode(stream.encoding)
        stream.write(f"{spelled}\n")
    stream.flush()


def _write_at_once(number: int, line: str) -> None:
    left = f"{line}\n".encode("utf-8", "backslashreplace")
    while left:  # a disk that is nearly full takes the beginning, without a word
        left = left[os.write(number, left) :]


def _share_a_terminal() -> bool:
    """Return whether what goes to stderr appears where stdout does."""
    if not sys.stdout.isatty():
        return False
    return os.fstat(sys.stdout.fileno()).st_rdev == os.fstat(sys.stderr.fileno()).st_rdev


def _bar(text: str) -> Bar | None:
    # A terminal that cannot move its cursor would show each step of the bar as a line.
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None
    try:
        from grok_video._cli._bar import Bar
    except ModuleNotFoundError:
        return None  # rich is a comfort: without it the job still gets done
    return Bar(text)


def one_line(text: str) -> str:
    """Return the text on one line, without characters that a terminal would obey."""
    flat = re.sub(r"\s*[\r\n]+\s*", " ", text.strip())
    return printable(flat)


def printable(text: str) -> str:
    """Return the text with escapes for what would start a line, or be obeyed by a terminal."""
    if text.isprintable():
        return text
    return "".join(mark if _is_shown(mark) else repr(mark)[1:-1] for mark in text)


def _is_shown(mark: str) -> bool:
    return mark.isprintable() or mark in _JOINERS or unicodedata.category(mark) in _SHOWN


def in_bash(command: str) -> str:
    """Return a command that `shlex.join` made, as a terminal may show it and a person can type it.

    Bash, zsh and ksh read $'...'; only words that another shell could not have on one line need it.
    """
    if printable(command) == command:
        return command
    return " ".join(_in_bash(word) for word in shlex.split(command))


def _in_bash(word: str) -> str:
    if printable(word) == word:
        return shlex.quote(word)
    return f"$'{''.join(_octets(mark) for mark in word)}'"


def _octets(mark: str) -> str:
    if _is_shown(mark) and mark not in "'\\":
        return mark
    # A name of bytes that are no text keeps them; half a character of an id has no better spelling.
    errors = "surrogateescape" if "\udc80" <= mark <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{octet:02x}" for octet in mark.encode("utf-8", errors))

"""What the package logs, so that no handler of the program's costs a paid job.

A handler that raises would raise out of the call that logs, between the answer to a create and its
record. Python's own handlers do not, but filters, formatters and other people's handlers do.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, Final

from grok_video._redaction import redact

__all__ = ["News", "life", "logger"]


class Log:
    """A logger that never raises, and whose texts of other people stay on their line."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, message: str, *args: object) -> None:
        """Tell what goes on."""
        self._tell(logging.INFO, message, args, None)

    def warning(self, message: str, *args: object) -> None:
        """Tell what somebody should look at."""
        self._tell(logging.WARNING, message, args, None)

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        """Tell what may have cost money that nobody else knows of."""
        self._tell(logging.ERROR, message, args, exc_info)

    def _tell(
        self, level: int, message: str, args: tuple[object, ...], error: BaseException | None
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        try:
            # The level of the stack at which the caller is.
            self._logger.log(level, message, *map(_shown, args), exc_info=error, stacklevel=3)
        except Exception as failure:  # noqa: BLE001 - whatever a program's handlers raise
            if level > logging.INFO:
                _tell_stderr(message % tuple(map(_shown, args)), failure)


class News:
    """Words of a server of which each is worth one line: it may send them with every answer."""

    __slots__ = ("_told",)

    #: Many more than any API has: one that makes a word of each answer is not told on and on.
    _MOST: Final = 32

    def __init__(self) -> None:
        self._told: set[str] = set()

    def is_new(self, word: str) -> bool:
        """Return whether the word was not told before, and is to be told now."""
        if word in self._told or len(self._told) >= self._MOST:
            return False
        self._told.add(word)
        return True


def _tell_stderr(text: str, failure: Exception) -> None:
    """Say it where the log could not: it may be the only word of a paid job."""
    with contextlib.suppress(Exception):
        kind = type(failure).__name__
        sys.stderr.write(f"grok_video: {text} (a handler of its log failed with {kind})\n")


def _shown(value: object) -> Any:  # noqa: ANN401 - what `%` takes
    """Return an argument as it may stand in one line: an id is whatever a server calls one."""
    if isinstance(value, int | float):
        return value
    text = str(value)
    if "://" in text or "data:" in text:
        text = redact(text, limit=len(text))
    if not text.isprintable():
        text = "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)
    return text


#: What a person should look at, and at level INFO what is tried again.
logger: Final = Log("grok_video")
#: What becomes of each job, for who keeps logs: the ids of what was paid. The command line, which
#: says all of it in its own words, leaves it out.
life: Final = Log("grok_video.jobs")

"""What asyncio's debug mode logs of a broken socket, without the frame that wrote to it.

In debug mode asyncio logs such a break with its traceback (level DEBUG, logger "asyncio"). It shows
the frame of the socket's `write`, and programs that print tracebacks with local variables then
print what was written: a request with the key in it, or a piece of a picture.
"""

from __future__ import annotations

import asyncio
import logging

from grok_video._transports._loops import running_library

__all__ = ["hide_written_bytes"]


class _WithoutFrames(logging.Filter):
    """Keeps the words of a socket that broke, and drops its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = record.exc_info
        if found and found[1] is not None and record.funcName == "_fatal_error":
            record.exc_info = None
            record.msg = f"{record.msg} (%s)"
            record.args = (*_arguments(record), type(found[1]).__name__)
        return True


def _arguments(record: logging.LogRecord) -> tuple[object, ...]:
    return record.args if isinstance(record.args, tuple) else (record.args,)


_FILTER = _WithoutFrames()


def hide_written_bytes() -> None:
    """Keep what is written to sockets out of the log, if the running loop is in debug mode."""
    if running_library() == "asyncio" and asyncio.get_running_loop().get_debug():
        logging.getLogger("asyncio").addFilter(_FILTER)  # adds it once

"""Exceptions as several threads may raise them: each its own object.

What is raised gathers a traceback and notes; one object in two threads would mix them. What must
never happen here: a call of a stranger's `__init__`, which may take other words than `args`, or
have an effect of its own.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

from grok_video._errors import GrokVideoError

__all__ = ["fresh"]

E = TypeVar("E", bound=BaseException)


def fresh(error: E) -> E:
    """Return an exception like this one that no thread has raised yet.

    This package's own come without the frames of the loop; a stranger keeps its traceback, which
    is all there is to find out where it came from. What cannot be copied is returned itself.
    """
    try:
        return _copied(error)
    except Exception:  # noqa: BLE001 - whatever a class does that cannot be copied
        return error


def _copied(error: E) -> E:
    twin: Any
    if isinstance(error, GrokVideoError):
        twin = copy.copy(error)
    else:
        # By the `__init__` of Python's own class under it, which knows what else there is to an
        # OSError or an ImportError.
        kind: Any = type(error)
        base: Any = next(each for each in kind.__mro__ if each.__module__ == "builtins")
        _, args, *state = base.__reduce__(error)
        twin = kind.__new__(kind, *args)
        base.__init__(twin, *args)
        base.__setstate__(twin, *state or (None,))
        if isinstance(error, OSError) and error.errno is not None:
            twin.errno, twin.strerror = error.errno, error.strerror
        twin.args = error.args
    if notes := getattr(error, "__notes__", None):
        twin.__notes__ = list(notes)
    twin.__cause__ = error.__cause__
    twin.__context__ = error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    twin.__traceback__ = None if isinstance(error, GrokVideoError) else error.__traceback__
    return cast("E", twin)

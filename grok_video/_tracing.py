"""Spans of OpenTelemetry around what takes time: a create, the wait for a job, a download.

Only where the program itself has imported OpenTelemetry: nothing is imported here, and without it
nothing is done. A span has names, ids and counts; what must never happen here: a prompt, a picture,
a link or the text of an error in a span, which others store, and a tracer that fails and takes a
paid job with it.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final, Self

from grok_video import __version__

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["span"]

#: How facts are called in a span: by OpenTelemetry's conventions where it has a word for them.
_NAMES: Final = {
    "model": "gen_ai.request.model",
    "request_id": "grok_video.request_id",
    "polls": "grok_video.polls",
    "size": "grok_video.bytes",
}


def span(name: str, **facts: str | float | None) -> Span | Silence:
    """Return a span, to be entered with `with`; facts that are None are left out."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    return SILENCE if trace is None else Span(trace, name, facts)


class Silence:
    """The span of a program that traces nothing."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def note(self, **facts: str | float | None) -> None:
        """Do nothing."""


SILENCE: Final = Silence()


class Span:
    """A stretch of time as the program's tracer is told of it; a child of the current span."""

    __slots__ = ("_entered", "_facts", "_name", "_span", "_trace")

    def __init__(self, trace: Any, name: str, facts: dict[str, str | float | None]) -> None:  # noqa: ANN401 - the module `opentelemetry.trace`
        self._trace = trace
        self._name = name
        self._facts = facts
        self._span: Any = None
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.suppress(Exception):
            tracer = self._trace.get_tracer("grok_video", __version__)
            self._span = self._entered.enter_context(
                tracer.start_as_current_span(
                    f"grok_video {self._name}", kind=self._trace.SpanKind.CLIENT
                )
            )
            self.note(**self._facts)
        return self

    def note(self, **facts: str | float | None) -> None:
        """Add facts that are known by now."""
        if self._span is not None:
            with contextlib.suppress(Exception):
                for name, value in facts.items():
                    if value is not None:
                        self._span.set_attribute(_NAMES[name], value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.note(request_id=getattr(error, "request_id", None))
        with contextlib.suppress(Exception):
            if self._span is not None and kind is not None:
                self._span.set_attribute("error.type", kind.__qualname__)
                if issubclass(kind, Exception):  # a cancellation is no failure
                    self._span.set_status(self._trace.StatusCode.ERROR)
        with contextlib.suppress(Exception):
            self._entered.close()  # not told of the error, whose text it would keep

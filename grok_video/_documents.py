"""The shapes of an answer as classes, and JSON bytes read into them.

Reading is tolerant (unknown keys are accepted, numbers may come as text) and never guesses: what
cannot be read is an `UnexpectedResponse` with its JSON path. What must never happen here: an
opinion about what a document means for a job (that is `_wire`) or for a caller (`_refusals`).

Imported with the first request, in a thread: cattrs and the readers that it writes and compiles are
a tenth of all that a client would be waited for, and nothing before an answer needs them.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final, NewType, cast

import cattrs
from attrs import define

from grok_video._errors import UnexpectedResponse
from grok_video._rawanswer import DECODER, SCANNED, excerpt, is_object, looks_like_html
from grok_video._redaction import hide_pictures_within, may_hold_pictures

if TYPE_CHECKING:
    from collections.abc import Callable

# One class stands for all three levels of an answer (envelope, task, provider), because gateways
# move keys between the levels and a reader that looks on one level only would miss them. Nobody
# changes one, and yet they are not frozen: attrs makes those at twice the price, one for each poll.
# Nobody compares or shows one, and to write how is half of what such a class costs to import.

Lenient = NewType("Lenient", str)
Number = NewType("Number", float)
Flag = NewType("Flag", bool)
#: `usage.cost_in_usd_ticks`: the one thing that is read of `usage`, which has no class of its own.
Ticks = NewType("Ticks", float)


@define(eq=False, repr=False)
class VideoDocument:
    url: str | None = None
    duration: Number | None = None
    respect_moderation: Flag | None = None


@define(eq=False, repr=False)
class ErrorDocument:
    code: Lenient | None = None
    message: Lenient | None = None
    type: Lenient | None = None


@define(eq=False, repr=False)
class Document:
    status: str | None = None
    request_id: Lenient | None = None
    id: Lenient | None = None
    task_id: Lenient | None = None
    taskId: Lenient | None = None  # noqa: N815 - the wire's spelling
    progress: Number | None = None
    model: Lenient | None = None
    usage: Ticks | None = None
    video: VideoDocument | None = None
    error: ErrorDocument | None = None
    code: Lenient | None = None
    message: Lenient | None = None
    fail_reason: Lenient | None = None
    result_url: str | None = None
    video_url: str | None = None
    data: Document | None = None

    @property
    def identity(self) -> str | None:
        return self.request_id or self.task_id or self.taskId or self.id


def _text(value: Any, _: Any) -> str | None:  # noqa: ANN401 - raw JSON
    if value is not None and not isinstance(value, str):
        message = f"expected a string, found {_kind(value)}"
        raise TypeError(message)
    return value


def _lenient(value: Any, _: Any) -> str | None:  # noqa: ANN401
    """Read a word that decides nothing by its type: codes come as numbers, messages as objects."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _number(value: Any, _: Any) -> float | None:  # noqa: ANN401
    """Read a number that may come as text ("45%"); None for anything that is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value.strip().rstrip("%"))
        except ValueError:
            return None
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def _ticks(value: Any, _: Any) -> float | None:  # noqa: ANN401 - raw JSON
    # A price that cannot be read must not cost a video.
    return _number(value.get("cost_in_usd_ticks"), float) if is_object(value) else None


def _flag(value: Any, _: Any) -> bool | None:  # noqa: ANN401
    return value if isinstance(value, bool) else None


def _kind(value: Any) -> str:  # noqa: ANN401
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(cast("type[object]", type(value)), "null" if value is None else "a number")


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)

    def register(kind: Any, hook: Callable[[Any, Any], Any]) -> None:  # noqa: ANN401
        # Every field may be absent or null. With a hook for `kind | None` itself, cattrs does not
        # go through its general way of optional types for each field of each poll.
        converter.register_structure_hook_func(lambda asked: asked == kind | None, hook)

    register(str, _text)
    register(Lenient, _lenient)
    register(Number, _number)
    register(Flag, _flag)
    register(Ticks, _ticks)
    read_video = converter.get_structure_hook(VideoDocument)
    read_error = converter.get_structure_hook(ErrorDocument)

    def video(value: Any, _: Any) -> Any:  # noqa: ANN401
        return None if value is None else read_video(_an_object(value), VideoDocument)

    def error(value: Any, _: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return read_error(value, ErrorDocument) if value else None
        return ErrorDocument(message=Lenient(_lenient(value, str) or "")) if value else None

    register(VideoDocument, video)
    register(ErrorDocument, error)

    def document(value: Any, _: Any) -> Any:  # noqa: ANN401
        if isinstance(value, str):
            # The gateway family stores the provider's answer as JSON text in some versions.
            try:
                value = json.loads(value) if value.strip() else None
            except ValueError:
                value = None
        return read_level(_an_object(value), Document) if value else None

    register(Document, document)
    read_level = converter.get_structure_hook(Document)
    return converter


def _an_object(value: Any) -> dict[str, Any]:  # noqa: ANN401
    if not is_object(value):
        message = f"expected an object, found {_kind(value)}"
        raise TypeError(message)
    return value


_read: Final = _make_converter().get_structure_hook(Document)


def _parse(body: bytes) -> Any:  # noqa: ANN401 - raw JSON
    try:
        # What `json.loads` does with bytes, without first looking for UTF-16.
        return DECODER.decode(body.decode())
    except ValueError:
        return json.loads(body)


def read_document(status: int, body: bytes, *, refused: bool) -> tuple[Document, dict[str, Any]]:
    """Return what an answer says, as documents and as the JSON it was, without pictures.

    Raises `UnexpectedResponse`, with `refused` as given, if it cannot be read.
    """
    # Raised where nothing is being handled: what the parsers raise holds the answer, and it would
    # go along as the context.
    problem = ""
    path: str | None = None
    document: Document | None = None
    raw: Any = None
    try:
        raw = _parse(body)
    except (ValueError, RecursionError) as error:
        html = looks_like_html(body)
        what = "HTML" if html else "something that is not JSON"
        hint = "; the base URL or path is probably wrong" if html else ""
        why = "it is nested too deeply" if isinstance(error, RecursionError) else "unreadable"
        problem = f"the API answered HTTP {status} with {what} ({why}){hint}"
    else:
        if is_object(raw):
            try:
                document = _read(raw, Document)
            except (cattrs.BaseValidationError, RecursionError) as error:
                path, why = _explain(error)
                problem = f"the API's answer (HTTP {status}) cannot be read at {path}: {why}"
        else:
            path = "$"
            problem = (
                f"the API answered HTTP {status} with JSON that is {_kind(raw)}, not an object"
            )
    if document is None:
        # A page with a 2xx is most likely a wrong address, and still proves nothing.
        raise UnexpectedResponse(
            problem, status=status, path=path, body=excerpt(body), refused=refused
        )
    # After reading: the signature of a link and an opaque id may look like a picture.
    if may_hold_pictures(body):
        hide_pictures_within(raw, in_haste=len(body) > SCANNED)
    return document, raw


def _explain(error: Exception) -> tuple[str, str]:
    if isinstance(error, RecursionError):
        return "$.data", "it is nested too deeply"
    found = cattrs.transform_error(error, format_exception=lambda inner, _: str(inner))
    why, _, path = found[0].rpartition(" @ ")
    return path, why

"""An answer as it came: what can be told of its bytes before they are read into documents.

Here is what also holds for what no document can be made of: the id that it names, whether it is a
page for people, and what may be shown of it. What must never happen here: an import of cattrs.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, Final, TypeGuard

from grok_video._redaction import redact, unescape

__all__ = ["DECODER", "SCANNED", "excerpt", "is_object", "looks_like_html", "read_identity"]

#: Made once: `json.loads` first looks for UTF-16.
DECODER: Final = json.JSONDecoder()


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:  # noqa: ANN401 - raw JSON
    """Return whether raw JSON is an object."""
    return isinstance(value, dict)


#: What a job's id is called, the surest names first: an "id" may be anything's.
_NAMES: Final = ("request_id", "task_id", "taskId")
_NAMED: Final = r'"(?:request_id|task_id|taskId)"\s*:\s*("(?:[^"\\]|\\.)*")'
#: Characters of an answer that is no JSON in which an id is looked for.
SCANNED: Final = 2**16


def read_identity(body: bytes) -> str | None:
    """Return the id of a job that an answer names, whatever else stands there; None if none does.

    The id may be paid for, so nothing beside it that cannot be read may cost it: not a field of
    another type, not something after the document, nor that its end is missing.
    """
    levels = _levels(body)
    for names in (_NAMES, ("id",)):
        for level in levels:
            for name in names:
                value = level.get(name)
                if isinstance(value, int) and not isinstance(value, bool):
                    value = str(value)
                if isinstance(value, str) and value.strip():
                    return value
    if levels:
        return None
    text = body[:SCANNED].decode("utf-8", "replace")
    for found in re.finditer(_NAMED, text):
        with contextlib.suppress(ValueError):
            name = str(json.loads(found[1]))
            if name.strip() and "\ufffd" not in name:  # not what the server wrote
                return name
    return None


def _levels(body: bytes) -> list[dict[str, Any]]:
    """Return the objects of an answer, outermost first; none where it is no JSON object."""
    levels: list[dict[str, Any]] = []
    try:
        # The first of several documents, too: the id comes first.
        raw, _ = DECODER.raw_decode(body.decode("utf-8-sig").lstrip())
        while is_object(raw):
            levels.append(raw)
            raw = raw.get("data")
            if isinstance(raw, str):
                raw, _ = DECODER.raw_decode(raw.lstrip())
    except (ValueError, RecursionError):
        pass
    return levels


def looks_like_html(body: bytes) -> bool:
    """Return whether an answer begins as a page for people does."""
    start = body[:500].lstrip().lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<center", b"<!--"))


def excerpt(body: bytes) -> str:
    """Return the beginning of an answer as it may be shown: redacted."""
    return redact(unescape(body[:8192].decode("utf-8", "replace")))

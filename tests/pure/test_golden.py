"""The client's half of the golden documents: each is read as its `expect` says."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from grok_video import APIError, GrokVideoError, _wire

WIRE = Path(__file__).parents[1] / "wire"
DOCUMENTS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in sorted(WIRE.glob("*.json"))
    if not path.stem.startswith("recorded-")
}
#: Facts of `expect` that are words for people.
REMARKS = {"note", "passing"}


def read(document: dict[str, Any]) -> dict[str, Any]:
    """Return what the client makes of a document, in the words of `expect`."""
    body = json.dumps(document["json"]) if "json" in document else document.get("text", "")
    headers = {name.lower(): value for name, value in document["headers"].items()}
    call = (document["http_status"], headers, body.encode())
    try:
        if document["call"] == "create":
            return {"request_id": _wire.read_create(*call, now=0)}
        snapshot = _wire.read_poll(*call, request_id="j1", now=0)
    except GrokVideoError as error:
        assert isinstance(error, APIError)
        lost = document["call"] == "create" and not error.refused
        name = "CreateOutcomeUnknown" if lost else type(error).__name__
        return {**vars(error), "error": name}
    facts: dict[str, Any] = {"status": snapshot.status.value, "progress": snapshot.progress}
    for part in (snapshot.error, snapshot.video):
        if part is not None:
            for name in ("code", "message", "moderated", "cost_usd", "url", "duration", "model"):
                facts[name] = getattr(part, name, facts.get(name))
    if snapshot.video is not None:
        facts["respect_moderation"] = snapshot.video.respect_moderation
    return facts


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_golden_document_is_read_as_expected(name: str) -> None:
    document = DOCUMENTS[name]
    found = read(document)
    for fact, value in document["expect"].items():
        if fact == "cost_usd":
            assert found[fact] == Decimal(value)
        elif fact not in REMARKS:
            assert found[fact] == value, fact


def test_there_are_documents_of_every_kind() -> None:
    kinds = {document["expect"].get("status") for document in DOCUMENTS.values()}
    assert kinds == {None, "queued", "processing", "done", "failed", "expired"}
    assert len(DOCUMENTS) >= 60

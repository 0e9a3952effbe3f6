"""Ten thousand documents that nobody planned for: a snapshot or an error of ours, and quickly."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grok_video import GrokVideoError, JobStatus, Snapshot, _wire

RECORDED = json.loads(
    (Path(__file__).parents[1] / "wire" / "recorded-answers.json").read_text(encoding="utf-8")
)
#: A sample in the suite; the profile "whole" has six times as many.
EXAMPLES = 5 * settings.default.max_examples
#: Seconds of CPU for one document (CPU, so that a busy machine does not count).
BOUND = 0.05

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
WORDS = st.sampled_from(
    [*_wire._WORDS, "SUCCESS", "IN_PROGRESS", "transcoding", "https://h/a.mp4", "45%", "moderated"]
)
KEYS = [
    "status", "request_id", "id", "task_id", "progress", "model", "usage", "video", "error", "code",
    "message", "fail_reason", "result_url", "video_url", "data", "url", "duration",
    "respect_moderation", "cost_in_usd_ticks",
]  # fmt: skip
LIKELY = st.recursive(
    JSON | WORDS,
    lambda inner: st.dictionaries(st.sampled_from(KEYS), inner | WORDS, max_size=6),
    max_leaves=20,
)


@pytest.fixture(autouse=True)
def _no_garbage_is_collected() -> Iterator[None]:
    """Keep the garbage collector from striking a document.

    One round over what the suite and Hypothesis keep takes up to a second of this thread.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def read(body: bytes, status: int) -> float:
    """Read one body as both calls would; only ours comes out. Return the seconds it took."""
    began = time.thread_time()
    try:
        snapshot = _wire.read_poll(status, {}, body, request_id="j", now=0)
        assert isinstance(snapshot, Snapshot)
        assert (snapshot.video is not None) is (snapshot.status is JobStatus.DONE)
        assert snapshot.progress is None or 0 <= snapshot.progress <= 100
    except GrokVideoError as error:
        assert str(error)
    try:
        assert _wire.read_create(status, {}, body, now=0)
    except GrokVideoError as error:
        assert str(error)
    return time.thread_time() - began


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(JSON, st.sampled_from([200, 202, 400, 429, 500, 503]))
def test_any_json_is_read_or_refused(document: Any, status: int) -> None:
    assert read(json.dumps(document).encode(), status) < BOUND


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(LIKELY, st.sampled_from([200, 202, 400, 403, 404, 500]))
def test_documents_made_of_the_apis_own_words_are_read_or_refused(
    document: Any, status: int
) -> None:
    assert read(json.dumps(document).encode(), status) < BOUND


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers_with_damaged_bytes_are_read_or_refused(name: str) -> None:
    answer = RECORDED[name]
    whole = (json.dumps(answer["json"]) if "json" in answer else answer["text"]).encode()
    chance = random.Random(name)
    slowest = 0.0
    for _ in range(100):
        body = bytearray(whole)
        match chance.randrange(4):
            case 0:
                body[chance.randrange(len(body))] = chance.randrange(256)
            case 1:
                del body[chance.randrange(len(body)) :]
            case 2:
                at = chance.randrange(len(body))
                body[at:at] = chance.randbytes(chance.randrange(1, 6))
            case _:
                at = chance.randrange(len(body))
                del body[at : at + chance.randrange(1, 9)]
        slowest = max(slowest, read(bytes(body), answer["status"]))
    assert slowest < BOUND


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"data":' * 100_000 + b"{}" + b"}" * 100_000,
        b'{"status":"' + b"a" * 2_000_000 + b'"}',
        b'{"message":"' + b"data:image/png;base64," * 50_000 + b'","code":"x"}',
        b'{"error":"' + b"A" * 2_000_000 + b'"}',
        b'{"error":"' + b"https://" * 200_000 + b'"}',
    ],
    ids=["brackets", "nested", "long word", "many data URIs", "long base64", "many URLs"],
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_hostile_documents_are_refused_as_quickly(body: bytes, status: int) -> None:
    assert read(body, status) < 10 * BOUND

"""What a tracer is told: names, ids and counts, and nothing that a stranger should not keep."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from grok_video import AsyncClient, InsufficientBalance, JobFailed, JobTimeout
from grok_video.emulator import Emulator, faults
from tests.conftest import PHOTO


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Generator[InMemorySpanExporter]:
    """Give what a tracer of this test alone is told."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def named(spans: tuple[ReadableSpan, ...]) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans}


def fact(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(name)


async def test_a_create_its_wait_and_its_download_are_spans_under_the_callers(
    client: AsyncClient, told: InMemorySpanExporter, tmp_path: Path
) -> None:
    with trace.get_tracer("the application").start_as_current_span("request") as outer:
        video = await client.generate(
            "a secret prompt", PHOTO, duration=1, save_to=tmp_path / "a.mp4", user="u-1"
        )
    spans = named(told.get_finished_spans())
    assert set(spans) == {"grok_video create", "grok_video wait", "grok_video download", "request"}
    for name in ("create", "wait", "download"):
        span = spans[f"grok_video {name}"]
        assert span.parent is not None
        assert span.parent.span_id == outer.get_span_context().span_id
        assert span.attributes is not None
        assert span.attributes["grok_video.request_id"] == video.request_id
        assert span.status.status_code is StatusCode.UNSET
    assert spans["grok_video create"].attributes == {
        "gen_ai.request.model": "grok-imagine-video-1.5",
        "grok_video.request_id": video.request_id,
    }
    assert int(str(fact(spans["grok_video wait"], "grok_video.polls"))) >= 1
    assert fact(spans["grok_video download"], "grok_video.bytes") == video.size


async def test_no_prompt_no_link_and_no_text_of_an_error_is_in_a_span(
    client: AsyncClient, grok_emulator: Emulator, told: InMemorySpanExporter
) -> None:
    grok_emulator.script(
        "create", [faults.Answer(402, {"error": {"message": "quota of tenant-7"}})]
    )
    with pytest.raises(InsufficientBalance):
        await client.submit("a secret prompt", PHOTO)
    job = await client.submit("a secret prompt", duration=1)
    grok_emulator.script(
        "poll", [faults.Answer(200, {"status": "failed", "error": {"message": "tenant-7"}})]
    )
    with pytest.raises(JobFailed):
        await job
    spans = told.get_finished_spans()
    assert [(span.name, fact(span, "error.type")) for span in spans] == [
        ("grok_video create", "InsufficientBalance"),
        ("grok_video create", None),
        ("grok_video wait", "JobFailed"),
    ]
    assert [span.status.status_code is StatusCode.ERROR for span in spans] == [True, False, True]
    for span in spans:
        assert (span.status.description, span.events) == (None, ())
        assert "secret" not in span.to_json()
        assert "tenant-7" not in span.to_json()
        assert "http" not in span.to_json().replace("telemetry.sdk", "")


async def test_a_wait_that_ends_early_says_so_with_its_id(
    client: AsyncClient, grok_emulator: Emulator, told: InMemorySpanExporter
) -> None:
    job = await client.submit("drift", duration=1)
    grok_emulator.script("poll", [faults.Answer(202, {"status": "pending"})])
    with pytest.raises(JobTimeout):
        await job.result(timeout=1e-3)
    wait = named(told.get_finished_spans())["grok_video wait"]
    assert wait.attributes == {
        "grok_video.request_id": job.request_id,
        "error.type": "JobTimeout",
    }


class Broken(SpanProcessor):
    """A tracer that fails whenever it is told anything."""

    def on_start(self, span: object, parent_context: object = None) -> None:
        raise RuntimeError("no room for a span")

    def on_end(self, span: object) -> None:
        raise RuntimeError("no room for a span")


async def test_a_tracer_that_fails_costs_no_job(
    client: AsyncClient, grok_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = TracerProvider()
    provider.add_span_processor(Broken())
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    video = await client.generate("drift", duration=1, save_to=tmp_path / "a.mp4")
    assert video.path is not None
    monkeypatch.delattr(trace, "get_tracer")
    assert (await client.generate("drift", duration=1)).url is not None
    assert grok_emulator.accepted == 2


def test_who_traces_nothing_imports_nothing_for_it() -> None:
    code = "import sys, grok_video; grok_video.AsyncClient('key'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if name.startswith("opentelemetry")]

"""Every recorded answer and every recorded job, replayed by a server on loopback.

The tables below are the contract's: one row for each file, and no file left out.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from grok_video import (
    AsyncClient,
    AuthenticationError,
    BadRequest,
    InsufficientBalance,
    JobFailed,
    JobStatus,
    NotFound,
    Polling,
    ServerError,
    UnexpectedResponse,
)

WIRE = Path(__file__).parents[1] / "wire"
ANSWERS: dict[str, dict[str, Any]] = json.loads((WIRE / "recorded-answers.json").read_text("utf-8"))
JOBS: dict[str, dict[str, Any]] = json.loads((WIRE / "recorded-jobs.json").read_text("utf-8"))
#: Where the records came from; beside a development checkout, absent elsewhere.
SOURCE = Path(__file__).parents[3] / "shared" / "contract" / "payloads"

QUEUED, PROCESSING, DONE = JobStatus.QUEUED, JobStatus.PROCESSING, JobStatus.DONE

#: Answers to a create: the id they give, or the error they are.
CREATES: dict[str, str | type[Exception]] = {
    "create-200-cometapi_doc": "4b2cd27e-0b0d-3dec-c31c-7572daf74bb3",
    "create-edit-200-cometapi_doc": "e55813f7-911f-cfa8-208c-9c8e693b4d38",
    "native-create-200-apicity_edit": "03f903ac-b6dc-9e9f-b803-edb1dd7e72cb",
    "native-create-200-apicity_extension": "d665c80a-6e06-9856-a9cb-a0c4e492e75d",
    "native-create-200-apicity_i2v_datauri": "5ab991f4-4b43-9282-9ca0-1083d4224cc8",
    "native-create-200-apicity_r2v": "3668ffaa-82e8-980a-87d9-0a86833326b7",
    "native-create-200-apicity_t2v": "824c6d07-f5ce-987d-b3e9-0949599b05e7",
    "native-create-200-apicity_t2v_2026_03": "3273e13e-9c61-9f3c-bc53-3d6f0340cfde",
    "native-create-200-apicity_unknown_field_video_url": "680eb1a9-3083-9f9f-a733-963557055e21",
    "error-400-cometapi_doc_model_required": BadRequest,
    "error-any-cometapi_doc_invalid_request": BadRequest,
    "native-error-400-apicity_bad_data_chat": BadRequest,
    "native-error-400-apicity_empty_prompt_images": BadRequest,
    "native-error-400-apicity_model_not_found_responses": BadRequest,
    "native-error-401-apicity_grpc_style_management": AuthenticationError,
    "native-error-404-apicity_entity_not_found_get": NotFound,
    "native-error-404-apicity_model_create": NotFound,
    "native-error-404-apicity_model_get": NotFound,
    "native-error-422-apicity_text_plain_chat": BadRequest,
    "native-error-422-apicity_text_plain_image_url_missing": BadRequest,
    "native-error-429-apicity_credits_edit": InsufficientBalance,
    "native-error-429-apicity_credits_t2v": InsufficientBalance,
    "gateway-html-404-apicity_nginx": UnexpectedResponse,
    "gateway-text-503-apicity_envoy": ServerError,
}
#: Answers to a poll: the state they show (with progress), or the error they are.
POLLS: dict[str, tuple[JobStatus, float | None] | type[Exception]] = {
    "bare-request_id-200-cometapi_doc": (QUEUED, None),
    "envelope-queued-200-cometapi_doc_runway": (QUEUED, 0),
    "envelope-success-200-cometapi_doc": (DONE, 100),
    "flat-in_progress-200-cometapi_doc_seedance": (PROCESSING, 45),
    "native-pending-202-apicity_p0": (QUEUED, 0),
    "native-pending-202-apicity_p1": (QUEUED, 1),
    "native-pending-202-apicity_p35": (QUEUED, 35),
    "native-pending-202-apicity_p95": (QUEUED, 95),
    "native-done-200-apicity_extension_10s": (DONE, 100),
    "native-done-200-apicity_extension_10s_b": (DONE, 100),
    "native-done-200-apicity_i2v_6s_720p": (DONE, 100),
    "native-done-200-apicity_i2v_6s_720p_b": (DONE, 100),
    "native-done-200-apicity_t2v_default_8s": (DONE, 100),
    "native-done-200-apicity_t2v_default_8s_b": (DONE, 100),
    "native-done-200-apicity_t2v_default_8s_c": (DONE, 100),
    "native-failed-200-apicity_source_403": JobFailed,
    "native-failed-200-apicity_source_404": JobFailed,
    # The provider's own {code, error} with a 400 is a verdict on the job.
    "native-error-400-apicity_bad_data_chat": JobFailed,
    "native-error-400-apicity_empty_prompt_images": JobFailed,
    "native-error-400-apicity_model_not_found_responses": JobFailed,
    # The gateway's own error families are not.
    "error-400-cometapi_doc_model_required": BadRequest,
    "error-any-cometapi_doc_invalid_request": BadRequest,
    "native-error-401-apicity_grpc_style_management": AuthenticationError,
    "native-error-404-apicity_entity_not_found_get": NotFound,
    "native-error-404-apicity_model_create": NotFound,
    "native-error-404-apicity_model_get": NotFound,
    "native-error-422-apicity_text_plain_chat": BadRequest,
    "native-error-422-apicity_text_plain_image_url_missing": BadRequest,
    "native-error-429-apicity_credits_edit": InsufficientBalance,
    "native-error-429-apicity_credits_t2v": InsufficientBalance,
    "gateway-html-404-apicity_nginx": UnexpectedResponse,
    "gateway-text-503-apicity_envoy": ServerError,
}
PRICES = {
    "envelope-success-200-cometapi_doc": "0.05",
    "native-done-200-apicity_i2v_6s_720p": "0.422",
    "native-done-200-apicity_t2v_default_8s": "0.4",
    "native-done-200-apicity_extension_10s": "0.55",
}


class Replay:
    """Answers each call with what was recorded, in order; the last answer stays."""

    def __init__(self) -> None:
        self.creates: list[dict[str, Any]] = [ANSWERS["create-200-cometapi_doc"]]
        self.polls: list[dict[str, Any]] = []
        self.calls: list[str] = []
        replay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(replay.creates)

            def do_GET(self) -> None:
                self._answer(replay.polls)

            def _answer(self, answers: list[dict[str, Any]]) -> None:
                replay.calls.append(self.command)
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                text = json.dumps(answer["json"]) if "json" in answer else answer["text"]
                body = text.encode()
                self.send_response(answer["status"])
                if answer.get("content_type"):
                    self.send_header("Content-Type", answer["content_type"])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self.server.server_port}/grok/v1"


@pytest.fixture
def replay() -> Iterator[Replay]:
    made = Replay()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def make(new_client: Callable[..., AsyncClient], replay: Replay) -> Callable[..., AsyncClient]:
    return lambda **words: new_client(base_url=replay.base_url, api_key="k", **words)


def test_no_recorded_file_is_left_out() -> None:
    """Each recorded answer has a row (most have two), and each copy is what was recorded."""
    assert set(CREATES) | set(POLLS) == set(ANSWERS)
    assert {name for name in ANSWERS if "create-" in name} <= set(CREATES)
    for path in SOURCE.glob("*.json"):
        response = json.loads(path.read_text("utf-8"))["response"]
        assert ANSWERS[path.stem].get("json") == response["json"]
        assert ANSWERS[path.stem].get("text") == response["text"]
        assert ANSWERS[path.stem]["status"] == response["http_status"]
    for path in SOURCE.glob("trajectories/*.json"):
        assert JOBS[path.stem]["polls"] == json.loads(path.read_text("utf-8"))["polls"]
    assert not SOURCE.exists() or {path.stem for path in SOURCE.glob("*.json")} == set(ANSWERS)


@pytest.mark.parametrize("name", CREATES)
async def test_a_recorded_answer_to_a_create(
    name: str, make: Callable[..., AsyncClient], replay: Replay
) -> None:
    replay.creates = [ANSWERS[name]]
    expected = CREATES[name]
    async with make() as client:
        if isinstance(expected, str):
            assert (await client.submit("drift")).request_id == expected
            assert replay.calls == ["POST"]
            return
        with pytest.raises(expected) as caught:
            await client.submit("drift")
    assert type(caught.value) is expected
    # Only "no upstream ever had it" may be sent again.
    assert len(replay.calls) == (5 if expected is ServerError else 1)


@pytest.mark.parametrize("name", POLLS)
async def test_a_recorded_answer_to_a_poll(
    name: str, make: Callable[..., AsyncClient], replay: Replay
) -> None:
    replay.polls = [ANSWERS[name]]
    expected = POLLS[name]
    async with make() as client:
        job = client.job("j1")
        if isinstance(expected, tuple):
            snapshot = await job.refresh()
            assert (snapshot.status, snapshot.progress) == expected
            assert (snapshot.video is not None) is (expected[0] is DONE)
            if name in PRICES:
                assert snapshot.video is not None
                assert snapshot.video.cost_usd == Decimal(PRICES[name])
        elif expected is JobFailed:
            assert (await job.refresh()).status is JobStatus.FAILED
            with pytest.raises(JobFailed):
                await job.result()
        else:
            with pytest.raises(expected) as caught:
                await job.refresh()
            assert type(caught.value) is expected
            assert caught.value.request_id == "j1"


@pytest.mark.parametrize("name", JOBS)
async def test_a_recorded_job_ends_in_its_video(
    name: str, make: Callable[..., AsyncClient], replay: Replay
) -> None:
    recorded = JOBS[name]
    replay.creates = [{"status": 200, "json": recorded["create"]["json"]}]
    replay.polls = [
        {"status": poll["http_status"], "json": poll["json"]} for poll in recorded["polls"]
    ]
    expected = [poll["json"].get("progress") for poll in recorded["polls"]]
    last = recorded["polls"][-1]["json"]
    async with make(polling=Polling.fixed(0.002)) as client:
        job = await client.submit("drift")
        seen = [snapshot async for snapshot in job.updates(timeout=30)]
        video = await job.result()
    changes = [b for a, b in zip([None, *expected], expected, strict=False) if a != b]
    assert [snapshot.progress for snapshot in seen] == changes
    assert video.url == last["video"]["url"]
    assert video.duration == last["video"]["duration"]
    assert replay.calls == ["POST"] + ["GET"] * len(expected)

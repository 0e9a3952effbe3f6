"""The tree of errors: its shape, its facts, and what it must never hold."""

from __future__ import annotations

import inspect
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

import grok_video
from grok_video import JobStatus, Snapshot, _errors
from grok_video._lifecycle import IllegalEvent

ERRORS = [getattr(_errors, name) for name in _errors.__all__]
SAMPLES: dict[str, Any] = {
    "message": "something happened",
    "field": "duration",
    "value": "16",
    "limit": "1 to 15",
    "may_have_been_sent": True,
    "request_id": "4b2cd27e-0b0d",
    "status": 503,
    "code": "model_not_found",
    "gateway_request_id": "2026",
    "body": "{}",
    "retry_after": 1.5,
    "refused": False,
    "path": "$.video.url",
    "fingerprint": "ab12",
    "sent_at": 1.0,
    "phase": "awaiting the answer",
    "snapshot": Snapshot("4b2cd27e-0b0d", JobStatus.PROCESSING, 62.0),
    "reason": "no",
    "url": "https://host/a.mp4?...",
    "bytes_kept": 17,
    "part": Path("a.mp4.part"),
    "pending": ("4b2cd27e-0b0d",),
    "stalled_for": 90.0,
}


def sample(kind: type[Any]) -> Any:
    facts: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base) and base.__module__ == "grok_video":
            for name, parameter in inspect.signature(base.__init__).parameters.items():
                if parameter.kind is parameter.KEYWORD_ONLY:
                    facts[name] = SAMPLES[name]
    accepted = {}
    for name, value in facts.items():
        try:
            kind("x", **{**accepted, name: value})
        except TypeError as error:
            if "unexpected" in str(error):
                continue
        accepted[name] = value
    return kind(SAMPLES["message"], **accepted)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling_with_its_facts(kind: type[Any]) -> None:
    error = sample(kind)
    error.add_note("seen in a worker")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error) == SAMPLES["message"]
    assert vars(copy) == vars(error)
    assert copy.args == error.args


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_one_except_clause_catches_everything(kind: type[Any]) -> None:
    assert issubclass(kind, grok_video.GrokVideoError)
    assert kind.__doc__
    assert getattr(grok_video, kind.__name__) is kind


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    assert _errors.__doc__ is not None
    block = _errors.__doc__.split("::\n")[1]
    for line in block.splitlines():
        if "- " not in line and "GrokVideoError" not in line:
            continue
        name = line.replace("|-", "  ").replace("`-", "  ").replace("|", " ").split()[0]
        depth = line.index(name)
        while stack and stack[-1][0] >= depth:
            stack.pop()
        drawn[name] = stack[-1][1] if stack else "Exception"
        stack.append((depth, name))
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in ERRORS}


def test_built_in_families_are_joined_where_callers_expect_them() -> None:
    assert issubclass(grok_video.InvalidRequest, ValueError)
    assert issubclass(grok_video.APITimeoutError, TimeoutError)
    assert issubclass(grok_video.JobTimeout, TimeoutError)


def test_an_illegal_event_is_one_of_ours() -> None:
    assert issubclass(IllegalEvent, grok_video.GrokVideoError)


def test_every_error_says_how_to_go_on_with_its_job_if_there_is_a_way() -> None:
    refused = grok_video.AuthenticationError("no", status=401, request_id="j")
    assert "grok-video wait j" in refused.resume
    assert grok_video.GrokVideoError("no").resume == ""
    for over in (grok_video.JobFailed, grok_video.ModerationRefused, grok_video.JobExpired):
        assert over("over", request_id="j").resume == ""
        assert pickle.loads(pickle.dumps(over("over", request_id="j"))).resume == ""


class Ours(grok_video.GrokVideoError):
    """An error of a user's own."""

    def __init__(self) -> None:
        super().__init__("no", request_id="j")
        self.resume = "Ask our queue."


def test_who_knows_better_says_how_to_go_on() -> None:
    assert pickle.loads(pickle.dumps(Ours())).resume == "Ask our queue."


def test_the_resume_hint_is_safe_to_paste() -> None:
    error = grok_video.JobTimeout("late.", request_id="a b; rm -rf ~")
    assert "grok-video wait 'a b; rm -rf ~'" in error.resume
    assert "late." in "".join(traceback.format_exception(error))


def test_an_id_that_looks_like_an_option_stands_where_none_is_read() -> None:
    assert _errors.resume_hint("-x1").endswith("or: grok-video wait -- -x1")
    assert _errors.resume_hint("-x1", uploaded=True).endswith("wait --uploaded -- -x1")
    assert "\n  grok-video wait -- -x1\n  grok-video wait j-1" in _errors.going_on_note(
        ["-x1", "j-1"]
    )

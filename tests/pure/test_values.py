"""Public values: what programs do with them beside reading their attributes."""

from __future__ import annotations

import copy
import html
import json
import pickle
from decimal import Decimal
from pathlib import Path

import attrs
import cattrs
import pytest
from rich.pretty import pretty_repr

import grok_video
from grok_video import (
    BatchItem,
    BatchSummary,
    JobFailure,
    JobStatus,
    Limits,
    Outcome,
    OutcomeState,
    Polling,
    Retry,
    Snapshot,
    Video,
    VideoRequest,
)

VIDEO = Video(
    "r-1",
    "https://vidgen.example/r-1.mp4?signature=secret",
    6.0,
    "grok-imagine-video",
    True,
    Decimal("0.422"),
    Path("out/r-1.mp4"),
    "ff" * 32,
    1234,
)
FAILURE = JobFailure("invalid_argument", "no such picture", cost_usd=Decimal("0.1"))
VALUES = (
    VIDEO,
    FAILURE,
    Snapshot("r-1", JobStatus.DONE, 100.0, VIDEO),
    Snapshot("r-2", JobStatus.FAILED, error=FAILURE),
    Retry(attempts=3),
    Limits(connections=7),
    Polling.fixed(2.0, jitter=0.5),
    Outcome("a", OutcomeState.SAVED, "r-1", VIDEO, cost_usd=Decimal("0.422")),
    BatchSummary(
        {OutcomeState.SAVED: 3},
        1,
        Decimal(2),
        Decimal(1),
        20.0,
        30.0,
        40.0,
        4.5,
        (),
        ("b",),
        None,
        (("c", "no luck"),),
        1,
    ),
)
#: Those that may be keys of a dict; a summary holds one.
HASHABLE = VALUES[:-1]


def named(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("value", VALUES, ids=named)
def test_a_value_becomes_json_with_cattrs_and_comes_back(value: object) -> None:
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Decimal, str)
    converter.register_structure_hook(Decimal, lambda text, _: Decimal(text))
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda text, _: Path(text))
    text = json.dumps(converter.unstructure(value))
    assert converter.structure(json.loads(text), type(value)) == value


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for name in grok_video.__all__
        if isinstance(kind := getattr(grok_video, name), type) and attrs.has(kind)
    ],
    ids=lambda kind: kind.__name__,
)
def test_the_types_of_its_attributes_are_known_at_run_time(kind: type) -> None:
    attrs.resolve_types(kind)
    assert not [field.name for field in attrs.fields(kind) if isinstance(field.type, str)]


@pytest.mark.parametrize("value", VALUES, ids=named)
def test_a_value_is_equal_to_its_like_alone(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value
    assert value != attrs.evolve(value, **{attrs.fields(type(value))[0].name: 41})
    for other in VALUES:
        assert (value == other) is (value is other)
    assert value != attrs.astuple(value, recurse=False)


@pytest.mark.parametrize("value", HASHABLE, ids=named)
def test_equal_values_are_one_key_of_a_dict(value: object) -> None:
    assert {value: 1, copy.deepcopy(value): 2} == {value: 2}


def test_the_document_behind_a_snapshot_is_neither_compared_nor_shown() -> None:
    seen = Snapshot("r-1", JobStatus.QUEUED, raw={"status": "pending"})
    again = Snapshot("r-1", JobStatus.QUEUED, raw={"status": "queued"})
    assert seen == again
    assert hash(seen) == hash(again)
    assert "pending" not in repr(seen)


def test_a_value_shows_its_attributes_by_name() -> None:
    assert repr(Retry(attempts=3)) == (
        "Retry(attempts=3, base=1.0, cap=30.0, patience=120.0, resend_unknown_creates=False)"
    )
    assert repr(FAILURE) == (
        "JobFailure(code='invalid_argument', message='no such picture', moderated=False, "
        "cost_usd=Decimal('0.1'), rendered=False)"
    )
    assert repr(Snapshot("r-2", JobStatus.FAILED, 5.0, error=FAILURE)) == (
        "Snapshot(request_id='r-2', status=<JobStatus.FAILED: 'failed'>, progress=5.0, "
        f"video=None, error={FAILURE!r})"
    )
    assert repr(VideoRequest("drift", output={"upload_url": "https://put.example/?sig=x"})) == (
        "VideoRequest(prompt='drift', image=None, duration=None, aspect_ratio=None, "
        "resolution=None, model='grok-imagine-video-1.5', user=None)"
    )


def test_rich_shows_no_signature_of_a_link() -> None:
    assert "secret" not in pretty_repr(VIDEO) + pretty_repr([{"video": VIDEO}])


def test_a_value_can_be_matched_by_position() -> None:
    match BatchItem("a", VideoRequest("drift")):
        case BatchItem(key, VideoRequest(prompt)):
            assert (key, prompt) == ("a", "drift")
        case _:
            pytest.fail("did not match")


@pytest.mark.parametrize("value", VALUES, ids=named)
def test_no_attribute_of_a_value_can_be_changed(value: object) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, attrs.fields(type(value))[0].name, "other")


def test_a_video_is_shown_in_a_notebook_whose_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its link, or by words where it has none: nobody can say any more where its file is."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "https://vidgen.example/r-1.mp4" in VIDEO._repr_html_()
    delivered = attrs.evolve(VIDEO, url=None)
    assert delivered._repr_html_() == f"<code>{html.escape(repr(delivered))}</code>"
    elsewhere = attrs.evolve(delivered, path=tmp_path / "r-1.mp4")
    assert (tmp_path / "r-1.mp4").as_uri() in elsewhere._repr_html_()

"""The twins have every public name of the asynchronous classes, with the same signature."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_overloads

import pytest

import grok_video

PAIRS = {"AsyncClient": "Client", "AsyncJob": "Job", "AsyncBatch": "Batch"}
#: What only one of the two has.
ONLY_ASYNC = {"__await__"}
ONLY_BLOCKING = {"Job": {"future"}}
#: Special methods have other names; their signatures are Python's.
SPECIAL = {
    "aclose": "close",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}
#: How an asynchronous annotation reads on the other side, in this order.
ANNOTATIONS = (
    ("AsyncIterator", "Iterator"),
    ("AsyncGenerator", "Generator"),
    *PAIRS.items(),
)


def public_names(kind: type) -> set[str]:
    return {
        name
        for name in vars(kind)
        if not name.startswith("_") or name in SPECIAL or name in ONLY_ASYNC
    }


MEMBERS = [
    (pair, name)
    for pair in PAIRS
    for name in sorted(public_names(getattr(grok_video, pair)) - ONLY_ASYNC)
]


def twin_of(pair: str) -> type:
    return getattr(grok_video, PAIRS[pair])


def signature(function: Any) -> str:
    return str(inspect.signature(function))


def on_the_other_side(text: str) -> str:
    for before, after in ANNOTATIONS:
        text = re.sub(rf"(?<![\w.]){re.escape(before)}", after, text)
    return text


def documented(function: Any) -> str:
    return on_the_other_side(inspect.getdoc(function) or "").replace("aclose", "close")


@pytest.mark.parametrize(("pair", "name"), MEMBERS)
def test_every_public_name_has_a_twin_with_the_same_signature(pair: str, name: str) -> None:
    ours = inspect.getattr_static(getattr(grok_video, pair), name)
    theirs = inspect.getattr_static(twin_of(pair), SPECIAL.get(name, name))
    if isinstance(ours, property):
        assert isinstance(theirs, property)
        ours, theirs = ours.fget, theirs.fget
    assert not inspect.iscoroutinefunction(theirs)
    assert not inspect.isasyncgenfunction(theirs)
    assert signature(theirs) == on_the_other_side(signature(ours))
    assert [signature(each) for each in get_overloads(theirs)] == [
        on_the_other_side(signature(each)) for each in get_overloads(ours)
    ]
    if not name.startswith("__"):
        assert inspect.getdoc(theirs) == documented(ours)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_twin_has_nothing_that_its_original_lacks(pair: str) -> None:
    twin = twin_of(pair)
    original = public_names(getattr(grok_video, pair)) - ONLY_ASYNC
    expected = {SPECIAL.get(name, name) for name in original} | ONLY_BLOCKING.get(
        twin.__name__, set()
    )
    found = {name for name in dir(twin) if not name.startswith("_")}
    assert found == {name for name in expected if not name.startswith("_")}


def test_clients_are_made_with_the_same_arguments() -> None:
    assert signature(grok_video.Client.__init__) == signature(grok_video.AsyncClient.__init__)


def test_docstrings_of_the_twins_speak_of_the_twins() -> None:
    for kind in (grok_video.Client, grok_video.Job, grok_video.Batch):
        texts = [inspect.getdoc(kind)] + [inspect.getdoc(each) for each in vars(kind).values()]
        for text in texts:
            assert not re.search(
                r"(?<!httpx\.)(?<!httpx2\.)\bAsync[A-Z]|\bawait\b|aclose", text or ""
            )

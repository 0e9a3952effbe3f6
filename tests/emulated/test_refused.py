"""Words that cannot be meant are refused by name before anything is sent, through both doors."""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from grok_video import AsyncClient, Client, GrokVideoError, InvalidRequest
from grok_video.emulator import Emulator

SIGNED = "https://host/a.jpg?sig=0123456789abcdef"

#: What is passed to `generate` beside a prompt: words, the field, what the message must say.
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "hook that is none": ({"on_submitted": 5}, "on_submitted", "a function"),
    "place that is a number": ({"save_to": 5}, "save_to", "a path .* got 5"),
    "place that is a file": ({"save_to": io.BytesIO()}, "save_to", "a path .* got <_io.BytesIO"),
    "place without a name": ({"save_to": ""}, "save_to", "not empty; got ''"),
    "overwrite in words": ({"overwrite": "yes"}, "overwrite", "True or False; got 'yes'"),
    "hash in words": ({"sha256": "no"}, "sha256", "True or False; got 'no'"),
    "another SDK's word": ({"image_url": SIGNED}, "image_url", "use image"),
}
MISSPELT = {
    "saveto": "Did you mean 'save_to'?",
    "aspect": "Did you mean 'aspect_ratio'?",
    "img": "Did you mean 'image'?",
    "colour": "'colour'. Nothing was sent",
}


async def call(door: str, client: AsyncClient, method: str, *args: Any, **words: Any) -> Any:
    """Call a method of a client that is set up like `client`, blocking or not."""
    if door == "async":
        return await getattr(client, method)(*args, **words)
    config = client._session.config
    with Client(config.api_key.reveal(), base_url=config.base_url) as blocking:
        work = getattr(blocking, method)
        return await anyio.to_thread.run_sync(lambda: work(*args, **words))


@pytest.mark.parametrize("door", ["async", "blocking"])
@pytest.mark.parametrize("name", REFUSED)
async def test_a_word_that_cannot_be_meant_is_refused_by_name(
    name: str, door: str, client: AsyncClient, grok_emulator: Emulator
) -> None:
    words, field, text = REFUSED[name]
    with pytest.raises(InvalidRequest, match=text) as caught:
        await call(door, client, "generate", "drift", **words)
    assert caught.value.field == field
    assert caught.value.value in str(caught.value)
    assert "Nothing was sent" in str(caught.value)
    assert "0123456789abcdef" not in str(caught.value)
    assert grok_emulator.requests == ()


@pytest.mark.parametrize("door", ["async", "blocking"])
@pytest.mark.parametrize("word", MISSPELT)
async def test_a_misspelt_word_is_told_with_the_method_and_the_word_that_was_meant(
    word: str, door: str, client: AsyncClient, grok_emulator: Emulator
) -> None:
    with pytest.raises(TypeError, match=r"^generate\(\) got an unexpected keyword") as caught:
        await call(door, client, "generate", "drift", **{word: "secret"})
    assert MISSPELT[word] in str(caught.value)
    assert str(caught.value).endswith("Nothing was sent.")
    assert "secret" not in str(caught.value)
    with pytest.raises(TypeError, match=r"^submit\(\) got an unexpected keyword"):
        await call(door, client, "submit", "drift", **{word: "secret"})
    assert grok_emulator.requests == ()


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"destination": 5}, "destination"),
        ({"destination": ""}, "destination"),
        ({"destination": "a.mp4", "overwrite": 1}, "overwrite"),
        ({"destination": "a.mp4", "sha256": None}, "sha256"),
    ],
)
async def test_a_download_to_nowhere_is_refused_before_the_job_is_asked_about(
    words: dict[str, Any], field: str, client: AsyncClient, grok_emulator: Emulator
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await client.job("some-id").download(**words)
    assert caught.value.field == field
    assert grok_emulator.requests == ()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda client: ["id"], "client.job.* got 'id'"),
        (lambda client: [client.job("a"), 5], "client.job.* got 5"),
        (lambda client: "id", "an iterable of jobs"),
        (lambda client: client.job("a"), "an iterable of jobs"),
        (lambda client: [client.submit("a"), client.submit("b")], r"await client.submit\(...\)"),
    ],
)
async def test_what_is_no_job_is_not_waited_for(
    make: Callable[[AsyncClient], Any], text: str, client: AsyncClient, grok_emulator: Emulator
) -> None:
    with pytest.raises(InvalidRequest, match=text) as caught:
        client.as_completed(make(client))
    assert caught.value.field == "jobs"
    # A coroutine that nobody awaited would complain now, and warnings are errors here.
    gc.collect()
    assert grok_emulator.requests == ()


@pytest.mark.parametrize("lane", [("asyncio", "aiohttp"), ("asyncio", "httpx")], indirect=True)
async def test_a_task_that_submits_is_left_alone(client: AsyncClient) -> None:
    """It may be paying: only what has not begun is closed."""
    task = asyncio.create_task(client.submit("drift", duration=1))
    with pytest.raises(InvalidRequest, match=r"await client.submit\(...\) first"):
        client.as_completed([task])  # type: ignore[list-item]
    assert (await task).request_id


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"overwrite": "yes"}, "overwrite"),
        ({"sha256": "no"}, "sha256"),
        ({"retry_failed": "no"}, "retry_failed"),
        ({"resubmit_in_doubt": "no"}, "resubmit_in_doubt"),
        ({"max_cost_usd": "5"}, "max_cost_usd"),
        ({"max_cost_usd": True}, "max_cost_usd"),
        ({"out": 5}, "out"),
        ({"ledger": io.BytesIO()}, "ledger"),
    ],
)
async def test_a_batch_with_a_setting_that_cannot_be_is_refused(
    words: dict[str, Any], field: str, client: AsyncClient
) -> None:
    with pytest.raises(GrokVideoError) as caught:
        client.batch([], **words)
    assert isinstance(caught.value, InvalidRequest)
    assert caught.value.field == field


async def test_a_batch_in_a_folder_that_is_gone_is_told_to_name_its_files_by_absolute_paths(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for field, named in (("out", "videos"), ("ledger", Path("run.sqlite"))):
        with pytest.raises(InvalidRequest, match="the working directory is gone") as caught:
            client.batch([], **{field: named})
        assert caught.value.field == field
    client.batch([], out=tmp_path / "videos", ledger=tmp_path / "run.sqlite")

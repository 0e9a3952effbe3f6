"""What goes wrong with single items, and never ends the rest."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageCms
import pytest

from grok_video import (
    AsyncClient,
    BatchItem,
    DestinationError,
    Image,
    InvalidRequest,
    JobFailed,
    ModerationRefused,
    OutcomeState,
    Retry,
    VideoRequest,
)
from grok_video.emulator import Emulator, faults

from ...conftest import PHOTO
from .conftest import NewClient, files_in, outcomes, read, requests, states


class Pipe(io.BytesIO):
    """What cannot seek: once it was read, it is empty."""

    def seekable(self) -> bool:
        return False


async def test_one_in_ten_is_broken_and_each_has_its_own_reason(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    things: list[tuple[str, Any]] = requests(50, image=PHOTO)
    text = tmp_path / "no-picture.jpg"
    text.write_text("I am no picture")
    missing = VideoRequest("x", tmp_path / "missing.jpg")
    things[5] = ("missing", missing)
    things[15] = ("no picture", VideoRequest("x", Image.from_path(text)))
    things[25] = ("moderated", VideoRequest("[moderated] x", duration=1))
    things[35] = ("failed", VideoRequest("[failed] x", duration=1))
    things[45] = ("not a request", "drift")
    ledger = tmp_path / "a.sqlite"
    found = await outcomes(client, things, out=tmp_path / "videos", ledger=ledger)
    assert Counter(states(found).values()) == {"saved": 45, "failed": 5}
    reasons = {
        "missing": InvalidRequest,
        "no picture": InvalidRequest,
        "moderated": ModerationRefused,
        "failed": JobFailed,
        "not a request": InvalidRequest,
    }
    assert {key: type(found[key].error) for key in reasons} == reasons
    assert len({str(found[key].error) for key in reasons}) == 5
    assert grok_emulator.accepted == 47
    written = dict(read(ledger, "SELECT key, error FROM item WHERE state = 'failed'"))
    del reasons["not a request"]  # which has no request to write down
    assert written == {key: str(found[key].error) for key in reasons}


async def test_a_pipe_is_sent_again_when_its_create_was_not_taken(
    new_client: NewClient, grok_emulator: Emulator
) -> None:
    """By the batch as well, which opens the picture anew."""
    grok_emulator.script("create", [faults.rate_limited(0.01)] * 2)
    picture = PHOTO.read_bytes()
    things = [("a", VideoRequest("drift", Pipe(picture), duration=1))]
    async with new_client(grok_emulator, retry=Retry(attempts=1)) as client:
        found = await outcomes(client, things)
    assert states(found) == {"a": "done"}
    grok_emulator.assert_faults_consumed()


async def test_a_link_that_died_is_asked_for_anew(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("download", [faults.LinkDied()])
    found = await outcomes(client, requests(3), out=tmp_path)
    assert set(states(found).values()) == {"saved"}
    grok_emulator.assert_faults_consumed()


async def test_a_file_that_does_not_come_is_fetched_by_the_next_run(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("download", [faults.html_page()] * 50)
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    found = await outcomes(client, requests(1), **words)
    (outcome,) = found.values()
    assert outcome.state is OutcomeState.UNFETCHED
    assert outcome.request_id in str(outcome.error)
    assert outcome.video is not None
    assert outcome.video.url
    while grok_emulator.faults_left:
        await client._session.transport.get(outcome.video.url)
    found = await outcomes(client, requests(1), **words)
    assert states(found) == {"key-000": "saved"}
    assert grok_emulator.accepted == 1


async def test_a_file_of_somebody_else_is_never_replaced_and_nothing_is_paid(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "key-000.mp4").write_text("mine")
    found = await outcomes(client, requests(2), out=tmp_path)
    assert states(found) == {"key-000": "left", "key-001": "saved"}
    assert isinstance(found["key-000"].error, DestinationError)
    assert (tmp_path / "key-000.mp4").read_text() == "mine"
    assert grok_emulator.accepted == 1


async def test_a_batch_outlives_the_folder_that_it_works_in(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    items = [
        BatchItem("lost", VideoRequest("drift", image=Path("cat.jpg"), duration=1)),
        BatchItem("other", VideoRequest("drift", duration=1)),
    ]
    out = tmp_path / "out"
    summary = await client.run_batch(items, out=out, ledger=tmp_path / "a.sqlite")
    assert (summary.counts[OutcomeState.FAILED], summary.counts[OutcomeState.SAVED]) == (1, 1)


async def test_a_request_that_comes_twice_is_told_that_it_needs_a_key(client: AsyncClient) -> None:
    summary = await client.run_batch([VideoRequest("drift", duration=1)] * 2)
    [failed] = summary.failed
    assert "give each a key of its own" in str(failed)


async def test_a_key_that_comes_twice_is_refused_the_second_time(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    async def twice(**words: Any) -> list[tuple[str, str]]:
        async with client.batch([*requests(3), *requests(2)], **words) as batch:
            return sorted([(one.key, one.state.value) async for one in batch])

    ledger = tmp_path / "a.sqlite"
    assert (await twice(ledger=ledger, max_in_flight=1)).count(("key-001", "failed")) == 1
    assert grok_emulator.accepted == 3
    assert (await twice(ledger=ledger)).count(("key-001", "failed")) == 1  # also when it resumes
    assert grok_emulator.accepted == 3


@pytest.mark.parametrize("key", ["", " ", "a\nb", "\ud800", "x" * 1001, 7, None])
async def test_a_key_that_cannot_be_one_is_an_outcome(
    client: AsyncClient, grok_emulator: Emulator, key: Any
) -> None:
    async with client.batch([(key, VideoRequest("drift"))]) as batch:
        (outcome,) = [one async for one in batch]
    assert outcome.state is OutcomeState.FAILED
    assert isinstance(outcome.error, InvalidRequest)
    assert grok_emulator.accepted == 0


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (None, "None"),
        (float("nan"), "nan"),
        (b"x", "b'x'"),
        (10**5000, "item 2"),
        ([10**5000], "item 2"),
        (Unspeakable(), "item 2"),
    ],
    ids=["none", "nan", "bytes", "a long int", "a long int within", "no words"],
)
async def test_a_key_is_told_as_it_is_shown_or_by_its_place_and_never_ends_the_rest(
    client: AsyncClient, grok_emulator: Emulator, key: Any, shown: str
) -> None:
    first, last = requests(2)
    found = await outcomes(client, [first, (key, VideoRequest("drift")), last])
    assert states(found) == {"key-000": "done", shown: "failed", "key-001": "done"}
    assert isinstance(found[shown].error, InvalidRequest)
    assert "key must be a printable str" in str(found[shown].error)
    assert grok_emulator.accepted == 2


@pytest.mark.parametrize(
    "thing", [Unspeakable(), [10**5000], (1, Unspeakable())], ids=["alone", "a list", "a pair"]
)
async def test_what_is_no_request_and_cannot_be_shown_never_ends_the_rest(
    client: AsyncClient, grok_emulator: Emulator, thing: Any
) -> None:
    first, last = requests(2)
    found = await outcomes(client, [first, thing, last])
    assert sorted(states(found).values()) == ["done", "done", "failed"]
    assert grok_emulator.accepted == 2


async def test_keys_never_lead_out_of_the_folder(client: AsyncClient, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    keys = ["../../evil", "/etc/passwd", "..", "a/b", "a_b", "CON", ".hidden", "ä", "x" * 900]
    things = [(key, VideoRequest("drift", duration=1)) for key in keys]
    found = await outcomes(client, things, out=out, name="v-{key}.mp4")
    assert set(states(found).values()) == {"saved"}
    files = {path.resolve() for path in out.iterdir()}
    assert len(files) == len(keys)
    assert all(path.name.startswith("v-") for path in files)
    assert files_in(tmp_path) == files


async def test_pictures_without_keys_in_files_and_of_pillow_are_items_by_their_content(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    """As others are: two that differ are two, and a run with the same ones sends none again."""
    with PIL.Image.open(PHOTO) as photograph:
        smaller, crossed = photograph.resize((64, 64)), photograph.resize((64, 64))
    crossed.putpixel((63, 63), (1, 2, 3))
    grey = smaller.convert("P")
    recoloured = grey.copy()
    recoloured.putpalette([255 - part for part in grey.getpalette() or ()])
    clear, profiled = grey.copy(), smaller.copy()
    clear.putpalette([part for n in range(256) for part in (n, n, n, 0)], "RGBA")
    opaque = grey.copy()
    opaque.putpalette([part for n in range(256) for part in (n, n, n, 255)], "RGBA")
    profiled.info["icc_profile"] = PIL.ImageCms.ImageCmsProfile(
        PIL.ImageCms.createProfile("sRGB")
    ).tobytes()
    pictures = [smaller, crossed, grey, recoloured, clear, opaque, profiled]
    first = io.BytesIO(b"a line before it" + PHOTO.read_bytes())

    def things() -> list[VideoRequest]:
        first.seek(16)
        files = [first, io.BytesIO(PHOTO.read_bytes() + b"!")]
        return [VideoRequest("drift", one, duration=1) for one in (*files, *pictures)]

    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    found = await outcomes(client, things(), **words)
    assert list(states(found).values()) == ["saved"] * 9
    assert first.tell() == 16
    found = await outcomes(client, things(), **words)
    assert list(states(found).values()) == ["skipped"] * 9
    other = [VideoRequest("drift", io.BytesIO(PHOTO.read_bytes() + b"?"), duration=1)]
    assert list(states(await outcomes(client, other, **words)).values()) == ["saved"]
    assert grok_emulator.accepted == 10


async def test_a_pipe_without_a_key_is_told_that_it_needs_one(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    closed = io.BytesIO(b"x")
    closed.close()
    at_their_ends = [io.BytesIO(PHOTO.read_bytes()) for _ in range(2)]
    for file in at_their_ends:
        file.seek(0, io.SEEK_END)
    pictures = (Pipe(PHOTO.read_bytes()), closed, *at_their_ends)
    found = await outcomes(client, [VideoRequest("drift", one) for one in pictures])
    assert states(found) == {f"item {number}": "failed" for number in (1, 2, 3, 4)}
    assert all("is at its end" in str(found[key].error) for key in ("item 3", "item 4"))
    assert "key must be given with a picture" in str(found["item 1"].error)
    assert "must be a readable file" in str(found["item 2"].error)
    assert grok_emulator.accepted == 0

"""The page of a batch holds what the ledger holds, and nothing in it can become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from grok_video import VideoRequest
from grok_video._entry import Entry
from grok_video._errors import DestinationError, LedgerError
from grok_video._ledgerfile import LedgerFile
from grok_video._lifecycle import Event
from grok_video._report import command_beside, count_states, earlier, write
from tests.conftest import PHOTO
from tests.pure.ledger.conftest import die_in_a_step

SENT = (Event.SENDING_BEGAN, Event.ACCEPTED)
SAVED = (*SENT, Event.RENDERED, Event.FETCHING_BEGAN, Event.SAVED)
FAILED = (*SENT, Event.ENDED_WITHOUT_VIDEO)
DOUBTFUL = (Event.SENDING_BEGAN, Event.ANSWER_LOST)


@frozen
class Item:
    """One item as a ledger should have it."""

    key: str
    events: tuple[Event, ...] = SAVED
    prompt: str = "drift"
    image: Any = None
    path: str | None = None
    error: Exception | None = None
    seconds: float | None = 40.0
    cost_usd: Decimal = Decimal("0.5")


def ledger_of(path: Path, items: list[Item], *, close: bool = True) -> LedgerFile:
    """Write a ledger as a batch does."""
    file = LedgerFile(path)
    file.open()
    requests, rows = [], []
    for number, item in enumerate(items, 1):
        request = VideoRequest(item.prompt, item.image, duration=6, resolution="480p")
        entry = Entry(item.key, request.fingerprint(), item=number)
        entry.describe(request, Decimal("0.48"))
        assert entry.request_row is not None
        requests.append((number, *entry.request_row))
        entry.fail(item.error)
        for event in item.events:
            entry.advance(event)
            if event is Event.ACCEPTED:
                entry.request_id = f"job-{number}"
            elif event in (Event.RENDERED, Event.ENDED_WITHOUT_VIDEO):
                entry.charge(item.cost_usd)
            elif event is Event.SAVED:
                entry.path, entry.size, entry.seconds = item.path, 1000, item.seconds
            rows.append(entry.row(event))
    file.commit(requests, rows)
    if close:
        file.close()
    return file


class Elements(HTMLParser):
    """The elements of a page, and what is inside its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in self.texts:
            self.texts[self._inside][-1] += data


def page_of(folder: Path, *items: Item) -> tuple[str, dict[str, Any]]:
    ledger = folder / "l.sqlite"
    ledger_of(ledger, list(items))
    made = write(ledger, folder / "report.html")
    text = made.path.read_text()
    return text, json.loads(Elements(text).texts["script"][0])


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(1)>',
    "{{script}} {{data}} {{policy}}",
    "' onload='alert(1)",
    "&lt;b&gt; &amp; \u2028 \u202e",
]


def test_what_a_stranger_wrote_stays_text(tmp_path: Path) -> None:
    folder = tmp_path / "a<b>&{{data}}"
    folder.mkdir()
    plain, _ = page_of(tmp_path, Item("a"))
    expected = [tag for tag, _ in Elements(plain).found]
    items = [
        Item(
            f"k{n} {text}".replace("\u2028", "").replace("\u202e", ""),
            FAILED,
            prompt=text,
            image=Path("/nowhere", text),
            error=ValueError(text),
        )
        for n, text in enumerate(HOSTILE)
    ]
    text, data = page_of(folder, *items)
    assert [tag for tag, _ in Elements(text).found] == expected
    assert [item["prompt"] for item in data["items"]] == HOSTILE
    assert [item["error"] for item in data["items"]] == HOSTILE
    assert data["title"].endswith("a<b>&{{data}}")


def test_the_page_may_run_its_own_script_and_nothing_else(tmp_path: Path) -> None:
    text, _ = page_of(tmp_path, Item("a"))
    elements = Elements(text)
    [policy] = [
        facts["content"]
        for tag, facts in elements.found
        if tag == "meta" and facts.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for kind, content in (
        ("script-src", elements.texts["script"][1]),
        ("style-src", elements.texts["style"][0]),
    ):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    assert all("unsafe" not in rule and "http" not in rule for rule in rules.values())
    # Not one attribute runs anything, and not one address leads away.
    for _, facts in elements.found:
        assert not any(name.startswith("on") or name == "style" for name in facts)
        assert not any((facts.get(name) or "").startswith("http") for name in ("src", "href"))
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) == {"http://www.w3.org/2000/svg"}


def test_files_are_found_from_the_page_wherever_both_are_moved(tmp_path: Path) -> None:
    videos = tmp_path / "run 1" / "out #2"
    videos.mkdir(parents=True)
    video = videos / "50% ready?.mp4"
    video.write_bytes(b"mp4")
    picture = tmp_path / "run 1" / "a b.jpg"
    shutil.copy(PHOTO, picture)
    ledger = videos / "l.sqlite"
    ledger_of(ledger, [Item("a", path=str(video), image=picture)])
    text = write(ledger, tmp_path / "run 1" / "report.html").path.read_text()
    [item] = json.loads(Elements(text).texts["script"][0])["items"]
    assert item["video"] == "./out%20%232/50%25%20ready%3F.mp4"
    assert item["picture"] == "./a%20b.jpg"


def test_a_picture_is_shown_linked_or_described(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    _, data = page_of(
        tmp_path,
        Item("here", image=PHOTO),
        Item("away", image="https://host/a.jpg?signature=secret"),
        Item("gone", image=tmp_path / "gone.jpg"),
        Item("text", image=tmp_path / "text.jpg"),
        Item("bytes", image=PHOTO.read_bytes()),
        Item("none"),
    )
    found = {item["key"]: item for item in data["items"]}
    assert found["here"]["picture"].endswith("/rocket.jpg")
    assert found["away"]["link"] == "https://host/a.jpg?..."
    assert found["gone"]["image"].startswith("The picture is not here: ")
    assert found["text"]["image"].startswith("Not a picture: ")
    assert found["bytes"]["image"] == f"{PHOTO.stat().st_size} bytes"
    assert found["none"]["image"] is None
    assert "secret" not in json.dumps(data)
    assert {name for name, item in found.items() if "picture" in item} == {"here"}


def test_a_running_batch_is_read_without_touching_it(tmp_path: Path) -> None:
    ledger = tmp_path / "l.sqlite"
    writer = ledger_of(ledger, [Item("a"), Item("b", SENT), Item("c", DOUBTFUL)], close=False)
    try:
        before = ledger.read_bytes()
        made = write(ledger, tmp_path / "report.html")
        assert made.states == {"saved": 1, "pending": 1, "in_doubt": 1}
        assert count_states(ledger) == made.states
        assert ledger.read_bytes() == before
        # The writer goes on.
        writer.commit([], [])
    finally:
        writer.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert count_states(ledger) == made.states
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_ledger_whose_writer_died_in_the_middle_of_a_step_is_read_without_that_step(
    tmp_path: Path,
) -> None:
    ledger_of(tmp_path / "l.sqlite", [Item("a"), Item("b", SENT)])
    torn = die_in_a_step(tmp_path / "l.sqlite", tmp_path / "torn")
    made = write(torn, tmp_path / "report.html")
    assert made.states == {"saved": 1, "pending": 1}


def test_a_ledger_without_a_log_is_not_changed_under_its_reader(tmp_path: Path) -> None:
    """Its pages are written where they stand: reader and writer keep each other out."""
    ledger = tmp_path / "l.sqlite"
    ledger_of(ledger, [Item("a"), Item("b", SENT)])
    with closing(sqlite3.connect(ledger, isolation_level=None, timeout=0)) as writer:
        writer.execute("PRAGMA journal_mode = DELETE")
        with earlier(ledger) as reader:
            assert reader._file is not None
            reader._file.execute("BEGIN")
            assert reader.was_sent("b")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                writer.execute("INSERT INTO run (started_at, host, pid) VALUES ('', '', 1)")
    assert count_states(ledger) == {"saved": 1, "pending": 1}


def test_a_page_is_made_of_files_whose_names_are_no_text(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"mp4")
    ledger_of(folder / "l.sqlite", [Item("a", path=str(folder / "a.mp4"), image=folder / "a.jpg")])
    text = write(folder / "l.sqlite", folder / "report.html").path.read_text()
    data = json.loads(Elements(text).texts["script"][0])
    readable = f"{tmp_path}/caf\\udce9"
    assert data["ledger"] == f"{readable}/l.sqlite"
    assert data["title"].endswith("/caf\\udce9")
    # As it is, so that it is found.
    assert data["items"][0]["path"] == str(folder / "a.mp4")
    assert data["items"][0]["video"] == "./a.mp4"
    assert {one.name for one in folder.iterdir()} == {"l.sqlite", "report.html", "a.mp4"}


def test_a_text_that_cannot_be_read_does_not_keep_the_others_off_the_page(tmp_path: Path) -> None:
    """Names of such files were written with half a character by an earlier version."""
    ledger = tmp_path / "l.sqlite"
    ledger_of(ledger, [Item("a"), Item("b")])
    with closing(sqlite3.connect(ledger)) as file:
        file.execute("DROP TRIGGER event_is_never_changed")
        file.execute("UPDATE event SET path = CAST(x'2fedb3a9' AS TEXT) WHERE item = 1")
        file.commit()
    assert write(ledger, tmp_path / "report.html").items == 2


def test_the_command_that_made_it_is_the_one_that_goes_on(tmp_path: Path) -> None:
    _, data = page_of(tmp_path, Item("a"))
    assert data["command"] == f"grok-video batch MANIFEST -o DIR --ledger {tmp_path / 'l.sqlite'}"
    command_beside(tmp_path / "l.sqlite").write_text("grok-video batch m.csv -o out\n")
    text = write(tmp_path / "l.sqlite", tmp_path / "report.html").path.read_text()
    data = json.loads(Elements(text).texts["script"][0])
    assert data["command"] == "grok-video batch m.csv -o out"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "there is no such file"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("text", "cannot be read: file is not a database"),
        ("other", "not a ledger of grok_video"),
        ("newer", "written by a newer grok_video"),
        ("cut", "cannot be read: "),
    ],
)
def test_what_is_no_ledger_is_refused_and_no_page_is_made(
    kind: str, said: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "l.sqlite"
    if kind == "text":
        ledger.write_text("no ledger at all, only words " * 9)
    elif kind == "other":
        with sqlite3.connect(ledger) as file:
            file.execute("CREATE TABLE item (key)")
        file.close()
    elif kind == "loop":
        ledger.symlink_to(ledger)
    elif kind != "missing":
        ledger_of(ledger, [Item(f"k{n}") for n in range(200)])
        if kind == "newer":
            with sqlite3.connect(ledger) as file:
                file.execute("PRAGMA user_version = 99")
            file.close()
        else:
            ledger.write_bytes(ledger.read_bytes()[:20_000])
    with pytest.raises(LedgerError, match=said):
        write(ledger, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


#: What `-o` may never name, with --overwrite or without, and why.
NEVER = {
    "l.sqlite": "it is the ledger",
    "sub/../l.sqlite": "it is the ledger",
    "link.html": "it is the ledger",
    "l.sqlite-wal": "it belongs to the ledger",
    "l.sqlite.lock": "it belongs to the ledger",
    "source.jpg": "it is a picture or video of this batch",
    "same.jpg": "it is a picture or video of this batch",
    "clip.mp4": "it is a picture or video of this batch",
    "gone.mp4": "it is a picture or video of this batch",
    "other.sqlite": "it is a database",
    "pipe": "it is a pipe, socket or device",
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", NEVER)
def test_a_page_never_takes_the_place_of_what_a_batch_lives_on(
    name: str, overwrite: bool, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    for file in ("source.jpg", "clip.mp4"):
        shutil.copy(PHOTO, tmp_path / file)
    (tmp_path / "same.jpg").hardlink_to(tmp_path / "source.jpg")
    ledger_of(tmp_path / "other.sqlite", [Item("b")])
    items = [
        Item("a", image=tmp_path / "source.jpg", path=str(tmp_path / "clip.mp4")),
        Item("b", path=str(tmp_path / "gone.mp4")),
    ]
    ledger_of(tmp_path / "l.sqlite", items)
    (tmp_path / "link.html").symlink_to(tmp_path / "l.sqlite")
    os.mkfifo(tmp_path / "pipe")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(DestinationError, match=NEVER[name]):
        write(tmp_path / "l.sqlite", tmp_path / name, overwrite=overwrite)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert (tmp_path / "pipe").is_fifo()


def test_a_page_replaces_an_earlier_one_and_other_files_when_told(tmp_path: Path) -> None:
    ledger = tmp_path / "l.sqlite"
    ledger_of(ledger, [Item("a")])
    page, notes = tmp_path / "report.html", tmp_path / "notes.html"
    write(ledger, page)
    first = page.read_bytes()
    write(ledger, page)
    assert page.read_bytes()[:60] == first[:60]
    # A page of the batch whose ledger has a short name is no part of that ledger.
    shutil.copy(ledger, tmp_path / "run")
    write(tmp_path / "run", tmp_path / "run.html")

    notes.write_text("<!doctype html><title>mine</title>")
    with pytest.raises(DestinationError, match="no report; pass overwrite=True"):
        write(ledger, notes)
    assert notes.read_text() == "<!doctype html><title>mine</title>"
    write(ledger, notes, overwrite=True)
    assert notes.read_bytes()[:60] == first[:60]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    ledger_of(tmp_path / "l.sqlite", [Item("a")])
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DestinationError, match="cannot be written"):
        write(tmp_path / "l.sqlite", tmp_path / "report.html")
    assert {path.name for path in tmp_path.iterdir()} == {"l.sqlite", "report.html"} | {
        path.name for path in tmp_path.iterdir() if path.name.startswith("l.sqlite.")
    }

"""The manifest of a batch as a person keeps it: CSV, JSON Lines, or a folder of pictures.

It is read twice and never held: once to check every line before anything is sent, and once to send
it. What can be told from a line stops everything, and so does a picture that is not there: a wrong
folder should not be found out item by item, between creates that are paid. That costs one look at
each file. What an earlier run sent is not looked at, for its video is to be had without its
picture; and whether the bytes are a picture is each item's own affair, found out at its turn.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from attrs import define, field, frozen

from grok_video._arguments import refuse, refuse_unknown
from grok_video._cli._arguments import read_address, read_request, with_plain_spaces
from grok_video._cli._plan import plain
from grok_video._errors import ConfigurationError, InvalidRequest
from grok_video._outcomes import BatchItem
from grok_video._pictures import require_file
from grok_video._requests import Image, VideoRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

#: Columns of a manifest, in the order in which a message names them.
COLUMNS: Final = (
    "key",
    "prompt",
    "image",
    "duration",
    "resolution",
    "aspect_ratio",
    "model",
    "user",
    "upload_url",
)
#: Bad lines that are remembered with their words; all of them are counted.
REMEMBERED: Final = 1000
_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
#: Characters of one CSV field: a data URI of the largest picture that is accepted (20 MiB), twice.
_LONGEST_FIELD: Final = 2**26
_NOTHING_SENT: Final = " Nothing was sent."
#: Stands for a prompt that cannot be used while the rest of its line is looked at.
_ANY_PROMPT: Final = "a prompt"
#: The column of an argument, where their names differ.
_COLUMN_OF: Final = {"output": "upload_url"}


@frozen
class BadLine:
    """A line that cannot be sent, and why."""

    line: int
    field: str
    value: str
    message: str


class BadManifest(InvalidRequest):
    """The manifest has lines that cannot be sent; nothing was."""

    def __init__(self, place: str, bad: list[BadLine], *, total: int, lines: int) -> None:
        words = "1 line" if lines == 1 else f"{lines:,} lines"
        super().__init__(
            f"{place}: {words} cannot be used. Nothing was sent.", field="manifest", value=place
        )
        #: What is wrong, in the order of the lines: the first of it, and how much there is.
        self.bad = tuple(bad)
        self.total = total


@define
class Rows:
    """A manifest that is open: `check` reads it once, `items` once more."""

    place: str
    #: What lines leave out, by column.
    defaults: Mapping[str, str]
    _file: TextIO | None = None
    #: The folder of videos, which may lie inside the folder of pictures.
    out: Path | None = None
    _is_json: bool = field(default=False, init=False)

    def check(
        self,
        then: Callable[[Callable[[str], bool]], object] = lambda _has_key: None,
        *,
        was_sent: Callable[[str], bool] = lambda _key: False,
    ) -> int:
        """Return how many items there are, after each line was read and found good.

        `then` is called with what tells whether they have a key; `was_sent` tells of a key whether
        an earlier run sent it, so that its picture may be gone. Raises `BadManifest` with
        everything that is not good, and `ConfigurationError` if there is nothing to read.
        """
        bad: list[BadLine] = []
        count = total = lines = 0
        with contextlib.closing(_Seen()) as seen:
            for line, problem_or_row in self._rows():
                problems = self._problems(line, problem_or_row, seen, was_sent)
                for error in problems:
                    if len(bad) < REMEMBERED:
                        message = error.message.removesuffix(_NOTHING_SENT)
                        bad.append(BadLine(line, error.field, error.value, message))
                total += len(problems)
                lines += bool(problems)
                count += 1
            if total:
                raise BadManifest(self.place, bad, total=total, lines=lines)
            if not count:
                what = "pictures (JPEG, PNG or WebP)" if self._file is None else "lines"
                message = f"{self.place} has no {what}. Nothing was sent."
                raise ConfigurationError(message)
            then(seen.has)
        return count

    def items(self) -> Iterator[BatchItem]:
        """Give the items, read as they are asked for. Raises if the manifest changed meanwhile."""
        for line, problem_or_row in self._rows():
            try:
                yield self._item(problem_or_row)
            except InvalidRequest as error:
                message = (
                    f"{self.place} changed while it was read: line {line}: {error.message} The "
                    "lines before it were sent."
                )
                raise ConfigurationError(message) from None

    # --- from a line to an item ------------------------------------------------------------------

    def _item(self, row: Mapping[str, Any] | InvalidRequest) -> BatchItem:
        if isinstance(row, InvalidRequest):
            raise row
        key, values = self._values(row)
        for name in values:
            if name not in COLUMNS:
                raise unknown_column(name)
        return BatchItem(key, self._request(values))

    def _problems(
        self,
        line: int,
        row: Mapping[str, Any] | InvalidRequest,
        seen: _Seen,
        was_sent: Callable[[str], bool],
    ) -> list[InvalidRequest]:
        """Return all that is wrong with a line: who mends one thing should not meet the next."""
        if isinstance(row, InvalidRequest):
            return [row]
        found: list[InvalidRequest] = []
        key, values = self._values(row)
        for name in [name for name in values if name not in COLUMNS]:
            found.append(unknown_column(name))
            del values[name]
        request: VideoRequest | None = None
        while request is None:
            try:
                request = self._request(values)
            except InvalidRequest as error:
                found.append(error)
                # Once more without it; a request has no more faults than arguments.
                if error.field == "prompt" and values.get("prompt") != _ANY_PROMPT:
                    values["prompt"] = _ANY_PROMPT
                elif values.pop(_COLUMN_OF.get(error.field, error.field), None) is None:
                    return found
        item: BatchItem | None = None
        try:
            item = BatchItem(key, request)
            seen.add(item.key, line, own=row.get("key") not in (None, ""))
        except InvalidRequest as error:
            found.append(error)
        if request.image is not None and request.image.kind == "path":
            try:
                require_file(request.image)
            except InvalidRequest as error:
                if item is None or not was_sent(item.key):
                    found.append(error)
        return found

    def _values(self, row: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the key and all else that a line says or leaves to the options."""
        given = {name: value for name, value in row.items() if value not in (None, "")}
        # Blank, or null, is what was not given. Not with a picture: forgotten, it would be paid for
        # without (pandas writes null for an empty cell).
        if "image" in row and "image" not in self.defaults:
            given.setdefault("image", "")
        values: dict[str, Any] = {**self.defaults, **given}
        key: Any = values.pop("key", None)
        if key is None:
            # The line's own words, so that the same line has the same key from any folder.
            words = json.dumps(values, sort_keys=True).encode()
            key = hashlib.sha256(words).hexdigest()[:20]
        elif type(key) is int:
            key = str(key)
        return key, values

    def _request(self, values: Mapping[str, Any]) -> VideoRequest:
        if not values.get("prompt"):
            raise refuse("prompt", values.get("prompt", ""), "must not be blank, or give --prompt")
        return read_request(values, self._image)

    def _image(self, text: object) -> Image:
        if not isinstance(text, str) or not text.strip():
            limit = "must be a path, a URL or a data: URI (for a video without one, leave it out)"
            raise refuse("image", text, limit)
        if (image := read_address(text)) is not None:
            return image
        if "\0" in text:
            raise refuse("image", text, "must be a path, and no path has a NUL in it")
        folder = self.place if self._file is None else os.path.dirname(self.place)  # noqa: PTH120
        # Absolute: the ledger, and the report made of it, are read from anywhere.
        return Image.from_path(plain(os.path.join(folder, text)))  # noqa: PTH118 - as texts

    # --- from a file to its lines ----------------------------------------------------------------

    def _rows(self) -> Iterator[tuple[int, Mapping[str, Any] | InvalidRequest]]:
        if self._file is None:
            return self._pictures()
        self._file.seek(0)
        return self._json_lines(self._file) if self._is_json else self._csv(self._file)

    def find_format(self) -> None:
        """Tell JSON Lines from CSV: by the file's name, or by its first character."""
        if self._file is None:
            return
        ending = Path(self.place).suffix.lower()
        if ending in (".jsonl", ".ndjson", ".json"):
            self._is_json = True
        elif ending not in (".csv", ".tsv"):
            self._is_json = self._file.read(4096).lstrip().startswith("{")

    def _json_lines(self, file: TextIO) -> Iterator[tuple[int, Mapping[str, Any] | InvalidRequest]]:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_once_each)
            except InvalidRequest as error:
                yield number, error
                continue
            except ValueError as error:
                yield number, refuse("line", line.strip()[:80], f"must be JSON ({error})")
                continue
            except RecursionError:
                yield number, refuse("line", line.strip()[:80], "must be a flat JSON object")
                continue
            if isinstance(row, dict):
                yield number, cast("dict[str, Any]", row)
            else:
                yield number, refuse("line", row, "must be a JSON object with names and values")

    def _csv(self, file: TextIO) -> Iterator[tuple[int, Mapping[str, Any] | InvalidRequest]]:
        head = next((line for line in file if line.strip()), "")
        file.seek(0)
        # Spreadsheets of half the world write semicolons; a tab is what a paste leaves.
        mark = next((m for m in ",;\t" if m in head), ",")
        reader = csv.reader(file, delimiter=mark, strict=True)
        names: list[str] | None = None
        while True:
            begins = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield begins, refuse("line", begins, f"must be CSV ({error})")
                continue
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = [cell.strip().lower() for cell in cells]
                if problem := self._header_problem(names):
                    yield begins, problem
                    return
            elif len(cells) != len(names):
                limit = f"must have {len(names)} fields, as the header has"
                yield begins, refuse("line", f"{len(cells)} fields", limit)
            else:
                yield begins, dict(zip(names, cells, strict=True))

    def _header_problem(self, names: list[str]) -> InvalidRequest | None:
        for name in names:
            if name not in COLUMNS:
                return unknown_column(name)
            if names.count(name) > 1:
                return refuse("header", name, "must name each column once")
        if "prompt" not in names and "prompt" not in self.defaults:
            return refuse("header", ", ".join(names), "must have a column prompt, or give --prompt")
        return None

    def _pictures(self) -> Iterator[tuple[int, Mapping[str, Any] | InvalidRequest]]:
        number = 0
        for folder, folders, files in os.walk(self.place):
            folders[:] = sorted(
                one
                for one in folders
                if not one.startswith(".") and Path(folder, one).absolute() != self.out
            )
            for name in sorted(files):
                stem, ending = os.path.splitext(name)  # noqa: PTH122
                if name.startswith(".") or ending.lower() not in _PICTURES:
                    continue
                number += 1
                inside = Path(folder).relative_to(self.place)
                key = with_plain_spaces((inside / stem).as_posix())
                yield number, {"key": key, "image": str(inside / name)}


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises `InvalidRequest` if it has a name twice.

    JSON leaves that open, and Python takes the last one.
    """
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        again = next(name for name in names if names.count(name) > 1)
        raise refuse("line", again, "must name each value once")
    return row


class _Seen:
    """The keys so far and their lines, in a file without a name: memory does not grow with them."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("PRAGMA cache_size = -8000")
        self._file.execute("CREATE TABLE seen (key TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        # One transaction for all: it is never committed, and goes with the file.
        self._file.execute("BEGIN")

    def add(self, key: str, line: int, *, own: bool) -> None:
        """Remember a key, the line's own or made of it. Raises `InvalidRequest` if it is known."""
        cursor = self._file.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, line))
        if not cursor.rowcount:
            [(first,)] = self._file.execute("SELECT line FROM seen WHERE key = ?", (key,))
            limit = f"must be given once, and line {first} has it"
            if not own:
                limit += " (for several videos of one request, give each a key)"
            raise refuse("key", key, limit)

    def has(self, key: str) -> bool:
        """Return whether the key was there."""
        return bool(self._file.execute("SELECT 1 FROM seen WHERE key = ?", (key,)).fetchall())

    def close(self) -> None:
        """The file is gone."""
        self._file.close()


def unknown_column(name: object) -> InvalidRequest:
    """Return the refusal of a column, with what to use instead where that is known."""
    with contextlib.suppress(TypeError):
        try:
            refuse_unknown(VideoRequest, {str(name): name})
        except InvalidRequest as error:
            return error
    return refuse("column", name, f"must be one of {', '.join(COLUMNS)}")


@contextlib.contextmanager
def open_rows(place: str, defaults: Mapping[str, str | None], *, out: str) -> Generator[Rows]:
    """Give the manifest at `place`, open. Raises `ConfigurationError` if it cannot be read."""
    given = {name: value for name, value in defaults.items() if value is not None}
    before = csv.field_size_limit(_LONGEST_FIELD)
    with contextlib.ExitStack() as stack:
        stack.callback(csv.field_size_limit, before)
        try:
            rows = _opened(place, given, out, stack)
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
            if isinstance(error, FileNotFoundError):
                problem = "does not exist"
            raise ConfigurationError(f"{place} {problem}. Nothing was sent.") from error
        yield rows


def _opened(place: str, given: Mapping[str, str], out: str, stack: contextlib.ExitStack) -> Rows:
    mode = os.stat(place).st_mode  # noqa: PTH116 - a text as it was given
    if stat.S_ISDIR(mode):
        if "prompt" not in given:
            message = f"{place} is a folder of pictures: give one --prompt for all of them."
            raise ConfigurationError(message)
        return Rows(place, given, out=Path(out).absolute())
    if not stat.S_ISREG(mode):
        message = f"{place} must be a file or a folder: it is read twice. Nothing was sent."
        raise ConfigurationError(message)
    with open(place, "rb") as raw:  # noqa: PTH123 - as above
        if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            message = f"{place} is UTF-16: save it as UTF-8. Nothing was sent."
            raise ConfigurationError(message)
    # One file for both readings: an editor that replaces it changes nothing. Bytes that are
    # no UTF-8 may be part of a path and nothing else, which is seen where they are used.
    file = open(  # noqa: PTH123, SIM115 - as above; the stack closes it
        place, encoding="utf-8-sig", errors="surrogateescape", newline=""
    )
    rows = Rows(place, given, stack.enter_context(file))
    rows.find_format()
    return rows

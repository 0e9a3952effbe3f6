"""The report: one page of a batch that a person would rather look at than read.

It is made of the ledger alone and asks nobody for anything: script and style are inside it, videos
and pictures lie where they are. Every text of other people reaches the page as data, never as
markup.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import os
import shlex
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from attrs import frozen

from grok_video._database import MAGIC
from grok_video._entry import is_retryable, plain
from grok_video._errors import DestinationError
from grok_video._report._reading import Contents, command_beside, count_states, earlier, read
from grok_video._requests import SNIFF_LENGTH, sniff

__all__ = ["Made", "command_beside", "count_states", "earlier", "page", "write"]

#: What the page may load: pictures and videos that lie on this disk (or beside it on its server),
#: its own script and style by their hashes, and nothing else from anywhere.
_POLICY: Final = (
    "default-src 'none'; img-src 'self' file: data:; media-src 'self' file:; "
    "style-src 'sha256-{style}'; script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
)


#: How a page begins, by which the next one knows what it may replace.
_MARK: Final = b"<!doctype html>\n<!-- made by grok-video report -->\n"


@frozen
class Made:
    """A page that was written."""

    path: Path
    items: int
    #: Number of items by state.
    states: Mapping[str, int]


def write(
    ledger: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False
) -> Made:
    """The page is at `out`, whole, in place of an earlier one; of any file with `overwrite`.

    What the batch lives on is never replaced: its ledger, its pictures, its videos. Raises
    `LedgerError` if the ledger cannot be read, and `DestinationError` if the page cannot be
    written.
    """
    contents = read(ledger)
    path = Path(out).absolute()
    if problem := _problem(path, contents, overwrite=overwrite):
        message = f"the report {path} cannot be written: {problem}."
        raise DestinationError(message, request_id=None)
    text = page(contents, path.parent)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        message = f"the report {path} cannot be written: {error.strerror or error}."
        raise DestinationError(message, request_id=None) from error
    states = Counter(str(item["state"]) for item in contents.items)
    return Made(path, len(contents.items), dict(states))


def _problem(path: Path, contents: Contents, *, overwrite: bool) -> str | None:
    """Return why a page must not take this place, or None."""
    another = "name another file"
    places = {path, _real(path)}
    for ledger in (contents.path, _real(contents.path)):
        for place in places:
            if place == ledger:
                return f"it is the ledger, the only record of what was paid; {another}"
            # Its log and its lock may be needed although they are not there now.
            beside = place.name.startswith((f"{ledger.name}-", f"{ledger.name}."))
            if beside and place.parent == ledger.parent and place.suffix not in (".html", ".htm"):
                return f"it belongs to the ledger {ledger}; {another}"
    try:
        found = path.stat()
    except OSError:
        found = None  # not there, or not to be reached, which writing will tell
    if found is not None and stat.S_ISDIR(found.st_mode):
        return None  # said by the attempt
    if found is not None and not stat.S_ISREG(found.st_mode):
        return f"it is a pipe, socket or device, not a file; {another}"
    head = _head(path) if found is not None else b""
    if head == _MARK:
        return None
    if head.startswith(MAGIC):
        return f"it is a database; {another}"
    if any(_is_one(Path(name), places, found) for name in _files(contents)):
        return f"it is a picture or video of this batch; {another}"
    if not overwrite and os.path.lexists(path):
        return f"it exists and is no report; pass overwrite=True to replace it, or {another}"
    return None


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _head(path: Path) -> bytes:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(_MARK))
    return b""


def _files(contents: Contents) -> Iterator[str]:
    """Give the files that the ledger names."""
    for item in contents.items:
        for name in (item["image"], item["path"]):
            if name is not None and os.path.isabs(name) and "\0" not in name:  # noqa: PTH117 - text
                yield name


def _is_one(file: Path, places: Collection[Path], found: os.stat_result | None) -> bool:
    """Return whether a file is the one at these places, by its name or, if it is there, itself."""
    if file in places:
        return True
    if found is None:
        return False
    try:
        return os.path.samestat(file.stat(), found)
    except OSError:
        return False


def page(contents: Contents, folder: Path) -> str:
    """Return the page of a ledger, for a place in `folder`."""
    style, script = _part("page.css"), _part("page.js")
    # A file's name may be no text, and a page is one.
    title = plain(f"Videos of {'/'.join(contents.path.parent.parts[-2:])}")
    ledger = plain(str(contents.path))
    data = {
        "title": title,
        "ledger": ledger,
        "command": contents.command
        or f"grok-video batch MANIFEST -o DIR --ledger {shlex.quote(ledger)}",
        "run": contents.run,
        "runs": contents.runs,
        "began": contents.items[0]["began_at"] if contents.items else None,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "items": [_item(row, folder) for row in contents.items],
    }
    parts = {
        "policy": _POLICY.format(style=_hash(style), script=_hash(script)),
        "title": html.escape(title),
        "style": style,
        "script": script,
        "data": _json(data),
    }
    before, *rest = _part("page.html").split("{{")
    # Taken apart before anything is put in: what a stranger wrote is never looked at for marks.
    pieces = [before]
    for one in rest:
        name, _, after = one.partition("}}")
        pieces += [parts[name], after]
    return "".join(pieces)


def _item(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    image, path = row["image"], row["path"]
    item = {
        "key": row["key"],
        "state": row["state"],
        "id": row["request_id"],
        "prompt": row["prompt"],
        "duration": row["duration"],
        "resolution": row["resolution"],
        "ratio": row["aspect_ratio"],
        "seconds": row["seconds"],
        "cost": row["cost_usd"],
        "open": row["open_usd"],
        "size": row["size"],
        "attempts": row["attempts"],
        "error_type": row["error_type"],
        "error": row["error"],
        "retryable": is_retryable(row["state"], row["error_type"]),
        "path": path,
        "image": image,
    }
    if path is not None and row["state"] == "saved" and Path(path).is_file():
        item["video"] = _address(Path(path), folder)
    if image is not None:
        item |= _source(image, folder)
    return item


def _source(image: str, folder: Path) -> dict[str, Any]:
    """Return what can be shown of a source picture: itself, a link to it, or words."""
    if image.startswith(("http://", "https://")):
        return {"link": image}
    if not os.path.isabs(image):  # noqa: PTH117 - a description, such as "1234 bytes"
        return {"image": image[:200]}
    # Looked at here, because a browser complains of what it cannot load.
    try:
        with open(image, "rb") as file:  # noqa: PTH123 - not `Path`: the text may be no name at all
            kind = sniff(file.read(SNIFF_LENGTH))
    except (OSError, ValueError):
        return {"image": f"The picture is not here: {image}"}
    if kind is None:
        return {"image": f"Not a picture: {image}"}
    return {"picture": _address(Path(image), folder)}


def _address(path: Path, folder: Path) -> str:
    """Return a URL of a file that holds as long as the page and the file move together."""
    try:
        relative = Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return path.as_uri()  # another drive
    return f"./{quote(os.fsencode(relative))}"


def _json(data: object) -> str:
    """Return JSON that can stand inside a script element: nothing in it can end the element."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")

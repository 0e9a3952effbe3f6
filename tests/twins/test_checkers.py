"""What type checkers and editors show of the twins: asked through pyright, as an editor asks it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: Seconds; the first start of pyright fetches it.
PATIENCE = 300

SCRIPT = """\
from grok_video import Client, Job
client = Client("key")
job = client.submit("a cat", duration=6)
video = client.generate("a cat")
job.download("cat.mp4")
"""


class Editor:
    """Just enough of the language server protocol to hover over a word."""

    def __init__(self, server: subprocess.Popen[bytes], file: Path) -> None:
        self._server = server
        self._uri = file.as_uri()
        self._number = 0
        root = file.parent.as_uri()
        folders = [{"uri": root, "name": "here"}]
        self._ask(
            "initialize",
            processId=os.getpid(),
            rootUri=root,
            workspaceFolders=folders,
            capabilities={
                "workspace": {"configuration": True},
                "textDocument": {"hover": {"contentFormat": ["plaintext"]}},
            },
        )
        self._send("initialized")
        document = {"uri": self._uri, "languageId": "python", "version": 1, "text": SCRIPT}
        self._send("textDocument/didOpen", textDocument=document)

    def hover(self, word: str) -> str:
        """Return what is shown over the first use of a word."""
        line, column = next(
            (number, found.start())
            for number, text in enumerate(SCRIPT.splitlines())
            if (found := re.search(rf"\b{word}\b", text))
        )
        place = {"line": line, "character": column + 1}
        found = self._ask("textDocument/hover", textDocument={"uri": self._uri}, position=place)
        return found["contents"]["value"]

    def _ask(self, method: str, **words: Any) -> Any:
        self._number += 1
        self._send(method, self._number, **words)
        while True:
            message = self._receive()
            if message.get("id") == self._number and "method" not in message:
                assert "error" not in message, message
                return message["result"]
            if "id" in message:  # the server's own questions: settings, capabilities
                asked = [item["section"] for item in message.get("params", {}).get("items", [])]
                known = {"python": {"pythonPath": sys.executable}}
                result = [known.get(section, {}) for section in asked]
                self._write({"id": message["id"], "result": result})

    def _send(self, method: str, number: int | None = None, **words: Any) -> None:
        numbered = {"id": number} if number is not None else {}
        self._write({"method": method, "params": words} | numbered)

    def _write(self, message: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        body = json.dumps({"jsonrpc": "2.0"} | message).encode()
        self._server.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._server.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        length = 0
        while (line := self._server.stdout.readline().strip()) or not length:
            assert line, "the server has ended"
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return json.loads(self._server.stdout.read(length))


@contextmanager
def editing(folder: Path) -> Iterator[Editor]:
    (folder / "script.py").write_text(SCRIPT)
    (folder / "pyrightconfig.json").write_text("{}")
    start = "from pyright.langserver import entrypoint; entrypoint()"
    with subprocess.Popen(
        [sys.executable, "-c", start, "--stdio"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            yield Editor(server, folder / "script.py")
        finally:
            server.kill()


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    with editing(tmp_path_factory.mktemp("editor")) as editor:
        yield editor


def test_hovering_over_submit_shows_its_whole_signature_and_docstring(editor: Editor) -> None:
    shown = editor.hover("submit")
    for word in (
        "prompt: str",
        "image: ImageInput | None",
        "duration: int | None",
        "aspect_ratio: AspectRatio | None",
        "resolution: Resolution | None",
        "model: str = DEFAULT_MODEL",
        "output: Mapping[str, Any] | None",
        "user: str | None",
        "on_submitted: ((Job) -> object) | None",
        "-> Job",
        "Start a job and return its handle as soon as its request_id is known.",
        "then nothing is sent again",
    ):
        assert word in shown, shown


def test_hovering_shows_what_comes_back(editor: Editor) -> None:
    assert "-> Video" in editor.hover("generate")
    assert "(variable) video: Video" in editor.hover("video")
    assert "overwrite: bool = False" in editor.hover("download")
    assert "A client of the video API for plain code" in editor.hover("Client")


def test_every_public_type_is_complete(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "grok_video", "--ignoreexternal"],
        # Here pyright takes the first Python of the path, whatever `--pythonpath` says.
        env=os.environ
        | {"PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=PATIENCE,
    )
    assert "Type completeness score: 100%" in done.stdout, done.stdout

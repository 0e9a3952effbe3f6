"""The check of the generated twins, tried by breaking what it guards, in a copy of the package.

`_codegen` is in no wheel: these tests need a checkout.
"""

from __future__ import annotations

import ast
import contextlib
import io
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

import grok_video
from grok_video import _codegen

PACKAGE = Path(grok_video.__file__).parent


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package's sources, to be broken."""
    root = tmp_path / "grok_video"
    shutil.copytree(PACKAGE, root, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def check(root: Path, *options: str) -> tuple[int, str]:
    """Return the exit code and what is told, of the command as it is called."""
    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = _codegen.main([*(options or ("--check",)), "--root", str(root)])
    return code, told.getvalue()


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert text.count(before) >= 1, before
    path.write_text(text.replace(before, after, 1))


# --- as it is ------------------------------------------------------------------------------------


def test_the_generated_file_is_what_its_sources_make_of_it() -> None:
    command = [sys.executable, "-m", "grok_video._codegen", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_writing_again_changes_nothing(copied: Path) -> None:
    before = (copied / "_sync.py").read_text()
    (copied / "_sync.py").unlink()
    shutil.copy(PACKAGE.parent / "pyproject.toml", copied.parent)  # the width of a line
    assert check(copied, "--root", str(copied)) == (0, "")
    assert (copied / "_sync.py").read_text() == before


def test_the_check_does_not_mind_the_layout(copied: Path) -> None:
    changed = "return (\n            self._handle.status\n        )"
    edit(copied / "_sync.py", "return self._handle.status", changed)
    assert check(copied) == (0, "")


# --- planted faults ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    {
        "a renamed keyword": ("        overwrite: bool = False,", "        replace: bool = False,"),
        "a keyword handed on wrongly": ("duration=duration", "duration=model"),
        "a wrong annotation": ("duration: int | None = None", "duration: float | None = None"),
        "a wrong default": ('name: str = "{key}.mp4"', 'name: str = "{key}.mpg"'),
        "a wrong result": (") -> Snapshot:", ") -> Video:"),
        "a changed docstring": ("At most one video is paid for", "A video is paid for"),
        "a lost decorator": ("    @property\n", ""),
        "a lost overload": ("    @overload\n", ""),
        "a lost method": ("    def stop(self) -> None:", "    def _stop(self) -> None:"),
        "a changed body": ("self._call(self._handle.refresh, ", "self._call(self._handle.result, "),
        "a lost import": ("from grok_video._job import DEFAULT_TIMEOUT\n", ""),
        "a missing header": (_codegen.MARKER, "# Written by hand"),
        "a changed header": ("do not edit", "do edit"),
        "broken syntax": ("class Job(JobTwin):", "class Job(JobTwin:"),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_generated_file_that_was_changed_is_found(
    copied: Path, before: str, after: tuple[str, str]
) -> None:
    edit(copied / "_sync.py", *after)
    code, told = check(copied)
    assert code == 1, before
    assert "_sync.py" in told


@pytest.mark.parametrize(
    "line", ["import os", "Client = None", "# a note", "'a stray string'", "    # indented", "pass"]
)
def test_a_stray_last_line_is_found(copied: Path, line: str) -> None:
    path = copied / "_sync.py"
    path.write_text(path.read_text() + line + "\n")
    code, told = check(copied)
    assert code == 1
    assert "_sync.py" in told


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("_client.py", "overwrite: bool = False,", "replace: bool = False,"),
        ("_client.py", "duration: int | None = None,", "duration: float | None = None,"),
        ("_job.py", "Return what the API says now", "Return what the API said"),
        ("_job.py", "    async def refresh(self", "    async def renew(self"),
        ("_batch.py", "    def stop(self) -> None:", "    async def stop(self) -> None:"),
    ],
)
def test_a_stale_file_is_found(copied: Path, module: str, before: str, after: str) -> None:
    edit(copied / module, before, after)
    code, told = check(copied)
    assert code == 1
    assert "_sync.py is not what its sources make of it" in told


def test_a_missing_file_is_found(copied: Path) -> None:
    (copied / "_sync.py").unlink()
    assert check(copied) == (1, "_sync.py is missing\n")


@pytest.mark.parametrize("name", ["_old.py", "_transports/_sync.py", "emulator/_twin.pyi"])
@pytest.mark.parametrize("before", ["", "#!/usr/bin/env python\n# coding: utf-8\n"])
def test_an_orphan_that_says_it_is_generated_is_found(copied: Path, name: str, before: str) -> None:
    (copied / name).write_text(f"{before}{_codegen.MARKER} from _gone.py: do not edit\n")
    code, told = check(copied)
    assert code == 1
    assert told == f"{name} says that it is generated, and no rule makes it\n"


METHODS = {
    "a class method": "@classmethod\ndef make(cls) -> int:\n    'D.'",
    "a static method": "@staticmethod\ndef make() -> int:\n    'D.'",
    "another decorator": "@cached\ndef make(self) -> int:\n    'D.'",
    "a special method": "def __len__(self) -> int: ...",
    "an async context": "async def make(self) -> AsyncContextManager[int]:\n    'D.'",
    "an awaitable": "def make(self) -> Awaitable[int]:\n    'D.'",
    "an async generator": "async def make(self) -> AsyncIterable[int]:\n    'D.'\n    yield 1",
    "an unknown hook": "async def make(self, tell: Callable[[AsyncJob], bool]) -> int:\n    'D.'",
    "an unknown result": "async def make(self) -> list[AsyncJob]:\n    'D.'",
    "an async iterable": "async def make(self, of: AsyncIterable[int]) -> int:\n    'D.'",
    "no annotation": "async def make(self, what) -> int:\n    'D.'",
    "no result": "async def make(self):\n    'D.'",
    "no docstring": "async def make(self) -> int: ...",
    "a docstring that awaits": "async def make(self) -> int:\n    'Use it with await.'",
    "an attribute": "limit = 3",
    "an annotated attribute": "limit: int",
    "a nested class": "class Inner:\n    'D.'",
    "an unknown name": "async def make(self) -> Nowhere:\n    'D.'",
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("options", [(), ("--check",)], ids=["write", "check"])
def test_what_has_no_rule_is_refused_by_file_and_name(
    copied: Path, method: str, options: tuple[str, ...]
) -> None:
    before = (copied / "_sync.py").read_text()
    edit(copied / "_job.py", "    # --- waiting", indent(method, "    ") + "\n\n    # --- waiting")
    ast.parse((copied / "_job.py").read_text())
    code, told = check(copied, *options, "--root", str(copied))
    assert code == 1
    assert told.startswith("_job.py:")
    assert any(
        word in told for word in ("make", "limit", "Inner", "__len__", "Nowhere", "docstring")
    )
    assert (copied / "_sync.py").read_text() == before


def test_a_docstring_whose_words_are_gone_is_refused(copied: Path) -> None:
    edit(copied / "_client.py", "for asyncio and trio", "for every event loop")
    code, told = check(copied)
    assert code == 1
    assert told.startswith("_client.py:")
    assert "for asyncio and trio" in told

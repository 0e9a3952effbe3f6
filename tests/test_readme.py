"""The README is true: its examples run, its diagram is the table's, its commands exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grok_video._lifecycle import diagram
from grok_video.emulator import Emulator

from .conftest import PHOTO

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_an_example_runs_as_it_stands(number: int, tmp_path: Path, grok_emulator: Emulator) -> None:
    shutil.copy(PHOTO, tmp_path / "cat.jpg")
    (tmp_path / "pictures").mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(PHOTO, tmp_path / "pictures" / name)
    settings = {
        "COMETAPI_KEY": grok_emulator.api_key,
        "GROK_VIDEO_BASE_URL": grok_emulator.base_url,
    }
    example = blocks("python")[number]
    words = ["-c", example]
    if "\ndef test_" in example:
        (tmp_path / "test_example.py").write_text(example)
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"]
    done = subprocess.run(
        [sys.executable, "-W", "error", *words],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert words[0] == "-c" or "1 passed" in done.stdout


def test_the_diagram_is_drawn_from_the_table() -> None:
    assert [block.strip() for block in blocks("mermaid")] == [diagram()]


def test_the_commands_that_the_readme_names_exist() -> None:
    shown = set(re.findall(r"^grok-video (\w+)", README, re.MULTILINE))
    helped = subprocess.run(
        [sys.executable, "-m", "grok_video", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    for name in shown:
        assert re.search(rf"^  {name}\s", helped, re.MULTILINE), name


def test_the_sessions_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"nox -s ([\w ]+?)(?:`|\s+#|$| -)", README, re.MULTILINE))
    sessions = set(
        re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    )
    assert {word for names in named for word in names.split()} <= sessions


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    command = re.search(r"^(.* && nox -s tests)\b", README, re.MULTILINE)
    assert command is not None
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    lines = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert lines == [command[1]]

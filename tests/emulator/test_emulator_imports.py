"""What importing the emulator costs, and what it must never import."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "grok_video" / "emulator"
HEAVY = ["aiohttp", "av", "PIL", "sqlite3"]


@pytest.mark.parametrize("name", ["grok_video.emulator", "grok_video.emulator.pytest_plugin"])
def test_importing_loads_nothing_heavy(name):
    code = f"import {name}, sys, json; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parents[1], capture_output=True, check=True
    )
    assert json.loads(found.stdout) == []


def test_a_missing_extra_is_told_with_the_command_that_helps(monkeypatch):
    from grok_video.emulator import Emulator

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "av" else name)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "grok-video\[emulator\]"'):
        Emulator().start()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_the_emulator_imports_nothing_of_the_sdk(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1
            assert not (node.module or "").startswith("grok_video")
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("grok_video") for alias in node.names)

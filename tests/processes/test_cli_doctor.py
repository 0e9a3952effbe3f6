"""`grok-video doctor` calls nothing well that proves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grok_video._cli import main
from grok_video.emulator import Emulator, faults


def examine(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("status", [200, 202])
def test_an_empty_answer_is_no_sign_of_an_accepted_key(
    status: int, grok_emulator: Emulator, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("COMETAPI_KEY", grok_emulator.api_key)
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", grok_emulator.base_url)
    grok_emulator.script("poll", [faults.Answer(status, "")])
    code, found = examine(capsys)
    grok_emulator.assert_faults_consumed()
    assert (code, found["api"]["ok"], found["api"]["verdict"]) == (1, False, "wrong_path")
    assert "key accepted" not in found["api"]["detail"]


@pytest.mark.parametrize("content", ["", "this is no certificate\n"])
def test_a_file_without_a_certificate_is_told(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", "https://video.invalid/v1")
    file = tmp_path / "ca.pem"
    file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    ca = examine(capsys)[1]["ca"]
    assert not ca["ok"]
    assert ca["detail"] == f"SSL_CERT_FILE={file} holds no certificate"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path))
    ca = examine(capsys)[1]["ca"]
    assert not ca["ok"]
    # A folder shows what it has only when it is asked.
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert examine(capsys)[1]["ca"]["ok"]

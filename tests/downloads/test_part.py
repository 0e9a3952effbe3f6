"""The part file and its own rules, on a real disk and without a server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from grok_video import DestinationError
from grok_video._partfile import Batch, PartFile
from grok_video._ranges import Version

from .fileserver import SMALL
from .harness import ID, names


@pytest.mark.parametrize("change", ["cut", "grown"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_part_that_changed_after_its_last_byte_is_not_called_the_video(
    tmp_path: Path, change: str, overwrite: bool
) -> None:
    path, part = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part"
    if overwrite:
        path.write_bytes(b"an older video")
    file = PartFile(path, overwrite=overwrite, sha256=True, request_id=ID)
    file.open()
    version = Version(total=len(SMALL), etag='"v1"')
    file.store(Batch(restart=version, chunks=[SMALL], size=len(SMALL)))
    os.truncate(part, len(SMALL) + (1000 if change == "grown" else -1000))
    with pytest.raises(DestinationError, match=r"cat\.mp4\.part was changed by somebody"):
        file.finish(Batch())
    assert not file.saved
    assert file.close(Batch()) == 0, "and nothing of it is believed"
    assert names(tmp_path) == ({"cat.mp4"} if overwrite else set())
    assert not overwrite or path.read_bytes() == b"an older video"

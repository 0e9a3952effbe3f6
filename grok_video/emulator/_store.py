"""Where jobs are kept: nowhere, or in a SQLite file that outlives the emulator's process.

The base class keeps nothing but the pictures that have to be rendered, in the emulator's folder;
`_sqlite` adds the file. No HTTP and no clock here.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._records import Create
    from ._service import Job


class Store:
    """Keeps nothing beyond this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.secret = secrets.token_bytes(16)

    def jobs(self) -> Iterable[Job]:
        """The jobs of earlier processes, in the order of their serials."""
        return ()

    def creates(self) -> Iterable[Create]:
        """The creates of earlier processes, in order."""
        return ()

    def accept(self, job: Job, create: Create) -> None:
        """The job and its price are safe before this returns."""

    def update(self, job: Job) -> None:
        """What changed about the job is safe before this returns."""

    def keep_picture(self, digest: str, data: bytes) -> None:
        """The picture can be read back under its digest."""
        (self._folder / digest).write_bytes(data)

    def picture(self, digest: str) -> bytes | None:
        """The picture kept under this digest; `None` for the test card."""
        return None if digest == "card" else (self._folder / digest).read_bytes()

    def close(self) -> None:
        """Nothing is open any more."""

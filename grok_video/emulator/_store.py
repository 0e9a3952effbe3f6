"""Where jobs are kept: nowhere, or in a SQLite file that outlives the emulator's process.

The base class keeps nothing but the pictures that have to be rendered, in the emulator's folder;
`_sqlite` adds the file. No HTTP and no clock here.
"""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._jobs import Job
    from ._records import Create, Request


class Store:
    """Keeps nothing beyond this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.secret = secrets.token_bytes(16)

    def fact(self, name: str, first: Any) -> Any:  # noqa: ANN401 - what a store can hold
        """The value kept under this name; `first` is kept if there is none."""
        del name
        return first

    def set_fact(self, name: str, value: Any) -> None:  # noqa: ANN401 - what a store can hold
        """From now on this value is kept under this name."""

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

    def attempt(self, log: Request) -> None:
        """Notes that a create came, and what it was answered."""

    def killed(self) -> Iterable[str]:
        """The links that earlier processes killed."""
        return ()

    def kill(self, name: str) -> None:
        """This link is dead, for later processes too."""

    def keep_picture(self, digest: str, data: bytes) -> None:
        """The picture can be read back under its digest."""
        # Moved into place, because the same picture may be read by a renderer meanwhile.
        file = tempfile.NamedTemporaryFile(dir=self._folder, delete=False)  # noqa: SIM115 - moved
        with file:
            file.write(data)
        Path(file.name).replace(self._folder / digest)

    def picture(self, digest: str) -> bytes | None:
        """The picture kept under this digest; `None` for the test card."""
        return None if digest == "card" else (self._folder / digest).read_bytes()

    def drop_picture(self, digest: str) -> None:
        """The picture is gone: no job needs it any more."""
        (self._folder / digest).unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is open any more."""


def opened(path: Path | None, folder: Path) -> Store:
    """The store at this path, or one that keeps nothing."""
    if path is None:
        return Store(folder)
    from ._sqlite import SQLiteStore

    return SQLiteStore(path, folder)

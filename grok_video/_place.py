"""Where a video is put: the names of file, part and record, and whether it may be put there.

Everything here looks and changes nothing. It blocks, and is called in worker threads.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from grok_video import _disk
from grok_video._destination import Destination
from grok_video._errors import DestinationError, resume_hint
from grok_video._partrecord import Record

__all__ = ["TAKEN", "TAKEN_MEANWHILE", "Place", "check", "refusal"]

#: Longest file name in bytes on every file system in use (ext4, xfs, apfs, ntfs).
_LONGEST_NAME: Final = 255
TAKEN: Final = (
    "it exists, and it is kept as it is; pass overwrite=True to replace it, or another name"
)
TAKEN_MEANWHILE: Final = "it was made by somebody else meanwhile, and is kept as it is"


class Place:
    """The names of one download: the destination, its part and the part's record."""

    def __init__(self, destination: str | os.PathLike[str]) -> None:
        destination = Destination.of(destination)
        name = destination.shown
        self._is_lost = destination.is_lost
        # Nothing is taken off: behind a link to a folder, `..` is not the folder that the link is
        # in, and abspath() would lead to a file that nobody named.
        self.file = Path(destination)
        self.names_folder = name.endswith(("/", os.sep)) or not self.file.name
        stem = self.file.name or "video"
        encoded = _encoded(stem)
        if len(encoded) + len(".part.json") > _LONGEST_NAME:
            digest = hashlib.sha256(encoded).hexdigest()[:16]
            stem = os.fsdecode(encoded[:64]) + "~" + digest
        self.part = self.file.parent / f"{stem}.part"
        self.record = self.file.parent / f"{stem}.part.json"

    @property
    def foreign_words(self) -> str:
        """What is said of somebody else's file under the part's name."""
        return f"{self.part.name} is not a file of ours; move it away"

    def check(self, *, overwrite: bool, adopt: bool = False) -> str | None:
        """Return why the file cannot be put there, or None.

        With `adopt` what has its name may be the video, and would be kept.
        """
        try:
            problem = self._problem_of_name()
            if problem is not None:
                return problem
            if self.names_folder or self.file.is_dir():
                return "it is a folder; name a file in it"
            folder = self.file.parent
            if not folder.is_dir():
                what = "is not a folder" if folder.exists() else "does not exist"
                return f"{folder} {what}"
            try:
                mode = self.file.lstat().st_mode
            except FileNotFoundError:
                pass
            else:
                if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                    return "it is a pipe, socket or device, not a file; it was not touched"
                if not (overwrite or adopt):
                    return TAKEN
                problem = _disk.its_owners(self.file) if overwrite else None
                if problem is not None:
                    return problem
            if not _disk.may(folder, os.W_OK | os.X_OK):
                return f"the folder {folder} cannot be written to"
            if self.is_foreign():
                return self.foreign_words
            Record(self.record, "").check()
            return _disk.refused(self.part) or _disk.refused(self.record)
        except OSError as error:
            return _disk.words(error)

    def _problem_of_name(self) -> str | None:
        """Return why no file can have this name, or None."""
        if "\0" in str(self.file):
            return "a file name cannot contain a null byte"
        try:
            os.fsencode(self.file)
        except UnicodeEncodeError:
            return "a file name must be text that can be encoded (no lone surrogates)"
        if self._is_lost:
            return "the working directory is gone; name the file by an absolute path"
        return None

    def is_foreign(self) -> bool:
        """Return whether somebody else has something under the part's name."""
        try:
            found = self.part.lstat()
        except FileNotFoundError:
            return False
        # The record is written before the first byte, so a part without one is not ours. (One that
        # is given its name just now has that before its record goes, or a second one.)
        is_part = stat.S_ISREG(found.st_mode) and (
            not found.st_size or self._is_the_file(found) or self.record.exists()
        )
        return not is_part and os.path.lexists(self.part)

    def _is_the_file(self, found: os.stat_result) -> bool:
        """Return whether this is what has the destination's name."""
        try:
            return os.path.samestat(found, self.file.lstat())
        except FileNotFoundError:
            return False


def _encoded(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")  # refused by `check`


def check(destination: str | os.PathLike[str], *, overwrite: bool, request_id: str | None) -> None:
    """Raise `DestinationError` if a video cannot be put there. Leaves nothing behind."""
    place = Place(destination)
    problem = place.check(overwrite=overwrite)
    if problem is not None:
        raise refusal(destination, problem, request_id)


def refusal(
    destination: str | os.PathLike[str], problem: str, request_id: str | None
) -> DestinationError:
    """Return the error that tells why a video cannot be put there."""
    shown = Path(Destination.of(destination).shown)
    error = DestinationError(
        f"the video of job {request_id} cannot be saved as {shown}: {problem}. "
        f"{resume_hint(request_id)}"
        if request_id is not None
        else f"a video cannot be saved as {shown}: {problem}. Nothing was sent.",
        request_id=request_id,
    )
    error.is_taken = problem in (TAKEN, TAKEN_MEANWHILE)
    return error

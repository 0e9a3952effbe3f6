"""Where a caller wants a file, fixed at the moment it is named."""

from __future__ import annotations

import os

__all__ = ["Destination"]


class Destination(os.PathLike[str]):
    """Where a file is to be put: as it was named, and where that was when it was named.

    The working directory of a program may change while a job is waited for. (To ask for it is a
    system call that waits for no disk.)
    """

    __slots__ = ("_path", "is_lost", "shown")

    def __init__(self, named: str | os.PathLike[str]) -> None:
        self.shown: str = os.fsdecode(named)
        self._path = self.shown
        #: True where nobody can say which file it names: the working directory is gone.
        self.is_lost = False
        if not os.path.isabs(self.shown):  # noqa: PTH117 - no Path is wanted
            try:
                self._path = os.path.join(os.getcwd(), self.shown)  # noqa: PTH109, PTH118 - as above
            except OSError:
                self.is_lost = True

    @classmethod
    def of(cls, named: str | os.PathLike[str]) -> Destination:
        """Return the destination that this names, from now on the same one."""
        return named if isinstance(named, Destination) else cls(named)

    def name_now(self) -> str:
        """Return a name that leads there now: the one it was given, if that still does."""
        return self.shown if os.fspath(Destination(self.shown)) == self._path else self._path

    def __fspath__(self) -> str:
        return self._path

"""The pictures of the jobs: looked at once, kept while a job needs them, deleted with the last.

Used from the server's loop and from its pool. What a picture is, is `_sources`' knowledge; where
its bytes lie, the store's.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final

from . import _sources
from ._sources import Source, Unusable

if TYPE_CHECKING:
    from ._store import Store

# A memory of so many pictures that were looked at; forgetting one costs a second look.
_REMEMBERED: Final = 1000


class Pictures:
    """The pictures of one emulator; only those that will be rendered (`thorough`) are kept."""

    def __init__(self, store: Store, *, thorough: bool) -> None:
        self._store = store
        self.thorough = thorough
        self._lock = threading.Lock()
        self._known: dict[str, Source | Unusable] = {}
        self._held: Counter[str] = Counter()

    def keep(self, data: bytes) -> Source | Unusable:
        """What these bytes are. A picture is held for one more job, which has to release it."""
        digest = hashlib.sha256(data).hexdigest()
        # Held before anybody looks: another job may release the same picture meanwhile.
        self.hold(digest)
        known = self._known.get(digest)
        try:
            if known is None:
                known = _sources.inspect(data, thorough=self.thorough)
                if isinstance(known, Source) and self.thorough:
                    self._store.keep_picture(digest, data)
                with self._lock:
                    if len(self._known) >= _REMEMBERED:
                        self._known.clear()
                    self._known[digest] = known
        except BaseException:
            self.release(digest)
            raise
        if isinstance(known, Unusable):
            self.release(digest)
        return known

    def hold(self, digest: str | None) -> None:
        """One more job needs this picture."""
        if self.thorough and digest is not None:
            with self._lock:
                self._held[digest] += 1

    def release(self, digest: str | None) -> None:
        """One job less needs this picture; after the last it is deleted."""
        if not self.thorough or digest is None:
            return
        with self._lock:
            self._held[digest] -= 1
            if self._held[digest] > 0:
                return
            del self._held[digest]
            if isinstance(self._known.get(digest), Source):
                del self._known[digest]
            # Under the lock, or it would take away what a create has just brought again.
            self._store.drop_picture(digest)

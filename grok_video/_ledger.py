"""The journal of a batch: what happened to each item, on disk before the next step is taken.

One thread writes. It takes whatever waits, puts it into one transaction and then wakes everybody
who waited for it, so that a hundred items pay for one sync of the disk together. An item's state
here is always the sum of what was told; nothing here sends, and no key, picture or link comes in.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import queue
import threading
import time
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen

from grok_video._entry import Entry, plain, read_id, written_id
from grok_video._errors import LedgerError
from grok_video._ledgerfile import LedgerFile
from grok_video._lifecycle import Event, State, advance
from grok_video._transports._loops import Bell, caller_of, finish, running_loop

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from grok_video._ledgerfile import Facts, Opened

__all__ = ["Found", "Journal", "Ledger"]

#: Seconds for which a transaction waits for more rows, where the last one had several: each costs
#: 0.2 ms of CPU beside its rows, and a batch of jobs of milliseconds has a third as many with it.
_GATHERING: Final = 0.002
#: Rows in one transaction at most: 1,000 are about 200 KiB and take some milliseconds.
_MOST_ROWS: Final = 1000


@frozen
class Found:
    """What a look into the ledger brought."""

    #: The items that have a history, by key.
    known: dict[str, Entry]
    #: Keys that this run asked for before.
    again: set[str]


class Seen:
    """The keys that came, as hashes side by side: 100,000 of them take 2.2 MB, a set of them 9.

    A batch without a ledger has nothing else that knows them when they have left its window.
    """

    __slots__ = ("_shelves",)

    #: Bytes of a hash: two keys of a million have the same one once in 10^26 times.
    _WIDTH: Final = 16
    #: Shelves: what is looked through for a key is a few KiB of a million keys, which takes 1 us.
    _SHELVES: Final = 4096

    def __init__(self) -> None:
        self._shelves: dict[int, bytearray] = {}

    def add(self, key: str) -> bool:
        """Return whether the key is a new one; it is none from now on."""
        text = key.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(text, digest_size=self._WIDTH).digest()
        number = int.from_bytes(digest[:2], "big") % self._SHELVES
        shelf = self._shelves.setdefault(number, bytearray())
        at = shelf.find(digest)
        while at % self._WIDTH and at >= 0:  # across two of them
            at = shelf.find(digest, at + 1)
        if at >= 0:
            return False
        shelf += digest
        return True


class Journal:
    """A journal that keeps nothing, for batches without a ledger."""

    _seen: Seen | None = None
    #: Already spent by earlier runs, and what they may still be billed for, in US dollars.
    spent_usd: Decimal = Decimal(0)
    open_usd: Decimal = Decimal(0)

    @property
    def keeps(self) -> bool:
        """True as long as what is told here can be read again when the batch is over."""
        return False

    @property
    def failure(self) -> LedgerError | None:
        """Why nothing can be written any more, or None."""
        return None

    @property
    def trouble(self) -> str | None:
        """Why nothing more should be begun, though what is on its way can be written; or None."""
        return None

    async def find(self, keys: list[str]) -> Found:
        """Return what is known of these keys, and which of them came before in this run."""
        self._seen = seen = self._seen or Seen()
        # Each once: of two that come together, the first one counts.
        return Found({}, {key for key in set(keys) if not seen.add(key)})

    async def look_up(
        self, found_ids: Mapping[str, str]
    ) -> tuple[dict[str, Entry], dict[str, str]]:
        """Return what is known of these keys, and the keys of the items that have these ids."""
        del found_ids
        return {}, {}

    def note(self, entry: Entry, event: Event) -> None:
        """The event has happened; it is written with the next group, and nobody waits for it."""
        entry.advance(event)

    async def record(self, entry: Entry, *events: Event) -> None:
        """The events have happened and are on disk, all of them in one transaction.

        Raises `LedgerError` if they cannot be written; the disk has none of them then.
        """
        for event in events:
            entry.advance(event)

    async def close(self) -> None:
        """All that was noted is on disk, and the file is whole and free."""


class Ledger(Journal):
    """A journal in a SQLite file, held by this process alone; belongs to one event loop."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = LedgerFile(path)
        self._queue: queue.SimpleQueue[_Row | _Question | _End] = queue.SimpleQueue()
        self._failure: LedgerError | None = None
        self._is_open = False
        self._next_item = 1
        self._call_soon = caller_of(running_loop())

    @classmethod
    async def open(cls, path: str | os.PathLike[str]) -> Ledger:
        """Return the ledger at `path`, made now if there is none.

        Raises `LedgerError` if it is in use, newer, damaged, no ledger, or cannot be written.
        """
        ledger = cls(path)
        opened = _Waiter()
        # A daemon: a process that ends without closing must end, and the file does not mind.
        threading.Thread(
            target=ledger._run, args=(opened,), name="grok-video-ledger", daemon=True
        ).start()

        async def opening() -> None:
            ledger._begin(await opened.wait())

        try:
            # To its end: whoever is cancelled here would leave a file open that nobody closes.
            await finish(opening, grace=ledger._hurry)
        except BaseException:
            await ledger.close()
            raise
        return ledger

    def _hurry(self) -> float:
        self._file.is_unwanted = True
        return math.inf

    def _begin(self, opened: Opened) -> None:
        self._is_open = True
        self._next_item = opened.next_item
        self.spent_usd = Decimal(str(opened.spent_usd))
        self.open_usd = Decimal(str(opened.open_usd))

    @property
    def keeps(self) -> bool:
        return self._failure is None

    @property
    def failure(self) -> LedgerError | None:
        return self._failure

    @property
    def trouble(self) -> str | None:
        return self._file.trouble

    async def find(self, keys: list[str]) -> Found:
        wanted = [plain(key) for key in keys]
        facts, again = await self._ask(lambda file: file.find(wanted))
        return Found(self._entries(facts), again)

    async def look_up(
        self, found_ids: Mapping[str, str]
    ) -> tuple[dict[str, Entry], dict[str, str]]:
        keys = [plain(key) for key in found_ids]
        ids = [written_id(request_id) for request_id in found_ids.values()]
        facts, owners = await self._ask(lambda file: file.look_up(keys, ids))
        return self._entries(facts), {read_id(text) or "": key for text, key in owners.items()}

    async def _ask(self, ask: Callable[[LedgerFile], Any]) -> Any:  # noqa: ANN401 - its answer
        question = _Question(ask)
        self._queue.put(question)
        return await question.waiter.wait()

    def _entries(self, facts: Mapping[str, Facts]) -> dict[str, Entry]:
        return {key: self._entry(key, of_key) for key, of_key in facts.items()}

    def note(self, entry: Entry, event: Event) -> None:
        self._put(entry, (event,), None)

    async def record(self, entry: Entry, *events: Event) -> None:
        waiter = _Waiter()
        self._put(entry, events, waiter)
        await waiter.wait()

    async def close(self) -> None:
        if not self._is_open:
            return  # it never was, or is closed: the thread has ended
        self._is_open = False
        end = _End()
        self._queue.put(end)
        # To its end: a caller who goes on may open the same file again.
        await finish(end.waiter.wait)

    def _put(self, entry: Entry, events: Iterable[Event], waiter: _Waiter | None) -> None:
        request_row = None
        rows: list[tuple[Any, ...]] = []
        for event in events:
            entry.advance(event)
            if not entry.item:
                entry.item = self._next_item
                self._next_item += 1
                assert entry.request_row is not None  # noqa: S101 - described before its first event
            if entry.request_row is not None:
                request_row = (entry.item, *entry.request_row)
                entry.request_row = None
            rows.append(entry.row(event))
        self._queue.put(_Row(rows, request_row, waiter))

    def _entry(self, key: str, facts: Facts) -> Entry:
        """Return the item as its events left it: the sum of them, not the last word alone."""
        state = reduce(advance, facts.events, State.PLANNED)
        _, item, _, last, request_id, attempts, polls, seconds, cost, path, size, sha256, *rest = (
            facts.last
        )
        if state is not State(last):
            message = (
                f"the ledger {self._file.path} contradicts itself: the events of {key!r} lead to "
                f"{state}, and it says {last}. Nothing was sent for it."
            )
            raise LedgerError(message, path=self._file.path)
        return Entry(
            key,
            facts.fingerprint,
            item=item,
            state=state,
            request_id=read_id(request_id),
            id_was_found=_was_found(facts.events),
            sent_at=_unix(facts.sent_at),
            accepted_at=(
                _unix(facts.accepted_at)
                if request_id is not None and not _was_found(facts.events)
                else None
            ),
            attempts=attempts,
            polls=polls,
            seconds=seconds,
            cost_usd=Decimal(str(cost)) if cost is not None else None,
            path=path,
            size=size,
            sha256=sha256,
            was_told=_was_told(facts.events),
            may_be_saved=_may_be_saved(facts.events),
            error_type=rest[0],
            error=rest[1],
            open_usd=Decimal(str(rest[2])),
            earlier_usd=Decimal(str(rest[3])),
            is_delivered=rest[4] > 0,
            is_elsewhere=rest[4] > 1,
        )

    # --- in the thread ---------------------------------------------------------------------------

    def _run(self, opened: _Waiter) -> None:
        try:
            result = self._file.open()
        except Exception as error:  # noqa: BLE001 - handed to whoever opens it
            self._wake([(opened, None, error)])
            return
        self._wake([(opened, result, None)])
        work: list[_Row | _Question | _End] = []
        while True:
            work = self._gather(patient=len(work) > 1)
            end = next((one for one in work if isinstance(one, _End)), None)
            self._wake(self._do(work))
            if end is not None:
                try:
                    self._file.close()
                finally:  # whoever waits for the end would wait for ever
                    self._wake([(end.waiter, None, None)])
                return

    def _gather(self, *, patient: bool) -> list[_Row | _Question | _End]:
        """Return what waits, having waited for the first of it: it becomes one transaction."""
        work = [self._queue.get()]
        if patient:
            time.sleep(_GATHERING)
        with contextlib.suppress(queue.Empty):
            while len(work) < _MOST_ROWS:
                work.append(self._queue.get_nowait())
        return work

    def _do(self, work: Sequence[_Row | _Question | _End]) -> list[_News]:
        news: list[_News] = []
        rows = [one for one in work if isinstance(one, _Row)]
        if rows:
            self._commit(rows)
            news += [(row.waiter, None, self._failure) for row in rows if row.waiter is not None]
        questions = [one for one in work if isinstance(one, _Question)]
        for question in questions:
            try:
                news.append((question.waiter, question.ask(self._file), None))
            except Exception as error:  # noqa: BLE001 - handed to whoever asks
                news.append((question.waiter, None, error))
        return news

    def _commit(self, rows: list[_Row]) -> None:
        # After one group that failed none may follow: it could tell of an item whose beginning
        # was never written.
        if self._failure is not None:
            return
        try:
            self._file.commit(
                [row.request for row in rows if row.request is not None],
                [event for row in rows for event in row.events],
            )
        except LedgerError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing can be relied on now
            self._failure = LedgerError(
                f"the ledger {self._file.path} cannot be written: {error!r}.", path=self._file.path
            )

    def _wake(self, news: list[_News]) -> None:
        if news:
            # A loop that is over has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                self._call_soon(_tell, news)


class _Waiter:
    """Waits in the event loop for what the thread does."""

    __slots__ = ("_bell", "_error", "_result", "_told")

    def __init__(self) -> None:
        self._bell = Bell()
        self._told = False
        self._result: Any = None
        self._error: BaseException | None = None

    def tell(self, result: object, error: BaseException | None) -> None:
        self._result, self._error, self._told = result, error, True
        self._bell.ring()

    async def wait(self) -> Any:  # noqa: ANN401 - whatever the thread answers
        while not self._told:
            await self._bell.wait_until(math.inf)
        if self._error is not None:
            raise _fresh(self._error)
        return self._result


@frozen(eq=False)
class _Row:
    events: list[tuple[Any, ...]]
    request: tuple[Any, ...] | None
    waiter: _Waiter | None


@frozen(eq=False)
class _Question:
    ask: Callable[[LedgerFile], Any]
    waiter: _Waiter = field(factory=_Waiter)


@frozen(eq=False)
class _End:
    waiter: _Waiter = field(factory=_Waiter)


if TYPE_CHECKING:
    from typing import TypeAlias

    #: Whom to wake, with what result or what error.
    _News: TypeAlias = tuple[_Waiter, object, BaseException | None]


def _tell(news: Iterable[_News]) -> None:
    for waiter, result, error in news:
        waiter.tell(result, error)


def _fresh(error: BaseException) -> BaseException:
    """Return the same error anew: many may raise it, and a traceback grows with each."""
    if isinstance(error, LedgerError):
        return LedgerError(error.message, path=error.path)
    return error


def _was_found(events: Sequence[Event]) -> bool:
    """Return whether a person found the last id that came."""
    came = (event for event in reversed(events) if event in (Event.ACCEPTED, Event.ID_FOUND))
    return next(came, None) is Event.ID_FOUND


def _was_told(events: Sequence[Event]) -> bool:
    """Return whether somebody was told the link of the last job."""
    ends = (Event.TOLD, Event.ACCEPTED, Event.ID_FOUND)
    return next((event for event in reversed(events) if event in ends), None) is Event.TOLD


def _may_be_saved(events: Sequence[Event]) -> bool:
    """Return whether a run may have given a file its name and died before its word for it.

    So it may once the job was there: that a fetch begins is written with the next group, and nobody
    waits for it. What a later run failed with says nothing of that, and an error may even tell of a
    file that is there.
    """
    last = next((one for one in reversed(events) if one not in _ENDS_OF_RUNS), None)
    return last in _BEFORE_SAVED


#: What is noted where a run ends in the middle of a fetch, or of anything else.
_ENDS_OF_RUNS: Final = frozenset({Event.FETCHING_BROKE, Event.INTERRUPTED})
_BEFORE_SAVED: Final = frozenset(
    {Event.ACCEPTED, Event.ID_FOUND, Event.RENDERED, Event.TOLD, Event.FETCHING_BEGAN}
)


def _unix(moment: str | None) -> float | None:
    return datetime.fromisoformat(moment).timestamp() if moment is not None else None

"""The fault scripts: queues consumed strictly in order, and the account of what was consumed.

Thread-safe, because a test writes scripts from its thread while the server reads them from its
own. What a fault does is decided elsewhere.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Literal

import attrs

from ._faults import CloseOnAccept, CutRequest, Fault, FileFault, LifeFault, Refuse

Phase = Literal["create", "poll", "download"]
PHASES: Final[tuple[Phase, ...]] = ("create", "poll", "download")

Chaos = Callable[[Phase], Fault | None]
"""Asked for each request whose phase has no script left; `None` lets it through."""


@attrs.frozen
class Consumed:
    """A fault that happened, and to which request."""

    fault: Fault
    phase: Phase
    request: int
    """Number of the request in the emulator's log, from 1; 0 where only a connection came."""
    at: float
    """Unix seconds."""


class Mistaken(Exception):
    """What a caller gave the emulator to ask (`chaos`, `clip`) went wrong; the message says how."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"what was given as `{name}` {what}")


class Scripts:
    """The queues of the three phases.

    `wired` says whether a socket must watch its bytes, `connects` whether connections are met.
    """

    def __init__(self, keep: int, chaos: Chaos | None) -> None:
        self._lock = threading.Lock()
        self._queues: dict[Phase, deque[Fault]] = {phase: deque() for phase in PHASES}
        self._consumed: deque[Consumed] = deque(maxlen=keep)
        self._chaos = chaos
        self.count = 0
        # Read without the lock for every chunk that arrives: `False` costs one look-up.
        self.wired = False
        self.connects = False

    def add(self, phase: Phase, faults: Iterable[Fault]) -> None:
        """Puts these faults behind those the phase still has."""
        if phase not in PHASES:
            raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {phase!r}")
        if isinstance(faults, Fault):
            raise TypeError(f"a script is a list of faults: write [{faults!r}]")
        faults = tuple(faults)
        for fault in faults:
            _check(fault)
            if isinstance(fault, FileFault) and phase != "download":
                raise ValueError(f"{fault!r} is about the file: script it for the download phase")
            if isinstance(fault, LifeFault) and phase == "download":
                raise ValueError(f"{fault!r} is about the job: script it for create or poll")
        with self._lock:
            self._queues[phase].extend(faults)
            self._look()

    def head(self, phase: Phase) -> Fault | None:
        """The next fault of the phase, left where it is."""
        with self._lock:
            queue = self._queues[phase]
            return queue[0] if queue else None

    def take(self, phase: Phase) -> Fault | None:
        """The next fault of the phase, removed; the caller says `record` when it happened.

        Raises `Mistaken` if chaos is asked, and raises or answers anything but a fault.
        """
        with self._lock:
            queue = self._queues[phase]
            if queue:
                # These two are met by a connection, never by a request: requests wait behind them.
                if isinstance(queue[0], Refuse | CloseOnAccept):
                    return None
                fault = queue.popleft()
                self._look()
                return fault
        # Not under the lock: it may ask what is left, or script more.
        return None if self._chaos is None else _asked(self._chaos, phase)

    def take_cut(self, phase: Phase) -> CutRequest | None:
        """The next fault, removed, if it ends the connection inside the request."""
        with self._lock:
            queue = self._queues[phase]
            if queue and isinstance(head := queue[0], CutRequest) and head.after is not None:
                queue.popleft()
                self._look()
                return head
            return None

    def pop(self, phase: Phase, fault: Fault) -> bool:
        """Removes the fault if it is still at the head; whether it was."""
        with self._lock:
            queue = self._queues[phase]
            if queue and queue[0] is fault:
                queue.popleft()
                self._look()
                return True
            return False

    def record(self, phase: Phase, fault: Fault, request: int, at: float) -> None:
        """Adds the fault to the account of those that happened."""
        with self._lock:
            self.count += 1
            self._consumed.append(Consumed(fault, phase, request, at))

    def consumed(self) -> tuple[Consumed, ...]:
        """The faults that happened, oldest first, as many as are kept."""
        with self._lock:
            return tuple(self._consumed)

    def left(self) -> dict[Phase, tuple[Fault, ...]]:
        """The faults that have not happened yet; phases without any are left out."""
        with self._lock:
            return {phase: tuple(queue) for phase, queue in self._queues.items() if queue}

    def _look(self) -> None:
        waiting = [fault for queue in self._queues.values() for fault in queue]
        self.wired = any(isinstance(f, CutRequest) and f.after is not None for f in waiting)
        self.connects = any(isinstance(f, Refuse | CloseOnAccept) for f in waiting)


def _check(fault: object) -> None:
    if isinstance(fault, Fault):
        return
    name = getattr(fault, "__name__", None)
    if callable(fault) and name is not None:
        raise TypeError(f"a fault is made by a call: write faults.{name}()")
    raise TypeError(f"a script is a list of faults, and {fault!r} is none")


def _asked(chaos: Chaos, phase: Phase) -> Fault | None:
    try:
        fault: object = chaos(phase)
    except Exception as error:
        raise Mistaken("chaos", f"raised {type(error).__name__}: {error}") from error
    if fault is None or isinstance(fault, Fault):
        return fault
    raise Mistaken(
        "chaos", f"must answer with a fault like faults.Expired(), or None, not with {fault!r}"
    )

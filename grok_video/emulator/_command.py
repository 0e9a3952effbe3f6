"""The emulator as a program: one line of JSON on stdout, then it runs until it is interrupted.

Shared by the package's command line and by `python -m grok_video.emulator`; exit codes are the
caller's business.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final, TextIO

from ._emulator import Emulator

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from types import FrameType

    from ._answers import Form

# A job of the default kind takes about five seconds like this: long enough to watch.
DEMO_TIME_SCALE: Final = 0.05
#: The scale from which on jobs last long enough for the polling that a client has by default.
_LIFELIKE: Final = 0.5


def serve(
    *,
    port: int = 0,
    api_key: str | None = None,
    form: Form | Sequence[Form] = "flat",
    time_scale: float = DEMO_TIME_SCALE,
    seed: int = 0,
    link_life: float = 24 * 3600.0,
    state: str | os.PathLike[str] | None = None,
    clip: str | os.PathLike[str] | None = None,
    out: TextIO | None = None,
    tell: Callable[[str], None] | None = None,
) -> signal.Signals:
    """Runs an emulator until SIGINT or SIGTERM and says which of them ended it.

    Must be called from the main thread, because signals arrive there. Prints one line,
    `{"base_url": ..., "api_key": ...}`, as soon as it answers; `tell` is then given what a person
    should know beside it.
    """
    out = sys.stdout if out is None else out
    ended = threading.Event()
    received = signal.SIGTERM

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal received
        received = signal.Signals(number)
        ended.set()

    from pathlib import Path

    emulator = Emulator(
        api_key,
        port=port,
        form=form,
        time_scale=time_scale,
        seed=seed,
        link_life=link_life,
        state=state,
        clip=None if clip is None else Path(clip),
    )
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with emulator:
            line = {"base_url": emulator.base_url, "api_key": emulator.api_key}
            print(json.dumps(line), file=out, flush=True)
            if tell is not None and time_scale < _LIFELIKE:
                tell(
                    "jobs are short here, and the default polling is made for long ones: poll "
                    "with Polling.fixed(0.2), or --poll-interval 0.2"
                )
            # A wait without a limit cannot be interrupted on Windows.
            while not ended.wait(0.5):
                pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return received

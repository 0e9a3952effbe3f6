"""`grok-video emulator`: the emulator as a program, its refusals as one line each.

The running is `grok_video.emulator`'s; only exit codes and words are decided here.
"""

from __future__ import annotations

import signal
import sqlite3
from typing import TYPE_CHECKING, Any

from grok_video._cli._console import Console
from grok_video._cli._endings import DONE, Errand, finish
from grok_video._errors import APIConnectionError, ConfigurationError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence


def emulator(
    *,
    port: int,
    form: Sequence[str],
    time_scale: float | None,
    state: str | None,
    clip: str | None,
    seed: int,
    link_life: float | None,
) -> int:
    """Serve until interrupted; 130 after Ctrl-C, 0 after SIGTERM."""
    console = Console(json_lines=False)
    options: dict[str, Any] = {"port": port, "state": state, "clip": clip, "seed": seed}
    options["tell"] = console.status
    if form:
        options["form"] = list(form)
    if time_scale is not None:
        options["time_scale"] = time_scale
    if link_life is not None:
        options["link_life"] = link_life

    def work() -> int:
        from grok_video.emulator._command import serve

        try:
            ended = serve(**options)
        except ModuleNotFoundError as error:
            raise ConfigurationError(str(error)) from None
        except (ValueError, OverflowError) as error:
            raise InvalidRequest(str(error), field="emulator") from None
        except sqlite3.Error as error:
            message = f"--state {state} cannot be used: {error}"
            raise ConfigurationError(message) from None
        except OSError as error:
            if error.filename is not None:
                raise  # a file's, not the socket's
            message = f"the emulator cannot listen on port {port}: {error.strerror or error}"
            raise APIConnectionError(message, may_have_been_sent=False) from None
        return 130 if ended is signal.SIGINT else DONE

    return finish(Errand(console), work)

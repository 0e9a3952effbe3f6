"""`python -m grok_video.emulator`: the emulator without the package's command line."""

from __future__ import annotations

import argparse
import signal
import sqlite3
import sys
from typing import TYPE_CHECKING

from ._answers import FORMS
from ._command import DEMO_TIME_SCALE, serve

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until interrupted; 130 after SIGINT, 0 after SIGTERM, 2 if it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m grok_video.emulator",
        description="Emulate the Grok video API on loopback. Prints one JSON line and serves.",
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--api-key", help="random by default")
    parser.add_argument("--form", choices=FORMS, nargs="+", default=["flat"])
    parser.add_argument("--time-scale", type=float, default=DEMO_TIME_SCALE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--link-life", type=float, default=24 * 3600.0, help="seconds")
    parser.add_argument("--state", help="a file in which jobs outlive this process")
    parser.add_argument("--clip", help="an MP4 to serve in place of rendered ones")
    given = parser.parse_args(arguments)
    try:
        ended = serve(
            port=given.port,
            api_key=given.api_key,
            form=given.form,
            time_scale=given.time_scale,
            seed=given.seed,
            link_life=given.link_life,
            state=given.state,
            clip=given.clip,
        )
    except (ModuleNotFoundError, OSError, ValueError, sqlite3.Error) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    return 130 if ended == signal.SIGINT else 0


if __name__ == "__main__":
    sys.exit(main())

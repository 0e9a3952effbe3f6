"""`grok-video report`: the page of a batch, written and, on request, shown.

The page itself is `_report`'s; only where it goes and what is said about it is decided here.
"""

from __future__ import annotations

import webbrowser
from pathlib import Path

from grok_video import _report
from grok_video._cli._console import Console
from grok_video._cli._endings import DONE, Errand, finish
from grok_video._cli._plan import plain


def report(ledger: str, out: str, *, overwrite: bool, open_it: bool, json_lines: bool) -> int:
    """Write the page; the exit code. Its path is the result."""
    console = Console(json_lines=json_lines)

    def work() -> int:
        made = _report.write(ledger, plain(out), overwrite=overwrite)
        facts = {"path": str(made.path), "items": made.items, "states": made.states}
        console.result(facts, str(made.path))
        if open_it:
            webbrowser.open(Path(made.path).as_uri())
        return DONE

    return finish(Errand(console), work)

"""Where public names say they live: under the package, not under the module that holds them.

Tracebacks, reprs and pickles then show `grok_video.JobTimeout`, and modules can be rearranged
without breaking a pickle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


def publish(namespace: dict[str, Any], names: Iterable[str]) -> None:
    """Make the named classes and functions of a module say that they are `grok_video`'s."""
    for name in names:
        namespace[name].__module__ = "grok_video"

"""An emulator of the CometAPI Grok video API, to try the SDK and to test against.

It is not the API: nobody looks at the prompt, and the video is a camera push-in over the picture
that was sent. What it does play is the wire, in every documented form, with everything that can go
wrong on it. It imports nothing of the SDK: the two meet on the wire and on the golden documents of
the tests, or both would be wrong together.
"""

from __future__ import annotations

from . import faults
from ._answers import Form
from ._emulator import TEST_TIME_SCALE, Emulator
from ._records import Create, Request
from ._scripts import Chaos, Consumed, Phase

for _public in (Emulator, Create, Request, Consumed):
    _public.__module__ = __name__

__all__ = [
    "TEST_TIME_SCALE",
    "Chaos",
    "Consumed",
    "Create",
    "Emulator",
    "Form",
    "Phase",
    "Request",
    "faults",
]

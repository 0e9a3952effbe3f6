"""Scripts are written from any thread, the emulator's own among them, and at any time."""

import contextlib
import http.client

import pytest
from wire_caller import Caller

from grok_video.emulator import Emulator, faults


def test_chaos_may_script_that_the_next_connection_is_refused(launch, tiny_clip):
    """The emulator's own thread waited for itself: for 30 s nobody was answered."""
    box = []

    def chaos(phase):
        if phase == "poll" and box:
            box.pop().script("poll", [faults.Refuse(60)])

    still = launch(clip=tiny_clip, chaos=chaos)
    request_id = still.submit()
    box.append(still.emulator)
    assert still.poll(request_id).status in (200, 202)
    with pytest.raises(ConnectionRefusedError):
        still.poll(request_id)


def test_a_script_for_an_emulator_that_has_ended_by_itself_is_refused(tiny_clip):
    def chaos(phase):
        raise SystemExit

    with Emulator(clip=tiny_clip, chaos=chaos) as emulator:
        with contextlib.suppress(OSError, http.client.HTTPException):
            Caller(emulator).create()
        emulator._thread.join(5)
        with pytest.raises(RuntimeError, match="this emulator has stopped"):
            emulator.script("create", [faults.Refuse()])

"""Which failures of a download say that no video at all can be saved any more."""

from __future__ import annotations

import errno
import os

import pytest

from grok_video import DestinationError, GrokVideoError, LedgerError, LinkExpired
from grok_video._partfile import refusal
from grok_video._verdicts import is_full


def of_the_system(number: int) -> DestinationError:
    error = refusal("cat.mp4", "it cannot be written", "4b2cd27e")
    error.__cause__ = OSError(number, os.strerror(number))
    return error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_nothing_more_is_full_for_every_item(number: int) -> None:
    assert is_full(of_the_system(number))


def test_a_disk_with_too_little_room_is_full_before_a_byte_is_written() -> None:
    assert is_full(refusal("cat.mp4", "the disk is full (7 bytes are free)", "4b2cd27e"))


@pytest.mark.parametrize(
    "failure",
    [
        of_the_system(errno.EACCES),
        of_the_system(errno.ENAMETOOLONG),
        refusal("cat.mp4", "it is a folder", "4b2cd27e"),
        LinkExpired("dead", request_id="4b2cd27e"),
        LedgerError("the disk is full", path="a.sqlite"),
    ],
    ids=["no access", "its name", "its place", "its link", "the ledger's disk"],
)
def test_what_is_wrong_with_one_file_stops_no_other(failure: GrokVideoError) -> None:
    assert not is_full(failure)

"""A create's connection cut at every byte offset of its request and of its answer, by FIN and RST.

Whatever the byte: at most one accepted create, and the caller has its id or is told that nobody
knows. One POST, but where its last byte was not even handed to the connection: that one nobody can
have taken. `--whole` cuts at every byte on every door; otherwise a seeded sample of them.
"""

from __future__ import annotations

import base64
import random
import re
import socket
import threading
from typing import Any

import pytest

from grok_video import CreateOutcomeUnknown, GrokVideoError, VideoRequest
from grok_video.emulator import Emulator, faults

from .account import TABLE, Account, settle
from .cases import CLIP
from .doors import DOORS, Door

#: A picture in the body, so that it is sent in several pieces: a PNG's head is all that is read.
PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0"
REQUEST = VideoRequest(
    "drift", image=f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}", duration=1
)
#: Bytes of an answer behind its id: the brace. Without them the id is whole, and known.
BEHIND_THE_ID = len("}")
#: Cuts of each kind on each door in the normal run.
SAMPLE = 5


@pytest.fixture(params=[pytest.param(door, id=door.name) for door in DOORS.values()])
def door(request: pytest.FixtureRequest) -> Door:
    return request.param


@pytest.fixture(params=[False, True], ids=["FIN", "RST"])
def reset(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(params=[False, True], ids=["fresh", "warm"])
def warm(request: pytest.FixtureRequest) -> bool:
    """Whether the connection has carried another create before, a moment ago."""
    return request.param


@pytest.fixture
def chosen(request: pytest.FixtureRequest) -> Any:
    whole = request.config.getoption("--whole", default=False)
    seed = request.node.nodeid

    def choose(count: int) -> list[int]:
        """Return every offset up to `count`, or a sample that has both ends."""
        if whole:
            return list(range(count + 1))
        return sorted({0, 1, count - 1, count, *random.Random(seed).sample(range(count), SAMPLE)})

    return choose


def test_a_create_cut_at_any_byte_of_its_request_is_in_doubt_or_was_certainly_not_whole(
    door: Door, reset: bool, warm: bool, chosen: Any
) -> None:
    length = _request_length(door)
    for after in chosen(length):
        cut = faults.CutRequest(after=after, reset=reset)
        account = _cut(door, cut, "request", warm=warm)
        is_sent_again = after < length and account.posts > account.planned
        assert account.accepted == int(warm) + is_sent_again, f"cut after {after} bytes"
        ending = "known" if is_sent_again else "unknown"
        assert account.ending == ending, f"cut after {after} bytes: {account.error!r}"


def test_a_create_cut_at_any_byte_of_its_answer_is_never_lost_and_sent_once(
    door: Door, reset: bool, warm: bool, chosen: Any
) -> None:
    length = _answer_length(door)
    for after in chosen(length):
        cut = faults.CutAnswer(after, reset=reset)
        account = _cut(door, cut, "answer", warm=warm)
        assert account.accepted == account.wanted, f"cut after {after} bytes"
        if after < length - BEHIND_THE_ID:
            assert account.ending == "unknown", f"cut after {after} bytes: {account.error!r}"
        elif not reset:  # a reset may overtake what came before it
            assert account.ending == "known", f"cut after {after} bytes: {account.error!r}"


def _cut(door: Door, cut: faults.Fault, what: str, *, warm: bool) -> Account:
    line = "warm" if warm else "fresh"
    script = [faults.Pass(), cut] if warm else [cut]
    account = Account(repr(cut), f"cut {what}, {line} line", door.name, planned=len(script))
    account.wanted = len(script)
    told: list[str] = []
    errors: list[BaseException] = []

    with Emulator(KEY, clip=CLIP) as emulator:
        emulator.script("create", script)

        async def submit() -> None:
            async with door.client(base_url=emulator.base_url, api_key=KEY) as client:
                for _ in script:
                    await client.submit(
                        REQUEST, on_submitted=lambda job: told.append(job.request_id)
                    )

        try:
            door.run(submit)
        except GrokVideoError as error:
            errors.append(error)
        settle(account, emulator, told=told, errors=errors, sha256=None)
    account.ending = "known" if not errors else "refused"
    if errors:
        account.error = errors[0]
        if isinstance(errors[0], CreateOutcomeUnknown):
            account.ending = "unknown"
    # Nothing was downloaded here, so there is nothing to deliver.
    account.finished = account.delivered
    TABLE.add(account)
    assert account.problems() == [], f"{cut!r}: {account.error!r}"
    posts = [seen for seen in emulator.requests if seen.method == "POST"]
    again = posts[len(script) :]
    assert len(again) <= (what == "request")
    connections = {seen.connection for seen in posts if seen not in again}
    assert len(connections) == 1, "the second create was not sent over the warm connection"
    return account


#: The same length for each emulator, so that offsets mean the same.
KEY = "sk-emulated-0123456789abcdef"


def _request_length(door: Door) -> int:
    """Return the bytes of the whole request, headers and body, as a plain socket counts them."""
    counted: list[int] = []

    def listen(endpoint: socket.socket) -> None:
        line, _ = endpoint.accept()
        endpoint.close()  # whoever sends it again is refused, and does not wait
        with line:
            head, _, body = line.recv(2**16).partition(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
            while len(body) < length:
                body += line.recv(2**16)
            counted.append(len(head) + 4 + len(body))

    with socket.create_server(("127.0.0.1", 0)) as endpoint:
        thread = threading.Thread(target=listen, args=(endpoint,))
        thread.start()
        port = endpoint.getsockname()[1]

        async def submit() -> None:
            # As long as the emulator's own address, whose port has five digits as well.
            base_url = f"http://127.0.0.1:{port}/grok/v1"
            async with door.client(base_url=base_url, api_key=KEY) as client:
                with pytest.raises(CreateOutcomeUnknown):
                    await client.submit(REQUEST)

        door.run(submit)
        thread.join()
    return counted[0]


def _answer_length(door: Door) -> int:
    with Emulator(KEY, clip=CLIP) as emulator:

        async def submit() -> None:
            async with door.client(base_url=emulator.base_url, api_key=KEY) as client:
                await client.submit(REQUEST)

        door.run(submit)
        return emulator.requests[0].sent

"""A canary key and a canary picture: nowhere but at the API, whatever goes wrong.

Searched with logging at DEBUG, asyncio in debug mode and rich tracebacks with every local: logs,
texts, reprs, facts and pickles of all errors and values, all files, and the headers that came to
every other origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import runpy
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from grok_video import APIConnectionError, AsyncClient, GrokVideoError
from grok_video.emulator import Emulator, faults

from .canary import Canary, Eavesdropper, Watch, pickled, texts_of
from .cases import CLIP, Case, cases
from .doors import DOORS, Door, Hang

SEED = 7
CANARY = Canary()
#: Cases of each phase in the normal run.
SAMPLE = 6


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take every door with `--whole`, otherwise one for each case, chosen by a seed."""
    whole = metafunc.config.getoption("--whole", default=False)
    doors = list(DOORS.values())
    chance = random.Random(SEED + len(metafunc.function.__name__))
    if "case" in metafunc.fixturenames:
        found = []
        for phase in ("create", "poll", "download"):
            of_phase = [case for case in cases() if case.phase == phase]
            chosen = of_phase if whole else chance.sample(of_phase, SAMPLE)
            found += [(one, door) for one in chosen for door in _some(doors, whole, chance)]
        ids = [f"{case.id} [{door.name}]" for case, door in found]
        metafunc.parametrize(("case", "door"), found, ids=ids)
    elif "phase" in metafunc.fixturenames:
        phases = ("create", "poll", "download")
        found = [(one, door) for one in phases for door in _some(doors, whole, chance)]
        ids = [f"{phase} [{door.name}]" for phase, door in found]
        metafunc.parametrize(("phase", "door"), found, ids=ids)
    elif "door" in metafunc.fixturenames:
        chosen = _some(doors, whole, chance)
        metafunc.parametrize("door", chosen, ids=[door.name for door in chosen])


def _some(doors: list[Door], whole: bool, chance: random.Random) -> list[Door]:
    return doors if whole else [chance.choice(doors)]


def test_no_fault_brings_the_key_or_the_picture_to_light(
    case: Case, door: Door, tmp_path: Path
) -> None:
    look(door, tmp_path, {case.phase: case.script}, timeout=case.timeout)


def test_a_server_that_echoes_the_key_and_the_picture_gives_nothing_away(
    door: Door, tmp_path: Path
) -> None:
    """In every place of a body from which this package reads."""
    echo = f"{CANARY.key} and {CANARY.data_uri} and {CANARY.data_uri[40:]}"
    slashes = json.dumps({"message": CANARY.data_uri, "code": 5}).replace("/", "\\/")
    bodies = [
        (400, {"error": {"message": echo, "code": echo, "type": echo}}),
        (400, {"code": echo, "error": echo}),
        (403, {"code": echo, "message": echo, "data": {"image": CANARY.data_uri}}),
        (502, {"error": {"message": f"{echo} (request id: {CANARY.key})"}}),
        (404, f"<html>{echo}</html>"),
        (500, echo.replace("/", "%2F").replace("+", "%2B")),
        (422, slashes),
        (200, {"error": echo}),
        (200, [echo]),
        (200, echo),
        (200, {"data": {"status": echo, "data": {"status": "failed", "error": {"code": echo}}}}),
        (200, {"status": "failed", "error": {"message": echo, "code": CANARY.key}}),
        (200, {"status": "done", "video": {"url": CANARY.data_uri}}),
        (200, {"status": 5, "video": echo}),
    ]
    for phase in ("create", "poll"):
        for number, (status, body) in enumerate(bodies):
            folder = tmp_path / f"{phase}-{number}"
            folder.mkdir()
            answer = faults.Answer(status, body, accepted=phase == "create")  # type: ignore[arg-type]
            look(door, folder, {phase: (answer,)})


def test_redirects_lead_the_key_nowhere(door: Door, tmp_path: Path) -> None:
    """Of a create and a poll nothing follows them; a download does, without the key."""
    with Eavesdropper() as other:
        for phase in ("create", "poll", "download"):
            for status in (301, 302, 307, 308):
                folder = tmp_path / f"{phase}-{status}"
                folder.mkdir()
                away = faults.Answer(status, b"", (("Location", other.url),), accepted=True)
                before = len(other.heard)
                look(door, folder, {phase: (away,)})
                assert (len(other.heard) > before) == (phase == "download")
        heard = b"".join(other.heard).decode("latin-1")
    assert "GET /elsewhere" in heard
    assert "authorization" not in heard.lower()
    assert CANARY.seen_in(heard) is None


def test_a_cancelled_call_shows_nothing(phase: str, door: Door, tmp_path: Path) -> None:
    errors = look(door, tmp_path, {phase: (faults.Stall(0.3, resume=True),)}, broken_in=phase)
    wanted = KeyboardInterrupt if door.blocking else anyio_cancelled(door)
    assert any(isinstance(error, wanted) for error in errors)


def test_an_interrupted_program_shows_nothing(phase: str, door: Door, tmp_path: Path) -> None:
    stall = {phase: (faults.Stall(0.3, resume=True),)}
    errors = look(door, tmp_path, stall, broken_in=phase, by_signal=True)
    assert any(isinstance(error, KeyboardInterrupt) for error in errors)


def test_what_is_refused_here_is_not_shown_either(door: Door) -> None:
    """Mistakes in the very values: a key with a line break, a picture that is none."""
    uri = CANARY.data_uri
    errors: list[BaseException] = []

    async def mistaken(**words: Any) -> None:
        async with door.client(base_url="http://127.0.0.1:9", **words) as client:
            await client.generate("drift", timeout=5)

    async def mistaken_picture(image: Any) -> None:
        async with door.client(base_url="http://127.0.0.1:9", api_key=CANARY.key) as client:
            await client.submit("drift", image=image)

    async def mistaken_words() -> None:
        async with door.client(base_url="http://127.0.0.1:9", api_key=CANARY.key) as client:
            await client.submit("drift", image=uri, duration=99)

    attempts = [
        lambda: mistaken(api_key=f"{CANARY.key}\n"),
        lambda: mistaken(api_key=CANARY.key, headers={"Authorization": CANARY.key}),
        lambda: mistaken(api_key=CANARY.key, headers={"X-Key": f"{CANARY.key}\n"}),
        lambda: mistaken(api_key=CANARY.key, proxy=f"socks5://me:{CANARY.key}@host"),
        lambda: mistaken_picture(uri[:-2]),
        lambda: mistaken_picture(uri + "*"),
        lambda: mistaken_picture(uri.replace("png", "gif")),
        lambda: mistaken_picture(f"https://me:{CANARY.key}@host/?sig={CANARY.key}"),
        lambda: mistaken_picture(f"ftp://me:{CANARY.key}@host/?sig={CANARY.key}"),
        lambda: mistaken_picture(uri.removeprefix("data:image/png;base64,")),
        lambda: mistaken_picture(CANARY.picture[1:]),
        lambda: mistaken_picture([CANARY.picture]),
        mistaken_words,
    ]
    with Watch() as watch:
        for attempt in attempts:
            with pytest.raises(GrokVideoError) as caught:
                door.run(attempt)
            errors.append(caught.value)
    assert found_in(errors, watch) == []


def test_no_value_of_the_public_face_shows_them(door: Door) -> None:
    values: list[Any] = []

    async def collect() -> None:
        import grok_video

        request = grok_video.VideoRequest("drift", image=CANARY.data_uri)
        async with door.client(base_url="http://127.0.0.1:9", api_key=CANARY.key) as client:
            image = grok_video.Image.from_bytes(CANARY.picture)
            job = client.job("4b2c")
            values.extend([client, request, request.image, image, job])
            values.append(getattr(client, "_session", None))
            values.append(getattr(getattr(client, "_session", None), "config", None))

    door.run(collect)
    for value in values:
        for text in (repr(value), str(value), pickled(value) if "Image" not in repr(value) else ""):
            # A request and its picture may be pickled: a worker has to be given them.
            if type(value).__name__ == "VideoRequest" and text == pickled(value):
                continue
            assert CANARY.seen_in(text) is None, type(value)


@pytest.mark.parametrize(
    "text",
    [
        f"before {CANARY.key} after",
        f"{CANARY.data_uri[3000:3020]}",
        json.dumps(CANARY.data_uri).replace("/", "\\/"),
        repr({"picture": CANARY.picture}),
    ],
    ids=["the key", "twenty characters of the picture", "escaped", "bytes"],
)
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert CANARY.seen_in(text) is not None
    assert CANARY.seen_in("nothing of it: iVBORw0KGgo=") is None


def test_the_search_looks_into_locals(tmp_path: Path) -> None:
    module = tmp_path / "leaky.py"
    module.write_text("def leak(image):\n    raise ValueError\n")
    leak = runpy.run_path(str(module))["leak"]
    with pytest.raises(ValueError) as caught:
        leak(CANARY.data_uri)
    leaks = found_in([caught.value], None)
    assert any("rich, locals on" in one for one in leaks)
    assert any("local of ValueError in leak: image" in one for one in leaks)
    assert not any("locals off" in one for one in leaks)


def look(
    door: Door,
    folder: Path,
    script: dict[str, tuple[faults.Fault, ...]],
    *,
    timeout: float = 10.0,
    broken_in: str | None = None,
    by_signal: bool = False,
) -> list[BaseException]:
    """Return the errors of one call (and of its resumption), having searched everything."""
    errors: list[BaseException] = []
    jobs: list[Any] = []
    texts: list[tuple[str, str]] = []
    file = folder / "video.mp4"
    with Watch() as watch, Emulator(CANARY.key, clip=CLIP, separate_files=True) as emulator:
        for phase, planned in script.items():
            emulator.script(phase, planned)  # type: ignore[arg-type]
        base_url = emulator.base_url

        async def generate() -> None:
            _be_talkative(door)
            async with door.client(
                base_url=base_url, api_key=CANARY.key, timeout=timeout
            ) as client:
                with contextlib.nullcontext() if door.blocking else anyio.CancelScope() as scope:
                    breaks = _breaker(door, scope, by_signal=by_signal)
                    try:
                        with _once_reached(broken_in, emulator, breaks):
                            await client.generate(
                                "drift",
                                image=CANARY.data_uri,
                                save_to=file,
                                timeout=20,
                                on_submitted=jobs.append,
                            )
                    except BaseException as error:
                        errors.append(error)
                        raise
                    finally:
                        texts.extend(("repr", repr(one)) for one in (client, *jobs))
                        for job in jobs:
                            seen = f"{job.snapshot!r} {pickled(job.snapshot)}"
                            texts.append(("snapshot", seen))

        async def resume() -> None:
            async with door.client(
                base_url=base_url, api_key=CANARY.key, timeout=timeout
            ) as client:
                await client.job(jobs[0].request_id).download(file, timeout=20)

        _try(door, generate, errors)
        if errors and jobs:
            _try(door, resume, errors)
        for seen in emulator.requests:
            if seen.origin == "files":
                texts.append(("another origin", repr(seen.headers)))
        # A connection that is closed as soon as it is accepted may take its request with it.
        read = [seen for seen in emulator.requests if seen.origin != "files"]
        assert not read or any(seen.authorization for seen in read)
        assert emulator.faults_consumed
    for path in folder.rglob("*"):
        if path.is_file():
            texts.append((path.name, path.read_bytes().decode("latin-1")))
    usual = (GrokVideoError, KeyboardInterrupt, anyio_cancelled(door))
    assert [error for error in errors if not isinstance(error, usual)] == []
    assert watch.texts or door.blocking
    leaks = found_in(errors, watch)
    leaks += [f"{name}: {seen}" for name, text in texts if (seen := CANARY.seen_in(text))]
    assert leaks == []
    return errors


def found_in(errors: list[BaseException], watch: Watch | None) -> list[str]:
    """Return every place where something stands that must not."""
    texts = [text for error in errors for text in texts_of(error)]
    if watch is not None:
        texts += [("log", text) for text in watch.texts]
    return [f"{name}: {seen}" for name, text in texts if (seen := CANARY.seen_in(text))]


def _be_talkative(door: Door) -> None:
    if door.loop == "asyncio" and not door.blocking:
        # Every turn of the loop is slow then, and asyncio's debug mode tells of each.
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0


def anyio_cancelled(door: Door) -> type[BaseException]:
    return trio.Cancelled if door.loop == "trio" else asyncio.CancelledError


def _breaker(
    door: Door, scope: anyio.CancelScope | None, *, by_signal: bool
) -> Callable[[], object]:
    """Return what ends the running call from another thread: a signal, or the loop's own way."""
    if by_signal or door.blocking:
        return lambda: os.kill(os.getpid(), signal.SIGINT)
    if scope is not None and door.loop == "trio":
        token = trio.lowlevel.current_trio_token()
        return lambda: token.run_sync_soon(scope.cancel)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    return lambda: loop.call_soon_threadsafe(task.cancel)


@contextlib.contextmanager
def _once_reached(
    phase: str | None, emulator: Emulator, breaks: Callable[[], object]
) -> Iterator[None]:
    """Break the call off as soon as the emulator has a request of this phase."""
    if phase is None:
        yield
        return
    over = threading.Event()

    def wait() -> None:
        while not over.wait(0.005):
            if reached(emulator, phase):
                breaks()
                return

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def reached(emulator: Emulator, phase: str) -> bool:
    paths = {"create": "/videos/generations", "poll": "/videos/", "download": "/files/"}
    return any(
        paths[phase] in seen.path and (phase != "poll" or seen.method == "GET")
        for seen in emulator.requests
    )


def _try(door: Door, work: Any, errors: list[BaseException]) -> None:
    try:
        door.run(work)
    except Hang:
        raise
    except BaseException as error:  # noqa: BLE001 - all are searched
        errors.append(error)


@pytest.mark.parametrize("lane", ["asyncio-aiohttp", "asyncio-httpx"])
def test_a_socket_that_broke_is_logged_in_debug_mode_without_what_was_written(lane: str) -> None:
    """asyncio's own record shows the frame that wrote, and what: it is made here, to be certain."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        words = {"transport": lane.partition("-")[2], "api_key": CANARY.key}
        async with AsyncClient(base_url="http://127.0.0.1:9", **words) as client:  # type: ignore[arg-type]
            with contextlib.suppress(APIConnectionError):
                await client.job("j").refresh()
        reader, writer = socket.socketpair()
        with reader:
            writer.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=writer)
            writer.shutdown(socket.SHUT_WR)
            transport.write(f"Authorization: Bearer {CANARY.key}".encode())
            transport.close()

    with Watch() as watch:
        asyncio.run(main())
    told = [text for text in watch.texts if "Fatal write error" in text]
    assert told
    assert "BrokenPipeError" in told[0]
    assert found_in([], watch) == []


@pytest.mark.parametrize("name", list(DOORS))
def test_an_answer_that_is_no_http_brings_no_request_to_light(name: str, tmp_path: Path) -> None:
    """The libraries chain errors that hold the whole request, and print it."""
    look(DOORS[name], tmp_path, {"create": [faults.WrongLength(-5)]})

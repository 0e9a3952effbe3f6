"""Transports that fail as nobody foresaw: what may have been paid for is in doubt, nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from grok_video import (
    APIConnectionError,
    AsyncClient,
    ConfigurationError,
    CreateOutcomeUnknown,
    GrokVideoError,
    InvalidRequest,
    JobTimeout,
    OutcomeState,
    RateLimited,
    ServerError,
    Truncated,
    UnexpectedResponse,
    VideoRequest,
)
from grok_video._redaction import Secret
from grok_video._transports._base import (
    Answer,
    Body,
    StreamedAnswer,
    Transport,
    TransportConfig,
    causes,
)
from grok_video._transports._httpx import HttpxTransport
from grok_video.emulator import Emulator

from ..conftest import EAGER, QUICK
from .batch.conftest import outcomes, read, requests, states

#: A transport of the caller's own is the same on each lane of a loop.
EACH_LOOP = pytest.mark.parametrize(
    "lane", [("asyncio", "aiohttp"), ("trio", "httpx")], ids=["asyncio", "trio"], indirect=True
)


class Careless(Transport):
    """A transport of the caller's own, with a bug that shows after the create was answered."""

    def __init__(self, emulator: Emulator) -> None:
        headers = {
            "Authorization": f"Bearer {emulator.api_key}",
            "Content-Type": "application/json",
        }
        self._client = httpx.AsyncClient(headers=headers, verify=False)
        self.posts = 0

    async def post(self, url: str, body: Body) -> Answer:
        self.posts += 1
        content = b"".join([chunk async for chunk in body.chunks()])
        await self._client.post(str(url), content=content)
        raise ZeroDivisionError("seconds per byte")

    async def get(self, url: str) -> Any:
        raise AssertionError("there is no id to ask for")

    def stream(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("there is no file to fetch")

    async def aclose(self) -> None:
        await self._client.aclose()


@pytest.fixture
async def careless(grok_emulator: Emulator, anyio_backend: str) -> AsyncIterator[Careless]:
    transport = Careless(grok_emulator)
    yield transport
    await transport.aclose()


@EACH_LOOP
async def test_a_create_whose_transport_broke_in_its_own_way_may_have_been_accepted(
    careless: Careless, grok_emulator: Emulator
) -> None:
    request = VideoRequest("drift")
    client = AsyncClient("k", base_url=grok_emulator.base_url, transport=careless)
    with pytest.raises(CreateOutcomeUnknown) as caught:
        await client.submit(request)
    error = caught.value
    assert any(isinstance(one, ZeroDivisionError) for one in causes(error))
    assert "the transport failed with ZeroDivisionError" in str(error)
    assert error.fingerprint == request.fingerprint()
    assert error.sent_at > 0
    assert (careless.posts, grok_emulator.accepted) == (1, 1)


@EACH_LOOP
async def test_an_item_whose_transport_broke_in_its_own_way_is_never_sent_again(
    careless: Careless, grok_emulator: Emulator, tmp_path: Path
) -> None:
    ledger = tmp_path / "a.sqlite"
    client = AsyncClient("k", base_url=grok_emulator.base_url, transport=careless)
    for _ in range(2):
        found = await outcomes(client, requests(1), ledger=ledger)
        assert states(found) == {"key-000": "in_doubt"}
        assert isinstance(found["key-000"].error, CreateOutcomeUnknown)
        assert read(ledger, "SELECT state, request_id FROM item") == [("in_doubt", None)]
        assert (careless.posts, grok_emulator.accepted) == (1, 1)


#: Errors of this package's own, which a caller may raise of an answer that nobody here has seen.
BORROWED: list[Callable[[], GrokVideoError]] = [
    lambda: ServerError("502", status=502),
    lambda: RateLimited("429", status=429),
    lambda: UnexpectedResponse("HTML", status=200),
    lambda: InvalidRequest("not this one", field="image"),
    lambda: ConfigurationError("out of order"),
    lambda: GrokVideoError("lost"),
]


class Borrowing(Careless):
    """It raises what only this package should."""

    def __init__(self, emulator: Emulator, error: GrokVideoError) -> None:
        super().__init__(emulator)
        self._error = error

    async def post(self, url: str, body: Body) -> Answer:
        with pytest.raises(ZeroDivisionError):
            await super().post(url, body)
        raise self._error


@EACH_LOOP
@pytest.mark.parametrize("make", BORROWED, ids=lambda make: type(make()).__name__)
async def test_no_error_of_a_transport_of_the_callers_own_proves_that_nothing_was_paid(
    grok_emulator: Emulator, make: Callable[[], GrokVideoError], tmp_path: Path
) -> None:
    transport = Borrowing(grok_emulator, make())
    async with AsyncClient("k", base_url=grok_emulator.base_url, transport=transport) as client:
        with pytest.raises(CreateOutcomeUnknown) as caught:
            await client.submit("drift")
        assert any(one is transport._error for one in causes(caught.value))
        assert (transport.posts, grok_emulator.accepted) == (1, 1)
        found = await outcomes(client, requests(1), ledger=tmp_path / "a.sqlite")
        assert states(found) == {"key-000": "in_doubt"}
    assert (transport.posts, grok_emulator.accepted) == (2, 2)


@EACH_LOOP
@pytest.mark.parametrize("make", BORROWED, ids=lambda make: type(make()).__name__)
async def test_no_error_of_a_hook_of_the_callers_client_proves_that_nothing_was_paid(
    grok_emulator: Emulator, make: Callable[[], GrokVideoError]
) -> None:
    async def raises(_: httpx.Response) -> None:
        raise make()

    hooks = {"response": [raises]}
    async with (
        httpx.AsyncClient(event_hooks=hooks) as http_client,
        AsyncClient(
            grok_emulator.api_key, base_url=grok_emulator.base_url, http_client=http_client
        ) as client,
    ):
        with pytest.raises(CreateOutcomeUnknown):
            await client.submit("drift")
    assert grok_emulator.accepted == 1


class Secretive(Careless):
    """One of which nobody can tell what it has sent: it has its body from elsewhere."""

    async def post(self, url: str, body: Body) -> Answer:
        self.posts += 1
        raise ZeroDivisionError("seconds per byte")


@EACH_LOOP
async def test_a_transport_of_the_callers_own_may_have_sent_what_it_was_not_seen_to_ask_for(
    grok_emulator: Emulator, tmp_path: Path
) -> None:
    transport = Secretive(grok_emulator)
    async with AsyncClient("k", base_url=grok_emulator.base_url, transport=transport) as client:
        with pytest.raises(CreateOutcomeUnknown):
            await client.submit("drift")
        for _ in range(2):
            found = await outcomes(client, requests(1), ledger=tmp_path / "a.sqlite")
            assert states(found) == {"key-000": "in_doubt"}
    assert transport.posts == 2


async def breaks_before(transport: Transport, url: str, body: Body) -> Answer:
    raise ZeroDivisionError("no byte was asked for")


async def breaks_after(transport: Transport, url: str, body: Body) -> Answer:
    await anext(body.chunks())
    raise ZeroDivisionError("the first bytes may have gone out")


@pytest.fixture
async def defective(
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[..., Any],
) -> AsyncIterator[AsyncClient]:
    """A client whose own transport has a defect."""
    async with new_client(grok_emulator) as client:
        monkeypatch.setattr(type(await client._session.ready_transport()), "post", breaks)
        yield client


@pytest.mark.parametrize("breaks", [breaks_before])
async def test_a_create_of_which_no_byte_was_asked_for_is_not_in_doubt_whatever_broke(
    defective: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    with pytest.raises(ZeroDivisionError):
        await defective.submit("drift")
    ledger = tmp_path / "a.sqlite"
    async with defective.batch(requests(1), ledger=ledger) as batch:
        [outcome] = [one async for one in batch]
    assert outcome.state is OutcomeState.FAILED
    assert isinstance(outcome.error, ZeroDivisionError)
    assert batch.summary.in_doubt == ()
    assert batch.summary.open_usd == 0
    assert read(ledger, "SELECT state FROM item") == [("failed",)]
    assert grok_emulator.requests == ()


@pytest.mark.parametrize("breaks", [breaks_after])
async def test_a_create_of_which_a_byte_was_asked_for_is_in_doubt_whatever_broke(
    defective: AsyncClient, tmp_path: Path
) -> None:
    with pytest.raises(CreateOutcomeUnknown, match="failed with ZeroDivisionError"):
        await defective.submit("drift")
    ledger = tmp_path / "a.sqlite"
    found = await outcomes(defective, requests(1), ledger=ledger)
    assert states(found) == {"key-000": "in_doubt"}
    assert read(ledger, "SELECT state FROM item") == [("in_doubt",)]


class Tunnelled(HttpxTransport):
    """One of the caller's own over a tunnel, which breaks as no HTTP library does."""

    def __init__(self, emulator: Emulator) -> None:
        key = Secret(emulator.api_key)
        super().__init__(TransportConfig(emulator.base_url, key, 10.0, None, None, {}))
        #: How many of the next polls and files it does not bring.
        self.breaks = 0.0
        self.broken = 0

    def _break(self) -> None:
        if self.breaks > 0:
            self.breaks -= 1
            self.broken += 1
            raise OSError("my tunnel broke")

    async def get(self, url: str) -> Answer:
        self._break()
        return await super().get(url)

    @contextlib.asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], *, public_only: bool
    ) -> AsyncIterator[StreamedAnswer]:
        self._break()
        async with super().stream(url, headers, public_only=public_only) as answer:
            yield answer
            self._break()


@pytest.fixture
async def tunnelled(grok_emulator: Emulator) -> AsyncIterator[tuple[AsyncClient, Tunnelled]]:
    transport = Tunnelled(grok_emulator)
    async with AsyncClient(
        "k", base_url=grok_emulator.base_url, transport=transport, polling=QUICK, retry=EAGER
    ) as client:
        yield client, transport


@EACH_LOOP
async def test_a_poll_whose_transport_breaks_in_its_own_way_is_sent_again(
    tunnelled: tuple[AsyncClient, Tunnelled],
) -> None:
    client, transport = tunnelled
    transport.breaks = 3
    video = await client.generate("drift", duration=1, timeout=20)
    assert video.url is not None
    assert transport.broken == 3
    job = client.job(video.request_id)
    transport.breaks = 1
    with pytest.raises(APIConnectionError, match="failed with OSError") as caught:
        await job.refresh()
    assert caught.value.request_id == video.request_id
    assert any("my tunnel broke" in str(one) for one in causes(caught.value))


@EACH_LOOP
async def test_a_wait_whose_transport_goes_on_breaking_in_its_own_way_ends_with_the_id(
    tunnelled: tuple[AsyncClient, Tunnelled],
) -> None:
    client, transport = tunnelled
    job = await client.submit("drift", duration=1)
    transport.breaks = float("inf")
    with pytest.raises(JobTimeout, match=r"The last poll failed: .* OSError") as caught:
        await job.result(timeout=0.3)
    assert caught.value.request_id == job.request_id
    # Their frames hold the request, the key among its headers.
    told = causes(caught.value)[1:]
    assert any(isinstance(one, OSError) for one in told)
    assert [one for one in told if one.__traceback__ is not None] == []
    with pytest.raises(JobTimeout) as caught:
        await anext(client.as_completed([job], timeout=0.3))
    assert caught.value.pending == (job.request_id,)


@EACH_LOOP
async def test_a_file_whose_transport_breaks_in_its_own_way_is_asked_for_again(
    tunnelled: tuple[AsyncClient, Tunnelled], tmp_path: Path
) -> None:
    client, transport = tunnelled
    job = await client.submit("drift", duration=1)
    await job
    transport.breaks = 2
    video = await job.download(tmp_path / "a.mp4", timeout=20)
    assert video.size == (tmp_path / "a.mp4").stat().st_size
    assert transport.broken == 2
    transport.breaks = float("inf")
    with pytest.raises(Truncated, match="failed with OSError") as caught:
        await job.download(tmp_path / "b.mp4", timeout=20)
    assert caught.value.request_id == job.request_id


class Retrying(Transport):
    """One whose wrapper raises what it caught from itself, as some do."""

    async def post(self, url: str, body: Body) -> Answer:
        return Answer(200, {}, b'{"request_id": "job-1"}')

    async def get(self, url: str) -> Answer:
        try:
            raise KeyError(url)
        except KeyError as error:
            raise error from error

    def stream(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("only a poll is sent")

    async def aclose(self) -> None:
        pass


@EACH_LOOP
async def test_an_error_that_is_its_own_cause_holds_nothing_up() -> None:
    async with AsyncClient("k", base_url="http://127.0.0.1:9", transport=Retrying()) as client:
        with pytest.raises(APIConnectionError, match="failed with KeyError"):
            await client.job("job-1").refresh()

"""What each exception of the httpx families means: one test for each row, in both families."""

from __future__ import annotations

import importlib
import inspect
import socket
from typing import Any

import pytest
from conftest import GIVEN, KEY, NO_CERTIFICATES, Bytes, Lane, lanes, make_config, make_transport

from grok_video import APIConnectionError, APITimeoutError, ConfigurationError
from grok_video._transports import _httpx, _httpxlines
from grok_video._transports._httpx import EXCEPTIONS, HttpxTransport

BASE = "http://api.test/v1"
CREATE = f"{BASE}/videos/generations"

#: What must not be forgotten: whether a create that failed so, of which nothing else is known and
#: whose body nobody asked for, may have been sent. Written out, and not taken from the table that
#: it checks.
CERTAINLY_NOT_SENT = {
    "ConnectError",
    "ConnectTimeout",
    "InvalidURL",
    "LocalProtocolError",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
    "gaierror",
}
TIMEOUTS = {"ConnectTimeout", "PoolTimeout", "ReadTimeout", "WriteTimeout", "TimeoutError"}


def make_error(family: Any, name: str) -> Exception:
    if name == "gaierror":
        return socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    if name in ("TimeoutError", "Exception"):
        return {"TimeoutError": TimeoutError, "Exception": ZeroDivisionError}[name]("boom")
    kind = getattr(family, name)
    if name == "HTTPStatusError":
        request = family.Request("POST", CREATE)
        return kind("boom", request=request, response=family.Response(429, request=request))
    if name == "ResponseNotRead":
        return kind()
    return kind(f"boom {KEY}")


def failing(
    family: Any, error: Exception, *events: tuple[str, bytes], asks_for_body: bool = False
) -> Any:
    """Return a client that tells the trace some events of httpcore, and fails."""

    class Failing(family.AsyncBaseTransport):
        async def handle_async_request(self, request: Any) -> Any:
            if asks_for_body:
                await anext(aiter(request.stream))
            for event, method in events:
                inner = family.Request(method.decode(), CREATE)
                inner.method = method  # as httpcore has it
                await request.extensions["trace"](event, {"request": inner})
            raise error

    return family.AsyncClient(transport=Failing(), verify=NO_CERTIFICATES)


async def failure_of(lane: Lane, client: Any) -> APIConnectionError:
    transport = make_transport(lane, make_config(BASE), client)
    async with client:
        with pytest.raises(APIConnectionError) as caught:
            await transport.post(CREATE, Bytes())
    await transport.aclose()
    return caught.value


@lanes(*GIVEN)
@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_a_row_alone_tells_whether_a_create_may_have_been_sent(lane: Lane, name: str):
    error = await failure_of(lane, failing(lane.family, make_error(lane.family, name)))
    assert error.may_have_been_sent is (name not in CERTAINLY_NOT_SENT)
    assert isinstance(error, APITimeoutError) is (name in TIMEOUTS)
    assert str(error).endswith("; nothing was sent") is (name in CERTAINLY_NOT_SENT)
    assert KEY not in str(error)


@lanes(*GIVEN)
@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_without_a_trace_no_row_denies_a_create_whose_body_was_asked_for(
    lane: Lane, name: str
):
    error = make_error(lane.family, name)
    failed = await failure_of(lane, failing(lane.family, error, asks_for_body=True))
    assert failed.may_have_been_sent
    assert "connecting to" not in str(failed)


@lanes(*GIVEN)
@pytest.mark.parametrize("name", [name for name in EXCEPTIONS if name != "LocalProtocolError"])
async def test_a_create_whose_headers_went_out_may_have_been_sent(lane: Lane, name: str):
    """But for what is raised of the headers themselves, of which the trace tells before."""
    events = [
        ("connection.connect_tcp.started", b"POST"),
        ("http11.send_request_headers.started", b"POST"),
    ]
    error = await failure_of(lane, failing(lane.family, make_error(lane.family, name), *events))
    assert error.may_have_been_sent


@lanes(*GIVEN)
@pytest.mark.parametrize("name", EXCEPTIONS)
async def test_a_create_whose_headers_did_not_go_out_was_not_sent(lane: Lane, name: str):
    events = [
        ("connection.connect_tcp.started", b"POST"),
        ("http11.send_request_headers.started", b"CONNECT"),
    ]
    error = await failure_of(lane, failing(lane.family, make_error(lane.family, name), *events))
    assert not error.may_have_been_sent


@lanes(*GIVEN)
async def test_http2_tells_as_well(lane: Lane):
    started = ("http2.send_request_headers.started", b"POST")
    error = make_error(lane.family, "ConnectError")
    failed = await failure_of(lane, failing(lane.family, error, started))
    assert failed.may_have_been_sent


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_each_exception_of_a_family_has_a_row_of_its_own(family: str):
    module = importlib.import_module(family)
    raised = {
        name
        for name in module.__all__
        if inspect.isclass(kind := getattr(module, name))
        and issubclass(kind, (module.HTTPError, module.InvalidURL))
        # Only their children are ever raised.
        and not (issubclass(module.HTTPStatusError, kind) and kind is not module.HTTPStatusError)
        and not (issubclass(module.ConnectTimeout, kind) and kind is not module.ConnectTimeout)
        and not (issubclass(module.ConnectError, kind) and kind is not module.ConnectError)
        and kind is not module.ProtocolError
        and name != "SSEError"  # of server-sent events, which are not used here
    }
    assert {"ConnectError", "ReadTimeout", "RemoteProtocolError", "InvalidURL"} <= raised
    assert raised <= EXCEPTIONS.keys()


@lanes(*GIVEN)
async def test_an_event_with_an_unknown_name_means_that_it_may_have_begun(lane: Lane):
    error = make_error(lane.family, "ConnectError")
    failed = await failure_of(lane, failing(lane.family, error, ("http3.new.started", b"POST")))
    assert failed.may_have_been_sent


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_only_an_asynchronous_client_is_taken(family: str):
    module = importlib.import_module(family)

    class Mine(module.AsyncClient):
        pass

    config = make_config(BASE)
    HttpxTransport(config, Mine(verify=NO_CERTIFICATES))
    with module.Client(verify=NO_CERTIFICATES) as blocking:
        for wrong in (blocking, module, object(), "client"):
            with pytest.raises(ConfigurationError, match=r"httpx2\.AsyncClient or an httpx\.Async"):
                HttpxTransport(config, wrong)


def test_without_httpx2_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    with pytest.raises(ConfigurationError, match=r'pip install "grok-video\[trio\]"'):
        HttpxTransport(make_config(BASE))
    # A caller's classic client needs no httpx2.
    client = importlib.import_module("httpx").AsyncClient(verify=NO_CERTIFICATES)
    HttpxTransport(make_config(BASE), client)


def test_no_family_is_imported_for_the_sake_of_the_other():
    for module in (_httpx, _httpxlines):
        assert "import httpx\n" not in inspect.getsource(module)

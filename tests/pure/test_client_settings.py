"""What a client is set up with is checked when it is made, before anything could be sent."""

from __future__ import annotations

import ssl
from typing import Any

import httpx2
import pytest

from grok_video import AsyncClient, Client, ConfigurationError, InvalidRequest, Polling
from grok_video._settings import find_base_url, find_key

KEY = "sk-0123456789abcdef"
HTTP_CLIENT = httpx2.AsyncClient()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, "no API key: pass api_key= or set COMETAPI_KEY"),
        ("", "api_key must be a key, and it is blank"),
        (" \t", "api_key must be a key, and it is blank"),
        (f"{KEY}\n", "a line break"),
        (f"{KEY}\r\nX-Evil: 1", "a line break"),
        (f"{KEY} {KEY}", "without spaces"),
        ("schl\u00fcssel", "printable ASCII"),
        (5, "api_key must be a key, as a str, and it is of type int"),
        ([KEY], "and it is of type list"),
    ],
)
def test_a_key_that_cannot_be_one_is_refused_without_being_shown(key: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AsyncClient(key)
    assert words in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_key_comes_from_the_argument_and_then_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COMETAPI_KEY", "from-the-environment")
    assert find_key(None)[0].reveal() == "from-the-environment"
    assert find_key(KEY)[0].reveal() == KEY
    monkeypatch.setenv("COMETAPI_KEY", "two\nlines")
    with pytest.raises(ConfigurationError, match="COMETAPI_KEY must be printable"):
        find_key(None)


@pytest.mark.parametrize(
    "url",
    [
        "api.cometapi.com/grok/v1",
        "ftp://host/v1",
        "https://",
        "//host/v1",
        "https://host/v1?key=1",
        "https://host/v1#x",
        "https://user:password@host/v1",
        "https://host:notaport/v1",
        "https://host/a b",
        "https://host..example/v1",
        "https://host\0.example/v1",
        "https://fa\u00df.example/v1",
        "",
        5,
    ],
)
def test_a_base_url_that_cannot_be_one_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="base_url must") as caught:
        AsyncClient(KEY, base_url=url)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    "end", ["/videos", "/videos/", "/videos/generations", "/Videos/generations/"]
)
def test_a_base_url_that_holds_the_path_of_a_create_is_refused(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The URL at the top of the vendor's page is not the base."""
    url = f"https://api.cometapi.com/grok/v1{end}"
    with pytest.raises(ConfigurationError, match=r"base_url must end before /videos") as caught:
        AsyncClient(KEY, base_url=url)
    assert "give 'https://api.cometapi.com/grok/v1'; got" in str(caught.value)
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", url)
    with pytest.raises(ConfigurationError, match="GROK_VIDEO_BASE_URL must end before /videos"):
        AsyncClient(KEY)
    assert find_base_url("https://videos/") == ("https://videos", "base_url")
    assert find_base_url("https://host/videos/v1")[0] == "https://host/videos/v1"


def test_a_base_url_comes_from_the_argument_the_environment_and_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert find_base_url(None) == ("https://api.cometapi.com/grok/v1", "default")
    # CometAPI's own variable means its OpenAI-style address, and is not read.
    monkeypatch.setenv("COMETAPI_BASE_URL", "https://api.cometapi.com/v1")
    assert find_base_url(None)[1] == "default"
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", "https://api.x.ai/v1/")
    assert find_base_url(None) == ("https://api.x.ai/v1", "GROK_VIDEO_BASE_URL")
    assert find_base_url("http://localhost:8080/")[0] == "http://localhost:8080"


@pytest.mark.parametrize(
    ("words", "error", "part"),
    [
        ({"timeout": 0}, InvalidRequest, "timeout must be a number of seconds above 0"),
        ({"timeout": "60"}, InvalidRequest, "timeout"),
        ({"proxy": "host:3128"}, ConfigurationError, "proxy must be"),
        ({"proxy": "http://a..example:3128"}, ConfigurationError, "proxy must be"),
        ({"headers": {"Authorization": "x"}}, ConfigurationError, "must not hold Authorization"),
        ({"headers": {"X": "a\r\nB: c"}}, ConfigurationError, "without line breaks"),
        ({"headers": {"X": "a\x01b"}}, ConfigurationError, "without line breaks or other control"),
        ({"headers": {"X": "a\x7fb"}}, ConfigurationError, "without line breaks or other control"),
        ({"headers": {"X": "video "}}, ConfigurationError, "no space at its beginning or end"),
        ({"headers": {"X": "\tvideo"}}, ConfigurationError, "no space at its beginning or end"),
        ({"headers": {"X Team": "a"}}, ConfigurationError, "names without spaces"),
        ({"headers": {"X-Key: secret": ""}}, ConfigurationError, "got one that begins 'X-Key'"),
        ({"headers": {"": "a"}}, ConfigurationError, "names without .*; got an empty one"),
        ({"headers": {"Expect": "100-continue"}}, ConfigurationError, "must not hold Expect"),
        ({"headers": {"Connection": "upgrade"}}, ConfigurationError, "must not hold Connection"),
        ({"headers": {"content-encoding": "x"}}, ConfigurationError, "must not hold content-enc"),
        ({"headers": [("X-Key", "secret")]}, ConfigurationError, "headers must be a mapping"),
        ({"headers": {b"X-Key": "secret"}}, ConfigurationError, "names of type str"),
        ({"proxy": 5}, ConfigurationError, "proxy must be"),
        ({"polling": 5}, InvalidRequest, r"must be a Polling, e.g. Polling.fixed\(5\); got 5"),
        ({"polling": 0.2}, InvalidRequest, "polling must be"),
        ({"polling": None}, InvalidRequest, "polling must be"),
        ({"polling": Polling}, InvalidRequest, "polling must be"),
        ({"retry": 3}, InvalidRequest, r"retry must be a Retry, e.g. Retry\(attempts=3\); got 3"),
        ({"retry": None}, InvalidRequest, "retry must be"),
        ({"limits": 5}, InvalidRequest, "limits must be a Limits, e.g. .*; got 5"),
        ({"limits": None}, InvalidRequest, "limits must be"),
        ({"transport": "requests"}, InvalidRequest, "'aiohttp', 'httpx' or .*; got 'requests'"),
        ({"transport": object()}, InvalidRequest, "transport must be 'aiohttp', 'httpx' or"),
        ({"transport": "aiohttp", "http_client": 5}, InvalidRequest, "transport must be 'httpx'"),
        ({"ssl_context": False}, InvalidRequest, "ssl_context must be an ssl.SSLContext"),
        ({"headers": {"X-Team": "caf\u00e9"}}, ConfigurationError, "must be ASCII"),
        ({"http_client": 42}, InvalidRequest, "must be an httpx2.AsyncClient or an httpx.Async"),
        (
            {"http_client": HTTP_CLIENT, "proxy": "http://user:secret@host:3128"},
            InvalidRequest,
            "proxy must be left out where an http_client",
        ),
        (
            {"http_client": HTTP_CLIENT, "ssl_context": ssl.create_default_context()},
            InvalidRequest,
            "ssl_context must be left out",
        ),
    ],
)
@pytest.mark.parametrize("door", [AsyncClient, Client])
def test_other_settings_are_checked_as_well(
    door: type[AsyncClient | Client], words: dict[str, Any], error: type[Exception], part: str
) -> None:
    with pytest.raises(error, match=part) as caught:
        door(KEY, **words)
    assert "Nothing was sent" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_all_that_http_can_hold_is_taken_as_a_header() -> None:
    headers = {"X-Team_1.~!#$%&'*+^`|": 'a "b"\t(c); {d}', "X-Empty": ""}
    assert AsyncClient(KEY, headers=headers)._session.config.headers == headers


def test_a_client_never_shows_its_key() -> None:
    client = AsyncClient(KEY, headers={"X-Gateway": "other-secret"})
    shown = repr(client) + repr(client._session.config) + str(client._session.config.api_key)
    assert KEY not in shown
    assert "other-secret" not in shown


@pytest.mark.parametrize(
    "request_id", ["", " ", ".", "..", None, 5, "https://host/v1/videos/abc", " HTTP://host/abc"]
)
def test_an_id_that_no_address_can_hold_is_refused(request_id: Any) -> None:
    with pytest.raises(InvalidRequest, match="request_id must"):
        AsyncClient(KEY).job(request_id)


@pytest.mark.parametrize("name", ["Connection", "connection"])
def test_a_connection_may_be_closed_after_each_request(name: str) -> None:
    assert AsyncClient("key", headers={name: "close"}) is not None

"""`grok-video doctor`: what would be used (key, base URL, proxy, CA, versions), and does it work.

The key itself is never printed, and no part of it either. The one request is the poll of a job
that cannot exist, which costs nothing: its answer tells a working key from a refused one.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import ssl
import urllib.request
from typing import Any, Final
from urllib.parse import urlsplit

from grok_video import __version__
from grok_video._cli._connect import Connection, EmulatedConnection, reach
from grok_video._cli._console import Console, one_line
from grok_video._cli._endings import DONE, FAILED, Errand, finish, in_shell_words
from grok_video._cli._interrupts import run
from grok_video._client import AsyncClient
from grok_video._errors import (
    APIConnectionError,
    APIError,
    AuthenticationError,
    BadRequest,
    ConfigurationError,
    GrokVideoError,
    InsufficientBalance,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
)
from grok_video._redaction import redact_url
from grok_video._settings import KEY_VARIABLE, find_base_url, find_key
from grok_video._transports._proxies import Proxies
from grok_video._urls import Origin

#: No job has this id: ids are random UUIDs, and this one is all zeros.
NO_JOB: Final = "00000000-0000-0000-0000-000000000000"
#: Sent where there is no usable key, to tell at least whether the API can be reached.
_NO_KEY: Final = "no-key"
#: Seconds for the one request: a person is waiting, and a poll takes half a second.
_TIMEOUT: Final = 15.0
_CORE: Final = ("aiohttp", "anyio", "attrs", "cattrs")
_EXTRAS: Final = {
    "cli": ("typer", "rich"),
    "emulator": ("av", "pillow"),
    "trio": ("trio", "httpx2"),
    "otel": ("opentelemetry-api",),
    "speed": ("pybase64",),
}


def doctor(connection: Connection, *, json_lines: bool) -> int:
    """Tell what is found; 0 when all is well, 1 otherwise."""
    console = Console(json_lines=json_lines)
    errand = Errand(console)

    def work() -> int:
        with reach(connection) as reached:
            findings = examine(errand, reached)
        well = all(finding["ok"] for finding in findings.values())
        if json_lines:
            console.result({"ok": well, **findings}, "")
        else:
            for name, finding in findings.items():
                mark = "ok " if finding["ok"] else "BAD"
                console.result({}, f"{mark} {name:<9} {one_line(finding['detail'])}")
        return DONE if well else FAILED

    return finish(errand, work)


def examine(errand: Errand, connection: Connection) -> dict[str, dict[str, Any]]:
    """Return the findings, each with `ok` and a `detail` for people, in the order to read them."""
    key, key_finding = _key(connection)
    base_url, base_url_finding = _base_url(connection)
    findings = {"key": key_finding, "base_url": base_url_finding}
    if base_url is not None:
        findings["proxy"] = _proxy(base_url)
        findings["ca"] = _certificates(base_url)
    findings["versions"] = _versions()
    findings["transport"] = {
        "ok": True,
        "name": "aiohttp",
        "detail": "aiohttp, on asyncio (the library takes httpx2 on trio)",
    }
    if base_url is not None:
        findings["api"] = run(errand, lambda: _ask(base_url, key))
    return findings


def _key(connection: Connection) -> tuple[str | None, dict[str, Any]]:
    if isinstance(connection, EmulatedConnection):
        source = "the embedded emulator"
    elif connection.api_key_file is not None:
        source = connection.key_place
    else:
        source = KEY_VARIABLE
    try:
        key = find_key(connection.key())[0].reveal()
    except ConfigurationError as error:
        present = KEY_VARIABLE in os.environ or connection.api_key_file is not None
        facts = {"ok": False, "source": source, "set": present, "length": None}
        return None, facts | {"detail": in_shell_words(error.message)}
    # The length tells a cut-off or doubled paste from a whole key, and gives nothing away.
    facts = {"ok": True, "source": source, "set": True, "length": len(key)}
    return key, facts | {"detail": f"from {source}, {len(key)} characters (never shown)"}


def _base_url(connection: Connection) -> tuple[str | None, dict[str, Any]]:
    try:
        value, source = find_base_url(connection.base_url)
    except ConfigurationError as error:
        return None, {"ok": False, "url": None, "source": None, "detail": error.message}
    if isinstance(connection, EmulatedConnection):
        source = "the embedded emulator"
    elif source == "base_url":
        source = "--base-url"
    shown = redact_url(value)
    return value, {"ok": True, "url": shown, "source": source, "detail": f"{shown} ({source})"}


def _proxy(base_url: str) -> dict[str, Any]:
    """Tell the proxy that the client takes from the environment, or why it takes none."""
    origin = Origin.of(base_url)
    proxies = Proxies(None, urllib.request.getproxies())
    named = proxies.named(origin)
    facts: dict[str, Any] = {"ok": True, "url": None, "bypassed": False}
    if not named:
        variable = f"{origin.scheme.upper()}_PROXY"
        return facts | {"detail": f"none (neither {variable} nor ALL_PROXY is set)"}
    shown = redact_url(named)
    if proxies.exempts(origin):
        detail = f"none: NO_PROXY exempts {origin.host} from {shown}"
        return facts | {"bypassed": True, "detail": detail}
    try:
        proxies.require(origin)
    except ConfigurationError as error:
        return facts | {"ok": False, "detail": error.message}
    if proxies.choose(origin) is not None:
        return facts | {"url": shown, "detail": shown}
    detail = f"{shown} is not used, as it is no http(s) proxy: requests go without one"
    return facts | {"ok": False, "url": shown, "detail": detail}


def _certificates(base_url: str) -> dict[str, Any]:
    """Tell which certificates OpenSSL would trust, as Python's default context takes them."""
    paths = ssl.get_default_verify_paths()
    places = {
        "file": os.environ.get(paths.openssl_cafile_env) or paths.openssl_cafile,
        "dir": os.environ.get(paths.openssl_capath_env) or paths.openssl_capath,
    }
    named = [
        f"{name}={os.environ[name]}"
        for name in (paths.openssl_cafile_env, paths.openssl_capath_env)
        if os.environ.get(name)
    ]
    facts: dict[str, Any] = {"ok": True, **places}
    if urlsplit(base_url).scheme != "https":
        return facts | {"detail": f"not used: {urlsplit(base_url).scheme}:// is not encrypted"}
    lost = [entry for entry in named if not os.path.exists(entry.partition("=")[2])]  # noqa: PTH110
    if lost:
        return facts | {"ok": False, "detail": f"{' and '.join(lost)} does not exist"}
    file = os.environ.get(paths.openssl_cafile_env)
    if file and not _has_certificates(file):
        # Python's default context says nothing of it, and then trusts nobody.
        detail = f"{paths.openssl_cafile_env}={file} holds no certificate"
        return facts | {"ok": False, "detail": detail}
    where = " and ".join(named) or f"{places['file']} and {places['dir']} (Python's default)"
    count = ssl.create_default_context().cert_store_stats()["x509_ca"]
    # Those of a folder are read when they are needed, so a count of zero proves nothing.
    return facts | {"detail": f"{where}, {count} authorities loaded"}


def _has_certificates(file: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except OSError:  # which ssl's errors are
        return False
    return True


def _versions() -> dict[str, Any]:
    def installed(names: tuple[str, ...]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for name in names:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
        return found

    core = installed(_CORE)
    extras = {extra: installed(names) for extra, names in _EXTRAS.items()}
    lacking = [name for name, version in core.items() if version is None]
    shown = [f"{name} {version}" for name, version in core.items()]
    for extra, found in extras.items():
        whole = all(version is not None for version in found.values())
        words = ", ".join(f"{name} {version}" for name, version in found.items() if version)
        shown.append(f"{extra}: {words if whole else 'not installed'}")
    detail = f"Python {platform.python_version()}, grok_video {__version__}, {'; '.join(shown)}"
    return {
        "ok": not lacking,
        "python": platform.python_version(),
        "grok_video": __version__,
        "core": core,
        "extras": extras,
        "detail": detail,
    }


async def _ask(base_url: str, key: str | None) -> dict[str, Any]:
    """Return what the poll of a job that cannot exist says of the way there and of the key."""
    try:
        async with AsyncClient(key or _NO_KEY, base_url=base_url, timeout=_TIMEOUT) as client:
            snapshot = await client.job(NO_JOB).refresh()
    except GrokVideoError as error:
        verdict, ok, detail = _verdict(error)
        status = error.status if isinstance(error, APIError) else None
        said = error.message.removeprefix(f"job {NO_JOB}: ")
        if key is None and verdict == "key_refused":
            detail, said = "reachable; it was asked without a key, and wants one", ""
        return _api(verdict, f"{detail}{f': {said}' if said and not ok else ''}", status, ok=ok)
    if not snapshot.raw:
        # A job may be told with an empty answer; of one that is not there this API has words.
        detail = "something answers there, and with nothing: that is not this API (wrong path?)"
        return _api("wrong_path", detail, 200, ok=False)
    return _api("ready", "reachable, key accepted", 200, ok=key is not None)


def _api(verdict: str, detail: str, status: int | None, *, ok: bool) -> dict[str, Any]:
    return {"ok": ok, "verdict": verdict, "http_status": status, "detail": detail}


def _verdict(error: GrokVideoError) -> tuple[str, bool, str]:
    """Return the verdict, whether all is well, and a sentence."""
    match error:
        case APIConnectionError() | ConfigurationError():
            return "unreachable", False, "unreachable"
        case NotFound(status=status) if status < 500 and _is_about_the_job(error):
            return "ready", True, "reachable, key accepted"
        case AuthenticationError():
            return "key_refused", False, "reachable, but the key is refused"
        case InsufficientBalance():
            return "no_credit", False, "reachable, key accepted, but the account has no credit"
        case PermissionDenied():
            return "denied", False, "reachable, but the key or this network may not use it"
        case RateLimited():
            return "rate_limited", False, "reachable, but it takes no more requests now"
        case ServerError() | NotFound(code="model_not_found"):
            return "failing", False, "reachable, but it fails"
        case BadRequest():
            return "unexpected", False, "reachable, but it does not understand the question"
        case _:
            return "wrong_path", False, "something answers there, but not this API (wrong path?)"


def _is_about_the_job(error: APIError) -> bool:
    # A router that does not know the path also says 404, in other words (contract.md, section 4).
    return error.code == "task_not_exist" or "entity" in error.message.lower()

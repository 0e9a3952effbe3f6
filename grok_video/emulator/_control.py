"""A door beside the API for tests in another process: what the emulator saw, and how to steer it.

`GET /_emulator` reports; `POST /_emulator/storm`, `/finish` and `/script` do what the methods of
`Emulator` do. Needs the key like everything else; nothing of the API itself lives here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from . import faults
from ._answers import Reply, as_json
from ._faults import Fault

if TYPE_CHECKING:
    from ._server import Server


def control(server: Server, method: str, name: str, body: bytes) -> Reply:
    """The answer to one request at this door."""
    if method == "GET" and not name:
        return as_json(200, _report(server))
    try:
        wanted: dict[str, Any] = json.loads(body)
        match name:
            case "storm":
                server.storm(float(wanted["seconds"]), wanted.get("retry_after"))
            case "finish":
                server.service.end(wanted["request_id"])
            case "script":
                server.scripts.add(wanted["phase"], [_fault(*one) for one in wanted["faults"]])
                server.origins.arm()
            case _:
                return as_json(404, {"error": f"nothing called {name!r} here"})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return as_json(400, {"error": f"{type(error).__name__}: {error}"})
    return as_json(200, {})


def _fault(name: str, facts: dict[str, Any] | None = None) -> Fault:
    """The fault of this class name, or from this function, with these arguments."""
    made = getattr(faults, name)(**(facts or {}))
    if not isinstance(made, Fault):
        raise TypeError(f"{name} is not a fault")
    return made


def _report(server: Server) -> dict[str, Any]:
    records = server.records
    return {
        "accepted": records.accepted,
        "bill": str(records.bill),
        "polls": records.polls,
        "downloads": records.downloads,
        "connections": records.connections,
        "faults_left": sum(map(len, server.scripts.left().values())),
        "creates": [
            {
                "request_id": one.request_id,
                "price": str(one.price),
                "fingerprint": one.fingerprint,
                "at": one.at,
            }
            for one in records.creates()
        ],
        "attempts": [
            {
                "at": one.at,
                "answered": one.answered,
                "status": one.status,
                "retry_after": one.retry_after,
                "request_id": one.request_id,
            }
            for one in records.requests()
            if one.phase == "create"
        ],
    }

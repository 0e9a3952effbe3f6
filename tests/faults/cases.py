"""Every fault in every phase, and how a call that meets it has to end.

An ending is one word: `delivered` (the call itself brought the file), `recovered` (it failed, and
`client.job(id)` brought it), `refused` (nothing was created, the error says so), `unknown`
(`CreateOutcomeUnknown`, nothing sent again), `ended` (the job has no video and never will).
"""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

from grok_video.emulator import faults
from grok_video.emulator.faults import Answer, Fault

DELIVERED, RECOVERED, REFUSED = "delivered", "recovered", "refused"
UNKNOWN, ENDED = "unknown", "ended"

#: Seconds for one request where the fault is silence: what a timeout costs a case.
SHORT: Final = 0.3
#: How long the emulator is silent then; it notices when the client gives up.
LONG: Final = 5.0
#: Bytes of the file that is served: several reads, several chunks.
CLIP: Final = b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + random.Random(1).randbytes(200_000)

#: Statuses that name another place.
REDIRECTS: Final = (301, 302, 303, 307, 308)
GOLDEN: Final = Path(__file__).parents[1] / "wire"


@frozen
class Case:
    """One script for one phase."""

    name: str
    phase: str
    script: tuple[Fault, ...]
    #: Any of these.
    endings: tuple[str, ...]
    #: Seconds for one request.
    timeout: float = 10.0

    @property
    def id(self) -> str:
        return f"{self.phase}: {self.name}"


def cases() -> tuple[Case, ...]:
    """Return all of them."""
    return (*_socket(), *_http(), *_life(), *_file(), *_golden())


def _each(phases: str, name: str, endings: str, *script: Fault, timeout: float = 10.0) -> Iterator:
    """Give one case for each phase; `endings` has a word for each, or alternatives as a|b."""
    words = endings.split()
    for phase, ending in zip(phases.split(), words * 3, strict=False):
        yield Case(name, phase, script, tuple(ending.split("|")), timeout)


ALL: Final = "create poll download"


def _socket() -> Iterator[Case]:
    """Give the faults of connections. Only a create minds them: the others may be sent again."""
    taken = f"{UNKNOWN} {DELIVERED} {DELIVERED}"
    yield from _each(ALL, "Refuse", DELIVERED, faults.Refuse(0.02))
    for reset in (False, True):
        how = "RST" if reset else "FIN"
        # A reset may come before the connection counts as made, and then nothing was sent.
        early = f"{UNKNOWN}|{DELIVERED} {DELIVERED} {DELIVERED}" if reset else taken
        yield from _each(ALL, f"CloseOnAccept {how}", early, faults.CloseOnAccept(reset=reset))
        for after in (1, 60, None):
            cut = faults.CutRequest(after=after, reset=reset)
            yield from _each(ALL, f"CutRequest {after} {how}", taken, cut)
        cut = faults.CutRequest(accepted=True, reset=reset)
        yield from _each(ALL, f"CutRequest accepted {how}", taken, cut)
        for after in (0, 9, 60):
            answer = faults.CutAnswer(after, reset=reset)
            yield from _each(ALL, f"CutAnswer {after} {how}", taken, answer)
        # A short answer is whole by then; a reset may overtake it all the same.
        late = f"{DELIVERED}|{UNKNOWN} {DELIVERED} {DELIVERED}"
        answer = faults.CutAnswer(5000, reset=reset)
        yield from _each(ALL, f"CutAnswer 5000 {how}", late, answer)
    for name, stall in (
        ("Stall", faults.Stall(LONG)),
        ("Stall accepted", faults.Stall(LONG, accepted=True)),
        ("Stall after 30", faults.Stall(LONG, after=30)),
    ):
        yield from _each(ALL, name, taken, stall, timeout=SHORT)
    for name, stall in (
        ("Stall and close", faults.Stall(0.03)),
        ("Stall after 0 and close", faults.Stall(0.03, after=0)),
    ):
        yield from _each(ALL, name, taken, stall)
    for name, stall in (
        ("Stall and go on", faults.Stall(0.03, resume=True)),
        ("Stall after 30 and go on", faults.Stall(0.03, after=30, resume=True)),
    ):
        yield from _each(ALL, name, DELIVERED, stall)
    everything = (faults.CloseOnAccept(), faults.CutRequest(), faults.CutAnswer(20))
    for phase in ("poll", "download"):
        yield Case("three breaks in a row", phase, everything, (DELIVERED,))


def _http() -> Iterator[Case]:
    """Give the faults of HTTP, and every status."""
    # What is no video ends a download, and nothing is lost: it can be had again.
    page = f"{UNKNOWN} {DELIVERED} {RECOVERED}"
    taken = f"{UNKNOWN} {DELIVERED} {DELIVERED}"
    # The id of a create is here, whatever was announced behind it.
    here = f"{DELIVERED} {DELIVERED} {DELIVERED}"
    yield from _each(ALL, "WrongLength +10", here, faults.WrongLength(10))
    # Not for a file: five bytes that a server keeps to itself cannot be missed.
    # Over aiohttp the id of a create is rescued from it, over httpx it may be lost.
    behind = f"{DELIVERED}|{UNKNOWN} {DELIVERED} {DELIVERED}"
    yield from _each("create poll", "WrongLength -5", behind, faults.WrongLength(-5))
    for accepted in (False, True):
        mark = " accepted" if accepted else ""
        endless = faults.EndlessHeaders(LONG, accepted=accepted)
        yield from _each(ALL, "EndlessHeaders" + mark, taken, endless, timeout=SHORT)
        for status in (200, 500):
            huge = faults.HugeJSON(status=status, accepted=accepted)
            deep = faults.DeepJSON(status=status, accepted=accepted)
            bomb = faults.GzipBomb(1 << 24, status=status, accepted=accepted)
            for name, fault in (("HugeJSON", huge), ("DeepJSON", deep), ("GzipBomb", bomb)):
                endings = page if status == 200 else taken
                yield from _each(ALL, f"{name} {status}{mark}", endings, fault)
        yield from _each(ALL, "html_page" + mark, page, faults.html_page(accepted=accepted))
        yield from _each(ALL, "timed_out" + mark, taken, faults.timed_out(accepted=accepted))
        yield from _each(ALL, "bad_upstream" + mark, taken, faults.bad_upstream(accepted=accepted))
    yield from _each(ALL, "empty_202", taken, faults.empty_202())
    for style in ("seconds", "date", "ms"):
        # A date has whole seconds, so a short one may already be over.
        limited = faults.rate_limited(0.03, style)  # type: ignore[arg-type]
        yield from _each(ALL, f"rate_limited {style}", DELIVERED, limited)
        busy = faults.rate_limited(0.03, style, status=503)  # type: ignore[arg-type]
        yield from _each(ALL, f"503 with a wish in {style}", DELIVERED, busy)
    yield from _each(ALL, "rate_limited", DELIVERED, faults.rate_limited())
    yield from _each(ALL, "overloaded", DELIVERED, faults.overloaded())
    # Money, key and model: a create is refused, a wait fails at once with the id. At the file
    # server 4xx means a dead link, whatever it says.
    final = f"{REFUSED} {RECOVERED} {DELIVERED}"
    for name, fault in (
        ("out_of_quota", faults.out_of_quota()),
        ("invalid_token", faults.invalid_token()),
        ("out_of_credits", faults.out_of_credits()),
    ):
        yield from _each(ALL, name, final, fault)
    yield from _each(ALL, "no_channel", f"{REFUSED} {DELIVERED} {DELIVERED}", faults.no_channel())
    yield from _each(
        ALL,
        "disguised_bad_request",
        f"{REFUSED} {RECOVERED} {DELIVERED}",
        faults.disguised_bad_request(),
    )
    for status in (300, *REDIRECTS):
        moved = Answer(status, "", (("Location", "http://127.0.0.1:9/elsewhere"),), "text/plain")
        # A file may move; this one leads to a port where nobody listens, until the next try.
        yield from _each(ALL, f"Answer {status} moved", f"{REFUSED} {RECOVERED} {DELIVERED}", moved)
    for status in (204, 206, 299):
        yield from _each(ALL, f"Answer {status}", taken, Answer(status))
    yield from _each(ALL, "Answer 304", final, Answer(304))
    for status in (400, 401, 403, 404, 405, 406, 409, 410, 411, 413, 415, 418, 421, 422, 451):
        yield from _each(ALL, f"Answer {status}", final, Answer(status, {"error": "no"}))
    for status in (408, 500, 502, 504, 520, 521, 522, 523, 524, 525, 526, 529, 599):
        answer = Answer(status, {"message": "upstream trouble"})
        yield from _each(ALL, f"Answer {status}", taken, answer)
    yield from _each(ALL, "Answer 503 of unknown origin", taken, Answer(503, "busy"))
    for name, body in (
        ("nothing", b""),
        ("null", b"null"),
        ("a number", b"17"),
        ("a list", b"[]"),
        ("an empty object", b"{}"),
        ("half an object", b'{"request_id": "4b2c'),
        ("no UTF-8", b'{"request_id": "\xff\xfe"}'),
        ("ids of the wrong kind", b'{"request_id": ["a"], "data": 5}'),
        ("NaN", b"NaN"),
        ("NUL bytes", bytes(300)),
    ):
        yield from _each(ALL, f"200 with {name}", page, Answer(200, body, accepted=True))


def _life() -> Iterator[Case]:
    """Give what may happen in a job's life, seen from its create on or at a poll."""
    both = "create poll"
    yield from _each(both, "UnknownStatus", DELIVERED, faults.UnknownStatus(polls=3))
    yield from _each(both, "TaskNotExist", DELIVERED, faults.TaskNotExist(polls=3, seconds=0.05))
    yield from _each(both, "StuckProgress", DELIVERED, faults.StuckProgress())
    yield from _each(both, "Backwards", DELIVERED, faults.Backwards())
    yield from _each(both, "DoneWithoutURL", ENDED, faults.DoneWithoutURL())
    yield from _each(both, "Expired", ENDED, faults.Expired())
    yield from _each(both, "Failed", ENDED, faults.Failed())
    for shape in ("flag", "poll", "failed", "top-level", "envelope"):
        yield from _each(both, f"Moderated {shape}", ENDED, faults.Moderated(shape))  # type: ignore[arg-type]


def _file() -> Iterator[Case]:
    """Give what may happen to a file: alone, and after a break that makes the client resume."""
    alone = {
        "CutFile at 0": faults.CutFile(0),
        "CutFile truncated": faults.CutFile(70_000),
        "CutFile reset": faults.CutFile(70_000, reset=True),
        "OtherVersion": faults.OtherVersion(),
        "IgnoreRange": faults.IgnoreRange(),
        "LinkDied": faults.LinkDied(),
        **{
            f"Redirect {status}": faults.Redirect(status=status)
            for status in (301, 302, 303, 307, 308)
        },
    }
    for name, fault in alone.items():
        yield Case(name, "download", (fault,), (DELIVERED,))
        broken = (faults.CutFile(90_000), fault)
        yield Case(f"{name} after a break", "download", broken, (DELIVERED,))
    four = (faults.LinkDied(),) * 4
    yield Case("four dead links", "download", four, (DELIVERED,))
    yield Case("more dead links than patience", "download", (faults.LinkDied(),) * 5, (RECOVERED,))
    loop = faults.Redirect()
    yield Case("redirected for ever", "download", (loop,) * 6, (RECOVERED,))
    many = tuple(faults.CutFile(20_000 + n) for n in range(6))
    yield Case("six breaks", "download", many, (DELIVERED,))
    stall = faults.Stall(LONG, after=50_000)
    yield Case("silent in the middle", "download", (stall,), (DELIVERED,), SHORT)
    html = faults.html_page(200)
    yield Case("HTML after a break", "download", (faults.CutFile(90_000), html), (RECOVERED,))


def _golden() -> Iterator[Case]:
    """Give the contract's answers in place of the real ones."""
    for path in sorted(GOLDEN.glob("*-*.json")):
        document = json.loads(path.read_text())
        expect = document.get("expect", {})
        if document.get("call") not in ("create", "poll") or expect.get("status") == "done":
            continue
        if "request_id" in expect:
            continue  # an id that nobody has: only a server that lies can answer so
        answer = _answer_of(document)
        phase = document["call"]
        match phase, expect:
            case "create", {"error": "CreateOutcomeUnknown"}:
                endings = (UNKNOWN,)
            case "create", {"error": "RateLimited" | "ServerError"}:
                endings = (DELIVERED,)
            case "create", _:
                endings = (REFUSED,)
            case "poll", {"error": "RateLimited" | "ServerError" | "UnexpectedResponse"}:
                endings = (DELIVERED,)
            case "poll", {"passing": _}:
                endings = (DELIVERED,)
            case "poll", {"error": _} | {"status": "failed" | "expired"}:
                endings = (RECOVERED,)
            case _:
                endings = (DELIVERED,)
        yield Case(f"golden {path.stem}", phase, (answer,), endings)


def _answer_of(document: dict) -> Answer:
    body = document["json"] if "json" in document else document.get("text", "")
    headers = {name.lower(): value for name, value in document.get("headers", {}).items()}
    kind = headers.pop("content-type", "application/json")
    # The wish itself is kept, its length is not: 7 s would be spent on every door.
    waits = {name: "0.02" if name == "retry-after" else "20" for name in headers if "retry" in name}
    return Answer(document["http_status"], body, tuple((headers | waits).items()), kind)


def classes_in(script: tuple[Fault, ...]) -> set[str]:
    """Return the names of the fault classes of a script."""
    return {type(fault).__name__ for fault in script}


def public_faults() -> dict[str, object]:
    """Return every class and function that a script can be written with."""
    abstract = {faults.Fault, faults.LifeFault, faults.FileFault, faults.Pass}
    return {
        name: found
        for name in faults.__all__
        if (found := getattr(faults, name)) not in abstract
        and (inspect.isclass(found) or inspect.isfunction(found))
    }

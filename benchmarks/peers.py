"""What does a job cost the peers, and what does it cost here? Against a loop by hand, in one run.

A job is one create, five polls and a download of 64 KiB, through each client's own public face, as
its user would write it (`_peers.py`; each note says how). One server plays all the APIs in a
process of its own, on another processor. Each client is a process too; they take turns, and the
CPU seconds of a client process count: its event loop, its threads, its share of the kernel, opening
its connections. Ratios are taken round by round.

    python -m benchmarks.peers [--tiny]
"""

from __future__ import annotations

import json
import sys

from benchmarks import _peers, jobs
from benchmarks._bars import below, paired, spread, unmeasured
from benchmarks._peerserver import serving
from benchmarks._worker import workers

#: Seconds between polls, for everybody: many jobs in flight at once, and one after the other.
INTERVALS = {200: 0.1, 1: 0.001}
#: Jobs of a round, by how many are at once: more where a job costs little.
COUNTS = {200: 200, 1: 10}
MORE = COUNTS | {1: 50}
CHEAP = (_peers.RAW, _peers.OURS, _peers.XAI)
#: Rounds: those three have a limit among them, and the others take most of the time.
ROUNDS, FEWER_ROUNDS = 7, 3
#: A job of theirs costs some ten of a loop by hand. They have so many at once where others have
#: 200, or the run would take five minutes; that is kind to them, as their pools search all that
#: wait in them.
SLOW = ("replicate", "fal-client", "runwayml", "openai", "google-genai")
FEWER = 40
MOST = 1.0


def run(tiny: bool) -> dict:
    """Return the figures of one run; those over xai-sdk have a limit."""
    rounds = 1 if tiny else ROUNDS
    ways = [name for name in _peers.WAYS if _peers.WAYS[name].version() and name != _peers.AS_FILE]
    found: dict = {
        "question": f"CPU of a job, beside the peers: a create, {jobs.POLLS} polls, 64 KiB",
        "installed": {way: _peers.WAYS[way].version() for way in ways},
        "how": {way: _peers.WAYS[way].note for way in ways},
        "missing": _peers.missing(),
        f"{FEWER} at once instead of {max(COUNTS)}": [way for way in ways if way in SLOW],
        "bars": [],
    }
    with serving() as place, workers(ways, place) as clients:
        for way in ways:  # imports, and what is built with the first requests
            clients[way].ask(what="crowd", count=5, at_once=5, interval=0.001)
        for at_once, jobs_of_round in COUNTS.items():
            seen: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(rounds):
                for way in ways if number % 2 else reversed(ways):
                    if way not in CHEAP and number >= FEWER_ROUNDS:
                        continue
                    count, crowd = MORE[at_once] if way in CHEAP else jobs_of_round, at_once
                    if way in SLOW and at_once > 1:
                        count = crowd = FEWER
                    if tiny:
                        count, crowd = 10, min(at_once, 10)
                    done = clients[way].ask(
                        what="crowd", count=count, at_once=crowd, interval=INTERVALS[at_once]
                    )
                    seen[way].append(done["cpu"] * 1e3)
            name = f"at once: {at_once}"
            found[name] = {
                "ms": {way: spread(costs) for way, costs in seen.items()},
                "over raw": {
                    way: paired(costs, seen[_peers.RAW][: len(costs)])
                    for way, costs in seen.items()
                    if way != _peers.RAW
                },
            }
            title = f"{_peers.OURS} / {_peers.XAI}, {name}"
            if _peers.XAI in seen:
                ratio = paired(seen[_peers.OURS], seen[_peers.XAI])
                found["bars"].append(below(title, ratio, MOST))
            else:
                found["bars"].append(unmeasured(title, MOST, "xai-sdk is not installed"))
    return found


if __name__ == "__main__":
    print(json.dumps(run("--tiny" in sys.argv), indent=1))

"""What does a local picture of 10 MiB cost the peers, and what does it cost here? In one run.

Each sends it as a data URI in JSON (xai-sdk: in protobuf), with the helper that it has or, where it
has none, with `b64encode`, as its user would. CPU of the client process for one picture after the
other, in turns; then fifty at once in a fresh process each, one process at a time: the peak of
memory above what was resident before, and CPU. Beside them "openai, a form" sends the bytes as
they are, in a multipart form: another wire, which takes no base64, and no bar.

    python -m benchmarks.peers_upload [--tiny]
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import _peers
from benchmarks._bars import below, paired, spread, unmeasured
from benchmarks._peerserver import serving
from benchmarks._worker import worker, workers

MIB = 2**20
#: A peer that takes so many times what the best one takes has no more than so many rounds.
FEWER_ROUNDS, FAR = 3, 1.25


def run(tiny: bool) -> dict:
    """Return the figures of one run; what is over the best peer has a limit."""
    rounds, size, at_once = (1, MIB, 4) if tiny else (7, 10 * MIB, 50)
    ways = [name for name in _peers.WAYS if _peers.WAYS[name].version()]
    peers = [name for name in _peers.PEERS if name in ways]
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    crowd: dict[str, list[dict]] = {way: [] for way in ways if way != _peers.AS_FILE}
    with tempfile.TemporaryDirectory() as folder, serving() as place:
        photograph = Path(folder, "photograph.jpg")
        photograph.write_bytes(b"\xff\xd8\xff\xe0" + os.urandom(size - 4))
        words = {"photograph": str(photograph)}
        with workers(ways, place) as clients:
            racing = ways
            for number in range(rounds + 1):  # the first warms up
                if number > FEWER_ROUNDS:
                    middle = {way: statistics.median(cpu[way]) for way in peers}
                    near = FAR * min(middle.values(), default=0.0)
                    racing = [way for way in racing if middle.get(way, 0.0) <= near]
                for way in racing if number % 2 else reversed(racing):
                    done = clients[way].ask(what="pictures", at_once=1, **words)
                    if number or tiny:
                        cpu[way].append(done["cpu"] * 1e3)
        for way, sent in crowd.items():
            # Gigabytes of one peer differ by nothing that matters here from run to run.
            for _ in range(7 if way == _peers.OURS and not tiny else 1):
                with worker(way, place) as client:
                    client.ready()
                    sent.append(client.ask(what="pictures", at_once=at_once, **words))
    found: dict = {
        "question": f"CPU and memory of a {size / MIB:g} MiB picture, beside the peers",
        "installed": {way: _peers.WAYS[way].version() for way in ways},
        "missing": _peers.missing(),
        "cpu_ms": {way: spread(costs, 1) for way, costs in cpu.items()},
        "cpu over raw": {
            way: paired(costs, cpu[_peers.RAW][: len(costs)]) for way, costs in cpu.items()
        },
        "at_once": at_once,
        "cpu_ms_each_at_once": {
            way: spread([one["cpu"] * 1e3 for one in seen], 1) for way, seen in crowd.items()
        },
        "peak_mib": {
            way: spread([one["peak_mib"] for one in seen], 1) for way, seen in crowd.items()
        },
        "bars": [],
    }
    for name, figures in (("cpu_ms", cpu), ("peak_mib", None)):
        title = f"{name}, {_peers.OURS} / the best peer"
        if not peers:
            found["bars"].append(unmeasured(title, 1.0, "no peer is installed"))
            continue
        near_ones = [way for way in peers if figures is None or way in racing]
        best = min(near_ones, key=lambda way: found[name][way]["median"])
        found[f"best peer, {name}"] = best
        ours = found[name][_peers.OURS]["median"], found[name][best]["median"]
        ratio = paired(figures[_peers.OURS], figures[best]) if figures else ours[0] / ours[1]
        found["bars"].append(below(title, ratio, 1.0))
    return found


if __name__ == "__main__":
    print(json.dumps(run("--tiny" in sys.argv), indent=1))

"""What the ledger says to SQLite: its tables, how rows get in, and what is asked of them.

Statements only: nothing is opened here, and no value stands in a text.
"""

from __future__ import annotations

from typing import Final

from grok_video._lifecycle import Event, State, advance

__all__ = ["ADD_EVENTS", "ADD_REQUESTS", "FIND", "INTERRUPT", "OWNERS", "SCHEMA", "TOTALS"]

SCHEMA: Final = """
-- Who wrote here.
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL
);
-- What was asked for last, once for each key; pictures are described, never kept.
CREATE TABLE request (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    prompt TEXT NOT NULL,
    image TEXT,
    model TEXT NOT NULL,
    duration INTEGER,
    resolution TEXT,
    aspect_ratio TEXT,
    estimate_usd REAL NOT NULL
);
-- What happened, in order. Each row also has all that was known of the item after it.
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    run INTEGER NOT NULL REFERENCES run (id),
    item INTEGER NOT NULL REFERENCES request (id),
    event TEXT NOT NULL,
    state TEXT NOT NULL,
    request_id TEXT,
    attempts INTEGER NOT NULL,
    polls INTEGER NOT NULL,
    seconds REAL,
    cost_usd REAL,
    path TEXT,
    size INTEGER,
    sha256 TEXT,
    error_type TEXT,
    error TEXT,
    -- List price of the last create as long as it may be billed and nobody has named its price, and
    -- of all those before it. cost_usd is what the provider has named, for all of them.
    open_usd REAL NOT NULL DEFAULT 0,
    earlier_usd REAL NOT NULL DEFAULT 0,
    -- Whether the last create asked the provider to deliver the video itself (output.upload_url):
    -- 1, and 2 once it was done without a link.
    is_delivered INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX event_of_item ON event (item);
CREATE TRIGGER event_is_never_changed BEFORE UPDATE ON event
BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER event_is_never_removed BEFORE DELETE ON event
BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
-- Where each item stands.
CREATE VIEW item AS
SELECT
    request.key, last.state, last.request_id, last.path, last.cost_usd,
    round(last.open_usd + last.earlier_usd, 6) AS open_usd, last.error_type, last.error,
    last.attempts, last.polls, last.seconds, last.size, last.sha256,
    (SELECT at FROM event WHERE item = request.id ORDER BY id LIMIT 1) AS began_at,
    (SELECT at FROM event WHERE item = request.id AND event = 'accepted' ORDER BY id DESC LIMIT 1)
        AS accepted_at,
    last.at AS changed_at,
    request.prompt, request.image, request.model, request.duration, request.resolution,
    request.aspect_ratio, request.estimate_usd, request.fingerprint
FROM request JOIN event AS last
    ON last.id = (SELECT max(id) FROM event WHERE item = request.id);
"""

_EVENT_COLUMNS: Final = (
    "at, item, event, state, request_id, attempts, polls, seconds, cost_usd, path, size, sha256, "
    "error_type, error, open_usd, earlier_usd, is_delivered"
)
_REQUEST_COLUMNS: Final = (
    "id, key, fingerprint, prompt, image, model, duration, resolution, aspect_ratio, estimate_usd"
)


def _insertion(table: str, columns: str, *, fixed: str = "", values: str = "") -> str:
    # All rows in one statement: the interpreter's lock is given up and fought for again at each
    # step of a statement, which a row at a time costs up to 5 ms beside a busy event loop.
    picked = ", ".join(f"json_extract(value, '$[{n}]')" for n in range(columns.count(",") + 1))
    return (
        f"INSERT INTO {table} ({columns}{fixed}) "  # noqa: S608 - no value is in it
        f"SELECT {picked}{values} FROM json_each(:rows)"
    )


ADD_EVENTS: Final = _insertion("event", _EVENT_COLUMNS, fixed=", run", values=", :run")
#: An item that is sent anew may ask for something else than before. (Without "WHERE" the parser
#: takes "ON" for that of a join.)
ADD_REQUESTS: Final = _insertion("request", _REQUEST_COLUMNS) + (
    " WHERE true ON CONFLICT (id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _REQUEST_COLUMNS.split(", ")[2:])
)

#: The items whose fate a dead process left open, with what the table of states makes of them.
_CUT_SHORT: Final = {
    state: advance(state, Event.INTERRUPTED) for state in (State.SUBMITTING, State.FETCHING)
}
INTERRUPT: Final = f"""
INSERT INTO event ({_EVENT_COLUMNS}, run)
SELECT :now, last.item, '{Event.INTERRUPTED}',
    CASE last.state {" ".join(f"WHEN '{a}' THEN '{b}'" for a, b in _CUT_SHORT.items())} END,
    last.request_id, last.attempts, last.polls, last.seconds, last.cost_usd, last.path, last.size,
    last.sha256, last.error_type, last.error, last.open_usd, last.earlier_usd, last.is_delivered,
    :run
FROM request JOIN event AS last ON last.id = (SELECT max(id) FROM event WHERE item = request.id)
WHERE last.state IN ({", ".join(f"'{state}'" for state in _CUT_SHORT)})
"""  # noqa: S608 - names of states, no value

#: Spent for certain, and what may be billed without anybody having said how much. Rounded: sums of
#: floats have crumbs, and 0.30000000000000004 would not fit under a ceiling of 0.30.
TOTALS: Final = """
SELECT round(coalesce(sum(cost_usd), 0), 6), round(coalesce(sum(open_usd), 0), 6) FROM item
"""

OWNERS: Final = """
SELECT request_id, key FROM item WHERE request_id IN (SELECT value FROM json_each(?))
"""

FIND: Final = f"""
SELECT request.key, request.fingerprint, {_EVENT_COLUMNS}
FROM request JOIN event ON event.item = request.id
WHERE request.key IN (SELECT value FROM json_each(?))
ORDER BY event.id
"""  # noqa: S608 - names of columns, no value

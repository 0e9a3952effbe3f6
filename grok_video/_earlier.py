"""What earlier runs left of an item, told as the outcome of this one; what may follow it.

What the ledger has goes in, an outcome or a refusal comes out; nothing here waits or writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from grok_video._arguments import refuse
from grok_video._errors import (
    CreateOutcomeUnknown,
    GrokVideoError,
    JobExpired,
    JobFailed,
    ModerationRefused,
    reword,
)
from grok_video._lifecycle import State
from grok_video._models import Video
from grok_video._outcomes import OutcomeState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grok_video._batchsettings import Settings
    from grok_video._entry import Entry
    from grok_video._outcomes import Outcome


#: Errors of jobs that can be told again by what the ledger has of them.
_KINDS: Final = {kind.__name__: kind for kind in (JobFailed, ModerationRefused, JobExpired)}


def check_ids(
    ids: Mapping[str, str], known: Mapping[str, Entry], owners: Mapping[str, str]
) -> None:
    """Raise `InvalidRequest` for the first id that cannot be its item's, by what the ledger has."""
    for key, found in ids.items():
        entry = known.get(key)
        if entry is not None and entry.request_id == found:
            continue  # the same call again
        limit = None
        owner = owners.get(found)
        if entry is None:
            limit = f"must be for items in doubt, and the ledger has none of the key {key!r}"
        elif entry.state is not State.IN_DOUBT and not _is_correctable(entry):
            has = f" (job {entry.request_id})" if entry.request_id is not None else ""
            limit = f"must be for items in doubt, and {key!r} is {entry.state.value}{has}"
        elif owner not in (None, key):
            # Two that were mixed up are set right together, and neither before.
            rival = known.get(owner) if owner in ids else None
            if rival is None or not _is_correctable(rival):
                limit = f"must not take an id from another item: {owner!r} has this one"
                if rival is None:
                    limit += f" (if it was mixed up, give {owner!r} its own one as well)"
        if limit is not None:
            raise refuse("found_ids", {key: found}, limit)


def _is_correctable(entry: Entry) -> bool:
    """Return whether a person gave the item its id, and may give it another one."""
    return entry.state is State.PENDING and entry.id_was_found


def is_sent_again(entry: Entry, settings: Settings) -> bool:
    """Return whether a person's decision has an item sent again with which an earlier run ended.

    Nothing of that is noted before the create goes: one that does not leaves the item as it is.
    """
    if entry.state is State.IN_DOUBT:
        # With an id that a person found it goes on as the job that it is.
        return settings.resubmit_in_doubt and entry.key not in settings.found_ids
    # What was refused for good would be again, and perhaps billed.
    return settings.retry_failed and entry.is_retryable


def _doubt(entry: Entry) -> str:
    """Return why an item is in doubt, once: what was written down may say all of it already."""
    if entry.error is not None and entry.error_type == CreateOutcomeUnknown.__name__:
        return entry.error
    return (
        "the create may have been accepted and billed, and no request_id is known: "
        f"{entry.error or 'the process that sent it ended before the answer came.'} Look at the "
        "account's usage before sending the same request again."
    )


def _error(entry: Entry) -> GrokVideoError:
    """Return the error of an item that is in doubt, or ended without a video."""
    if entry.state is State.IN_DOUBT:
        return entry.unknown(
            f"{_doubt(entry)} With an id from there give found_ids; to send it again, "
            "resubmit_in_doubt."
        )
    again = "It is tried again only with retry_failed."
    if not entry.is_retryable:
        again = "It is not tried again: give another request, under another key."
    message = f"an earlier run ended with {entry.error_type}: {entry.error} {again}"
    kind = _KINDS.get(entry.error_type or "")
    if kind is None or entry.request_id is None:
        # Of an answer that refused there is more to know than was written down.
        return GrokVideoError(message, request_id=entry.request_id)
    return kind(message, request_id=entry.request_id)


def earlier_video(entry: Entry) -> Video:
    """Return the video of an item as the ledger has it; its link is long gone."""
    return Video(
        entry.request_id or "",
        None,
        cost_usd=entry.cost_usd,
        path=Path(entry.path) if entry.path is not None else None,
        sha256=entry.sha256,
        size=entry.size,
    )


def not_sent_again(entry: Entry, reason: str) -> GrokVideoError:
    """Return the error of an item that a person let be sent again, and that is what it was."""
    error = _error(entry)
    reword(error, f"{error.message} Nothing came of sending it again: {reason}")
    return error


def earlier_outcome(entry: Entry, *, is_changed: bool) -> Outcome:
    """Return the outcome of an item with which an earlier run came to an end."""
    video = error = None
    match entry.state:
        case State.FAILED | State.EXPIRED | State.IN_DOUBT:
            state = OutcomeState(entry.state.value)
            error = _error(entry)
        case State.READY if entry.is_elsewhere and not entry.was_told:
            state = OutcomeState.DONE
            video = earlier_video(entry)
        case _:
            state = OutcomeState.SKIPPED
            video = earlier_video(entry)
    return entry.outcome(state, video=video, error=error, is_changed=is_changed)

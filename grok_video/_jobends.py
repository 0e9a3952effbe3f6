"""What a job that ended without a video is told as: which error, and what its reader may do now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grok_video._errors import JobError, JobExpired, JobFailed, ModerationRefused
from grok_video._models import JobStatus

if TYPE_CHECKING:
    from grok_video._models import Snapshot

__all__ = ["outcome_error"]


def outcome_error(snapshot: Snapshot, *, may_be_uploaded: bool) -> JobError:
    """Return the error that a job which ended without a video is.

    `may_be_uploaded` says that its create may have asked for `output.upload_url`, for all we know.
    """
    name = snapshot.request_id
    reason = snapshot.error.message.rstrip(".") if snapshot.error is not None else "no reason given"
    code = snapshot.error.code if snapshot.error is not None else None
    label = f" [{code}]" if code else ""
    if snapshot.status is JobStatus.EXPIRED:
        return JobExpired(
            f"job {name} has expired at the provider: {reason}. Its video cannot be fetched any "
            "more; a new create costs again.",
            request_id=name,
            snapshot=snapshot,
        )
    if snapshot.error is not None and snapshot.error.moderated:
        return ModerationRefused(
            f"job {name} was refused by content moderation{label}: {reason}. The same input will "
            "be refused again, and the attempt may be billed.",
            request_id=name,
            snapshot=snapshot,
            code=code,
            reason=reason,
        )
    end = "There is no link to a video; a new create costs again."
    if snapshot.error is not None and snapshot.error.rendered:
        # Whoever is told to pay once more here may have the video, and has paid for it.
        end = "It was rendered, and may be billed as any video."
        if may_be_uploaded:
            end += (
                " If its create asked for output.upload_url, pass uploaded=True: then it is done."
            )
    return JobFailed(
        f"job {name} failed{label}: {reason}. {end}",
        request_id=name,
        snapshot=snapshot,
        code=code,
        reason=reason,
    )

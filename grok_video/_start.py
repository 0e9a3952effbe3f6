"""A create that becomes a job the moment it is accepted, and tells the caller's function of it.

What must never happen here: a create, for somebody who is to wait for its video, while the server
lets nobody ask for it in that time.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from grok_video._errors import RateLimited
from grok_video._job import AsyncJob
from grok_video._lifecycle import Event
from grok_video._transports._loops import current_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from grok_video._policies import Deadline
    from grok_video._requests import VideoRequest
    from grok_video._session import Session

__all__ = ["Start"]


class Start:
    """What is told of each step of the create.

    A class, because thousands of creates may wait, and a function inside another would hold five
    objects for each.
    """

    __slots__ = ("_has_begun", "_on_submitted", "_request", "_session", "_wait", "job")

    def __init__(
        self,
        session: Session,
        request: VideoRequest,
        on_submitted: Callable[[AsyncJob], object] | None,
        wait: Deadline | None,
    ) -> None:
        """See the class; `wait` is how long the same call then waits for the video, if it does."""
        self._session = session
        self._request = request
        self._on_submitted = on_submitted
        self._wait = wait
        self._has_begun = False
        self.job: AsyncJob | None = None

    async def __call__(self, event: Event, request_id: str | None) -> None:
        if event is Event.SENDING_BEGAN:
            self.require_polls()  # news may have come while it stood in line
            self._has_begun = True
        elif event is Event.ACCEPTED and request_id is not None:
            self.job = AsyncJob(self._session, request_id, self._request)
            if self._on_submitted is not None:
                told = self._on_submitted(self.job)
                # A job can be awaited as well: who hands it back does not ask for its end.
                if inspect.isawaitable(told) and not isinstance(told, AsyncJob):
                    await told

    def require_polls(self) -> None:
        """Raise `RateLimited` if the server wants no poll until the wait for the video is over."""
        if self._wait is None:
            return
        blocked_until = self._session.polls_blocked_until()
        if blocked_until <= self._wait.at:
            return
        pause = blocked_until - current_time()
        unsent = "it was not sent again" if self._has_begun else "nothing was sent"
        raise RateLimited(
            f"the server asks for no poll in the next {pause:.0f} s, which is past the end of this "
            f"call of {self._wait.timeout:g} s: nobody would wait for the video, so {unsent}. "
            "Call again then, or with a longer timeout; submit() sends it now.",
            status=429,
            retry_after=pause,
        )

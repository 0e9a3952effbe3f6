"""The wait for one job: who polls when, and what a failed poll means.

Many may wait on one job and only one polls: each waiter sleeps until the next poll is due, and
whoever wakes first then asks for all of them. If that one is cancelled, the next one takes over;
there is no background task that could be lost. Every wait has a deadline, with its last poll
inside it, and every error has the request_id.
"""

from __future__ import annotations

import contextlib
import math
from copy import copy
from os import getpid
from typing import TYPE_CHECKING, Final
from weakref import WeakMethod

from grok_video._errors import (
    APIError,
    GrokVideoError,
    JobError,
    JobTimeout,
    resume_hint,
    reword,
)
from grok_video._jobends import outcome_error
from grok_video._lifecycle import is_unknown, passes_until
from grok_video._log import life, logger
from grok_video._models import JobStatus, Snapshot, Video
from grok_video._policies import NO_END, poll_pause
from grok_video._polling import Watch
from grok_video._session import TooLate
from grok_video._tracing import span
from grok_video._transports._loops import Bell, current_time, goes_on, loop_of_asyncio

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from grok_video._policies import Deadline
    from grok_video._requests import VideoRequest
    from grok_video._session import Heard, Session

#: Bytes of an answer that are kept to compare the next one with; recorded ones have up to 600.
_WORTH_KEEPING: Final = 4096
#: Seconds after which those who wait for another's poll look whether its loop still runs: one that
#: was stopped tells nobody. Most polls are answered in half a second.
_LOOK_AGAIN: Final = 5.0


class Poller:
    """What is known of one job, and the way to know more."""

    def __init__(
        self,
        session: Session,
        request_id: str,
        request: VideoRequest | None = None,
        *,
        age: float = 0.0,
        is_delivered: bool | None = None,
    ) -> None:
        """See the class; `age` is seconds since the create, for a job that is taken up again.

        `is_delivered` says whether that create asked for `output.upload_url`; None as `request`.
        """
        self.session = session
        self.request_id = request_id
        self._url = session.poll_url(request_id)
        #: What the last poll said; None before the first.
        self.snapshot: Snapshot | None = None
        self._heard: Heard | None = None
        #: True where the create was made here: its time, length and size are known.
        self.made_here = request is not None
        self._delivered_elsewhere = request is not None and request.is_delivered
        if is_delivered is not None:
            self._delivered_elsewhere = is_delivered
        self._watch = Watch(
            duration=request.duration if request is not None else None,
            resolution=request.resolution if request is not None else None,
            model=request.model if request is not None else None,
            age_known=request is not None,
        )
        #: When the create was, or at the first use of a handle made from an id.
        self._since: float | None = None
        self._last_pending: float | None = None
        #: When the next poll is due, and before when the server wants none of this job.
        self._due = -math.inf
        self._not_before: float = -math.inf
        self._polled_at = -math.inf
        #: How long answers were believed to take when the last poll began.
        self._believed = session.round_trip
        self._polls = 0
        self._failures = 0
        self._passing_error: GrokVideoError | None = None
        #: The last error that ended a poll for good, another object each time and without frames.
        self._refusal: APIError | None = None
        #: When a poll last told something new: another status, another progress.
        self._changed_at = -math.inf
        #: While someone polls: in which loop (None on trio) of which process; others wait.
        self._asker: tuple[AbstractEventLoop | None, int] | None = None
        #: True while that poll has its turn: before, nothing is lost with it.
        self.is_on_its_way = False
        #: Who is told of the end, as long as they are there.
        self._followers: dict[WeakMethod[Callable[[Poller], None]], None] = {}
        self._news = Bell()
        if request is not None:
            self._changed_at = current_time()
            self._since = self._changed_at - age
            if not age:  # a job taken up again may be long over: its first poll is due at once
                self._plan_next_poll(self._since, 0.0)

    @property
    def polls(self) -> int:
        """How many polls were answered or failed in passing."""
        return self._polls

    def take_over(self, other: Poller) -> None:
        """Know what the poller of the same job in a parent process knew at the fork."""
        self.snapshot, self.made_here = other.snapshot, other.made_here
        self._delivered_elsewhere = other._delivered_elsewhere
        self._watch, self._since, self._due = other._watch, other._since, other._due
        self._changed_at, self._not_before = other._changed_at, other._not_before

    @property
    def is_finished(self) -> bool:
        # Derived: other threads look on, and must see no end before its snapshot is there.
        return self.snapshot is not None and self.snapshot.status.is_terminal

    def video(self) -> Video:
        """Return the finished job's video, or raise what it ended with, fresh for each caller."""
        snapshot = self.snapshot
        assert snapshot is not None  # noqa: S101 - for the type checker: the job is finished
        if snapshot.video is not None:
            return snapshot.video
        is_upload_known = self.made_here or self._delivered_elsewhere
        raise outcome_error(snapshot, may_be_uploaded=not is_upload_known)

    async def wait(self, deadline: Deadline) -> Video:
        """Return the video once the job is done. Raises as `AsyncJob.result` says."""
        with span("wait", request_id=self.request_id) as told:
            now = began = current_time()
            while not self.is_finished:
                now = await self.step(deadline, began, now)
            told.note(polls=self._polls)
            return self.video()

    async def refresh(self, deadline: Deadline = NO_END) -> Snapshot:
        """Return what the API says now, from exactly one GET, sent once the server wants one.

        Raises `JobTimeout` if it has not said it until then.
        """
        now = current_time()
        while (self._asker is not None or now < self._not_before) and now < deadline.at:
            if self._is_asked():
                await self._news.wait_until(min(deadline.at, now + _LOOK_AGAIN), self._is_answered)
            elif now < self._not_before and not self.session.lifetime.is_over:
                await self.session.lifetime.sleep_until(min(deadline.at, self._not_before))
            else:
                break
            now = current_time()
        if now >= deadline.at:
            raise self._timeout(deadline)
        if self._since is None:
            self._begin(now)
        try:
            await self._poll(now, deadline)
        except TooLate as late:
            error = self._timeout(deadline, had_turn=late.had_turn)
            raise error from error.__cause__
        assert self.snapshot is not None  # noqa: S101 - for the type checker: it was just polled
        return self.snapshot

    async def fresh_video(self) -> Video:
        """Return the video with a fresh link, from exactly one GET; for links that died.

        That is a poll as any other, sent no earlier than the server asked: the deadline of the
        download ends its wait.
        """
        await self.refresh()
        if not self.is_finished:
            message = f"job {self.request_id} was done and now says that it is not"
            raise JobError(message, request_id=self.request_id, snapshot=self.snapshot)
        return self.video()

    def due_within(self, deadline: Deadline) -> float:
        """Return when the next poll of a wait with this deadline starts.

        That is long ago where there is nothing to wait for: the client is closed, or the server
        wants no poll before the deadline.
        """
        blocked_until = self.blocked_until
        if self.session.lifetime.is_over or blocked_until > deadline.at:
            return -math.inf
        last = deadline.last_poll_at(self.session.round_trip)
        return max(min(self._due, last, self._stalled_at()), blocked_until)

    async def step(
        self, deadline: Deadline, since: float = -math.inf, now: float | None = None
    ) -> float:
        """Return once the job was polled once more, by this task or another: what time it is then.

        `now` is what time it is, for who knows. Raises `JobTimeout` at the deadline, or before it
        where no poll fits in any more, and where a poll later than `since` found that the job has
        stalled.
        """
        seen, refusal, session = self._polls, self._refusal, self.session
        if now is None:
            now = current_time()
        while self._polls == seen:
            if self._refusal is not None and self._refusal is not refusal:
                # Another's poll was refused meanwhile: asked one by one, each would hear the same.
                raise self._with_a_way_on(copy(self._refusal))
            if self._since is None:
                self._begin(now)
            blocked_until = self.blocked_until
            if blocked_until > deadline.at:
                raise self._timeout(deadline, wish=blocked_until - now)
            if now >= deadline.at:
                raise self._timeout(deadline)
            if self._asker is not None and self._is_asked():
                await self._news.wait_until(min(deadline.at, now + _LOOK_AGAIN), self._is_answered)
                now = current_time()
                continue
            stalled_at = self._stalled_at()
            if self._polled_at >= stalled_at and self._polled_at >= since:
                raise self._stalled(now)
            believed = session.round_trip
            last = deadline.last_poll_at(believed)
            if self._polled_at >= deadline.last_poll_at(self._believed):
                raise self._timeout(deadline)
            due = max(min(self._due, last, stalled_at), blocked_until)
            if now < due and not session.lifetime.is_over:
                asked_at = self._polled_at
                await session.lifetime.sleep_until(due, self._news)
                now = current_time()
                asked = self._asker is not None
                woken = asked or self._polls != seen or self._polled_at != asked_at
                if woken or now < due or now < self.blocked_until or now >= deadline.at:
                    continue
            self._believed = believed
            try:
                now = await self._poll(now, deadline)
            except TooLate as late:
                error = self._timeout(deadline, had_turn=late.had_turn)
                raise error from error.__cause__
            except GrokVideoError as error:
                now, passes = current_time(), passes_until(error)
                if self._age(now) < passes:
                    self._bear(error, now, passes)
                    continue
                self._with_a_way_on(error)
                raise
        return now

    def _with_a_way_on(self, error: GrokVideoError) -> GrokVideoError:
        """Return the error of a poll that ends a wait, worded so that it says how to go on."""
        error.request_id = self.request_id  # a closed client's has none
        is_mistyped = self._may_be_mistyped and is_unknown(error)
        error.resume = "" if is_mistyped else self._resume
        reword(error, f"{error.message} {error.resume}")
        return error

    def _bear(self, error: GrokVideoError, now: float, passes: float) -> None:
        """Take a failed poll that says nothing about the job as one more reason to wait.

        At the age `passes` it would say something, and one is due then.
        """
        self._failures += 1
        # Without its frames, which hold this.
        self._passing_error = error.with_traceback(None)
        delay = self.session.retry.poll_delay(error, self._failures, self.session.random)
        self._due = now + min(delay, passes - self._age(now))
        logger.info("poll of job %s failed in passing: %s", self.request_id, error)
        self._polls += 1

    async def _poll(self, now: float, deadline: Deadline) -> float:
        """Poll once, nobody else does meanwhile; return when the answer was here.

        Raises `TooLate` as `Session.poll` does.
        """
        self._asker = asker = loop_of_asyncio(), getpid()
        before, self._polled_at = self._polled_at, now
        try:
            heard, ended, hint = await self.session.poll(
                self._url,
                self.request_id,
                now,
                self._heard,
                asker=self,
                until=deadline,
                delivered_elsewhere=self._delivered_elsewhere,
            )
            self._heard = heard if len(heard.body) < _WORTH_KEEPING else None
            self._accept(heard.snapshot, ended, hint)
        except GrokVideoError as error:
            if (pause := poll_pause(error)) is not None:
                self._not_before = current_time() + pause
            if isinstance(error, APIError) and passes_until(error) <= self._age(current_time()):
                self._refusal = copy(error)  # before they are told that the poll is over
            raise
        except BaseException:
            if self._asker is asker:
                self._polled_at = before  # broken off, or too late: nothing was heard
            raise
        finally:
            # However it ended: the others go on, and if this task was cancelled, one takes over.
            # Unless one has: this one's loop was stopped meanwhile.
            if self._asker is asker:
                self._asker = None
                self.is_on_its_way = False
            self._news.ring()
            if self._followers and self.is_finished:
                self._tell_followers()
        return ended

    def follow(self, follower: Callable[[Poller], None]) -> None:
        """From now on the follower, a method, is called once the job has ended.

        That is in whichever thread learns it, and as long as somebody holds the method's object.
        """
        for one in self._followers.copy():
            if one() is None:
                self._followers.pop(one, None)
        self._followers[WeakMethod(follower)] = None

    def _tell_followers(self) -> None:
        # One at a time, as other threads may do the same, or have new ones follow.
        while self._followers:
            with contextlib.suppress(KeyError):
                one, _ = self._followers.popitem()
                if (follower := one()) is not None:
                    follower(self)

    def _accept(self, snapshot: Snapshot, now: float, hint: float | None) -> None:
        self._failures = 0
        self._passing_error = None
        elapsed = self._age(now)
        was_finished = self.is_finished
        was_running = self.snapshot is not None and not was_finished
        if self.snapshot is not snapshot and not self.snapshot == snapshot:  # noqa: SIM201 - quicker
            self._changed_at = now
        self.snapshot = snapshot
        if not snapshot.status.is_terminal:
            self._watch.note(elapsed, snapshot.progress, hint)
            self._last_pending = elapsed
            self._plan_next_poll(now, elapsed)
        elif not was_finished:
            if snapshot.status is JobStatus.DONE:
                self._learn(elapsed)
            if self.made_here or was_running:
                # Not for each handle that is made of an id when the job has long ended.
                word, polls = snapshot.status.value, self._polls + 1
                life.info("job %s is %s after %d polls", self.request_id, word, polls)
        self._polls += 1

    def _learn(self, elapsed: float) -> None:
        session = self.session
        if session.polling.adaptive:  # a fixed interval never asks what was learned
            session.experience.record(self._watch, self._last_pending, elapsed)

    def _plan_next_poll(self, now: float, elapsed: float) -> None:
        self._due = now + self.session.polling.next_delay(
            self._watch, elapsed, self.session.experience, self.session.random
        )

    def _begin(self, now: float) -> None:
        """Start counting, at the first use."""
        self._since = self._changed_at = now

    def _age(self, now: float) -> float:
        """Return the seconds since the create, or since the first use of a handle from an id."""
        return max(0.0, now - self._since) if self._since is not None else 0.0

    def _is_answered(self) -> bool:
        return not self._is_asked()

    def _is_asked(self) -> bool:
        """Return whether someone polls whose poll will come to an end, here in this process."""
        asker = self._asker  # once: other threads go on meanwhile
        return asker is not None and asker[1] == getpid() and goes_on(asker[0])

    @property
    def blocked_until(self) -> float:
        """Before this the server wants no poll: of this job, or of any."""
        return max(self._not_before, self.session.polls_blocked_until())

    def _stalled_at(self) -> float:
        """Return when a wait gives up on a job that shows nothing new, if a poll finds it so."""
        patience = self.session.polling.stalled_after
        return math.inf if patience is None else self._changed_at + patience

    def _stalled(self, now: float) -> JobTimeout:
        silence = now - self._changed_at
        error = JobTimeout(
            f"job {self.request_id} is {self._words()} and has shown nothing new for {silence:.0f} "
            f"s (stalled_after={self.session.polling.stalled_after:g}); it may go on and may be "
            f"billed. {self._resume}",
            request_id=self.request_id,
            snapshot=self.snapshot,
            stalled_for=silence,
        )
        error.resume = self._resume
        error.__cause__ = self._passing_error
        return error

    @property
    def _resume(self) -> str:
        """The sentence that says how to go on, for whoever does not know what the create asked."""
        return resume_hint(self.request_id, uploaded=self._delivered_elsewhere)

    @property
    def _may_be_mistyped(self) -> bool:
        """True as long as nothing has shown that there is such a job."""
        return not self.made_here and self.snapshot is None

    def _words(self) -> str:
        """Return the state and the progress for a sentence."""
        if self.snapshot is None:
            return "of unknown state"
        progress = self.snapshot.progress
        shown = f" ({progress:g} %)" if progress is not None else ""
        return self.snapshot.status.value + shown

    def _timeout(
        self, deadline: Deadline, *, wish: float | None = None, had_turn: bool = True
    ) -> JobTimeout:
        after = f"after {deadline.timeout:g} s"
        said = f"is still {self._words()} {after}; it goes on and may be billed."
        failure = self._passing_error
        if wish is not None:
            said = (
                f"is {self._words()}, and the server asks for no poll in the next {wish:.0f} s, "
                f"which is past the end of this wait of {deadline.timeout:g} s; it goes on and may "
                "be billed."
            )
        elif failure is not None and self._may_be_mistyped and is_unknown(failure):
            said = (
                f"is not known to the API {after}; check the id, or ask again, as a new job may "
                "be unknown for half a minute."
            )
        else:
            if failure is not None:
                said += f" The last poll failed: {failure.message.rstrip('.')}."
            if not had_turn:
                said += (
                    " The next had no turn in time: other polls of this client took what its "
                    "limits, or the server, let it send."
                )
        error = JobTimeout(
            f"job {self.request_id} {said} {self._resume}",
            request_id=self.request_id,
            snapshot=self.snapshot,
        )
        error.resume = self._resume
        error.__cause__ = self._passing_error
        return error

"""Jobs in the order in which they finish, from one pump and no task that outlives a step.

Each step starts only the polls that are due (a heap knows which) and returns when some job is
finished, so 10,000 jobs cost one timer. What another waiter learns is heard as well. Nothing is
yielded while a task group is open: a consumer that stops in the middle leaves nothing behind.
"""

from __future__ import annotations

import heapq
import inspect
import math
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.lowlevel

from grok_video._arguments import refuse, require_seconds
from grok_video._errors import (
    GrokVideoError,
    JobTimeout,
    add_note,
    going_on_note,
    resume_hint,
)
from grok_video._job import AsyncJob, poller_of
from grok_video._policies import Deadline
from grok_video._transports._loops import Bell, current_time

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from grok_video._poller import Poller

#: Seconds for which polls on their way keep back a job that has finished: most answers are here in
#: half a second, and one that hangs may take a minute.
_PATIENCE: Final = 2.0
#: Steps of one client that may stand in line for their turn: each costs a task, and is called off
#: and begun anew whenever some job has finished.
_IN_LINE: Final = 16
#: Seconds between two looks at those who stand in line, while others are due behind them.
_LOOK: Final = 0.1


class Completion:
    """Gives each job once it is finished.

    An iterator and not a generator: a loop over it may be left in the middle, and there is
    nothing to close.
    """

    def __init__(self, jobs: Iterable[AsyncJob], timeout: float | None) -> None:
        self.jobs: list[AsyncJob] = _checked(jobs)
        self._timeout = timeout
        self._pump: _Pump | None = None
        self._ready: deque[AsyncJob] = deque()
        require_seconds("timeout", timeout)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AsyncJob:
        if self._pump is None:
            deadline = Deadline.after(current_time(), self._timeout)
            self._pump = _Pump(self.jobs, deadline)
        if not self._ready:
            if not self._pump.is_open:
                raise StopAsyncIteration
            try:
                self._ready.extend(await self._pump.next_finished())
            except anyio.get_cancelled_exc_class() as error:
                if ids := self._pump.waiting:
                    add_note(error, going_on_note(ids))
                raise
        return self._ready.popleft()


def require_many(jobs: object) -> None:
    """Return if these may be jobs. Raises `InvalidRequest` for what is no iterable of them."""
    if not isinstance(jobs, Iterable) or isinstance(jobs, str | bytes):
        raise refuse("jobs", jobs, "must be an iterable of jobs, such as a list")


def _checked(jobs: Iterable[AsyncJob]) -> list[AsyncJob]:
    require_many(jobs)
    given = list(jobs)
    for job in given:
        if inspect.iscoroutine(job):
            job.close()  # refused below: nobody will ever await it
    for job in given:
        if not isinstance(job, AsyncJob):
            how = "await client.submit(...) first"
            if not inspect.isawaitable(job):
                how = "client.job(request_id) makes one from an id"
            raise refuse("jobs", job, f"must hold jobs ({how})")
    return list(dict.fromkeys(given))


class _Line:
    """The jobs of one client: when each is due, and how many are being asked about."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: (due, tie-breaker, poller): the number keeps the heap from comparing pollers.
        self.waiting: list[tuple[float, int, Poller]] = []
        #: Steps under way, each with what calls it off.
        self.steps: dict[Poller, anyio.CancelScope] = {}

    @property
    def has_room(self) -> bool:
        """True as long as one more step would not only stand in line behind the others."""
        if len(self.steps) >= self._most:
            return False
        return sum(not poller.is_on_its_way for poller in self.steps) < _IN_LINE

    @property
    def due(self) -> float:
        """When the next step may begin, as far as that is known now."""
        return self.waiting[0][0] if self.waiting and self.has_room else math.inf

    @property
    def next_look(self) -> float:
        """When to look again whether a step may begin, if nothing is heard before."""
        if self.waiting and not self.has_room and len(self.steps) < self._most:
            # Those in line have their turns without a word, and make room with that.
            return max(self.waiting[0][0], current_time() + _LOOK)
        return self.due

    def call_off(self) -> None:
        """Let no step keep back what has finished, for longer than its answer takes."""
        for poller, scope in self.steps.items():
            if poller.is_on_its_way:
                # Cut off, it would cost its connection.
                patience = max(_PATIENCE, 2.0 * poller.session.round_trip)
                scope.deadline = anyio.current_time() + patience
            else:
                scope.cancel()


class _Pump:
    def __init__(self, jobs: list[AsyncJob], deadline: Deadline) -> None:
        self._deadline = deadline
        self._began = current_time()
        self._finished: list[AsyncJob] = []
        #: Jobs that were not given yet, each with its number, in the order in which they came.
        self._left: dict[Poller, tuple[int, AsyncJob]] = {
            poller_of(job): (number, job) for number, job in enumerate(jobs)
        }
        #: Of these, the ones whose end was not heard: whoever takes one out has heard it.
        self._unheard = dict.fromkeys(self._left)
        #: Jobs that need no more polls in this wait, each with why.
        self._given_up: dict[Poller, JobTimeout] = {}
        self._news = Bell()
        sessions = {poller.session for poller in self._left}
        self._lines = {session: _Line(session.limits.connections) for session in sessions}
        #: Of the clients whose jobs are waited for, as long as they are open.
        self._open = {session.lifetime for session in sessions}
        for poller in list(self._left):
            # Others may wait for it too, and hear of its end before.
            poller.follow(self._hear)
            if poller.is_finished:
                self._hear(poller)
            else:
                self._plan(poller)

    @property
    def is_open(self) -> bool:
        return bool(self._left or self._finished)

    @property
    def waiting(self) -> list[str]:
        """The ids of the jobs that were not given, in the order in which they came."""
        return [poller.request_id for poller in list(self._left)]

    async def next_finished(self) -> list[AsyncJob]:
        """Return the jobs that finished since the last call, waiting for the first of them.

        Raises `StopAsyncIteration` if there are none left, and `JobTimeout` if no more can be had.
        """
        while not self._finished:
            if not self._left:
                raise StopAsyncIteration
            if self._is_given_up:
                raise self._timeout()
            await self._run_until_one_finishes()
        found, self._finished = self._finished, []
        return found

    @property
    def _is_given_up(self) -> bool:
        return len(self._given_up) >= len(self._left)

    async def _run_until_one_finishes(self) -> None:
        async with anyio.create_task_group() as tasks:
            while not self._finished and not self._is_given_up:
                self._heed_closing()
                started = [self._start_steps(line, tasks) for line in self._lines.values()]
                if any(started):
                    await anyio.lowlevel.checkpoint()  # then it shows which of them stand in line
                    continue
                await self._sleep_until(min(line.next_look for line in self._lines.values()))
            for line in self._lines.values():
                line.call_off()

    def _start_steps(self, line: _Line, tasks: TaskGroup) -> bool:
        """Start the steps that are due, a few at a time; return whether there were any."""
        now, started = current_time(), False
        while line.due <= now:
            _, _, poller = heapq.heappop(line.waiting)
            if poller not in self._unheard:
                continue
            if poller.due_within(self._deadline) > now:
                self._plan(poller)  # somebody else has heard to wait longer
                continue
            line.steps[poller] = anyio.CancelScope()
            tasks.start_soon(self._step, line, poller)
            started = True
        return started

    def _heed_closing(self) -> None:
        """Plan the jobs of a client that was closed meanwhile for now: each will say so."""
        over = {lifetime for lifetime in self._open if lifetime.is_over}
        if over:
            self._open -= over
            for line in self._lines.values():
                entries, line.waiting = line.waiting, []
                for _, _, poller in entries:
                    self._plan(poller)

    async def _sleep_until(self, due: float) -> None:
        watches = [(lifetime, lifetime.watch(self._news)) for lifetime in self._open]
        try:
            await self._news.wait_until(due, unless=self._has_news)
        finally:
            for lifetime, watch in watches:
                lifetime.forget(watch)

    def _has_news(self) -> bool:
        return bool(self._finished) or any(lifetime.is_over for lifetime in self._open)

    async def _step(self, line: _Line, poller: Poller) -> None:
        try:
            with line.steps[poller]:
                if not poller.is_finished:
                    await poller.step(self._deadline, self._began)
            if poller.is_finished:
                self._hear(poller)
        except JobTimeout as error:
            if error.stalled_for is not None:
                self._hear(poller)  # its own trouble, as below
            else:
                self._given_up[poller] = error
                if poller not in self._unheard:  # another thread heard of its end just now
                    self._given_up.pop(poller, None)
        except GrokVideoError:
            # The API refuses to say (401, 404): this job's own trouble, told by its `result()`.
            self._hear(poller)
        finally:
            del line.steps[poller]
            # Also if it was called off, or whoever waits was cancelled: they may come again.
            if poller not in self._given_up:
                self._plan(poller)
            self._news.ring()

    def _hear(self, poller: Poller) -> None:
        """A job has come to an end; perhaps in another thread."""
        if self._unheard.pop(poller, self) is None:
            # At each moment it is among those that are left, or among those that have finished.
            self._finished.append(self._left[poller][1])
            self._given_up.pop(poller, None)
            del self._left[poller]
            self._news.ring()

    def _plan(self, poller: Poller) -> None:
        found = self._left.get(poller)
        if found is not None and poller in self._unheard:
            entry = (poller.due_within(self._deadline), found[0], poller)
            heapq.heappush(self._lines[poller.session].waiting, entry)

    def _timeout(self) -> JobTimeout:
        left = dict(self._left)  # other threads go on meanwhile
        jobs = [job for _, job in left.values()]
        ids = ", ".join(job.request_id for job in jobs[:20])
        more = f" and {len(jobs) - 20} more" if len(jobs) > 20 else ""
        count = "1 job is" if len(jobs) == 1 else f"{len(jobs)} jobs are"
        now, timeout = current_time(), self._deadline.timeout
        blocked = min(poller.blocked_until for poller in left)
        when = f"after {timeout:g} s"
        if blocked > self._deadline.at:
            when = (
                f"and the server asks for no poll in the next {blocked - now:.0f} s, which is past "
                f"the end of this wait of {timeout:g} s"
            )
        return JobTimeout(
            f"{count} still running {when} ({ids}{more}); what runs goes on and may be billed. "
            f"{resume_hint(jobs[0].request_id)}",
            request_id=jobs[0].request_id,
            snapshot=jobs[0].snapshot,
            pending=tuple(job.request_id for job in jobs),
        )

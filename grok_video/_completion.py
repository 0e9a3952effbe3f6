"""Jobs in the order in which they finish, from one pump and no task that outlives a step.

Each step starts only the polls that are due (a heap knows which) and returns when some job is
finished, so 10,000 jobs cost one timer. Nothing is yielded while a task group is open: a consumer
that stops in the middle leaves nothing behind.
"""

from __future__ import annotations

import heapq
import inspect
import math
from collections import deque
from collections.abc import Iterable
from typing import Self

import anyio

from grok_video._errors import (
    GrokVideoError,
    JobTimeout,
    add_note,
    going_on_note,
    resume_hint,
)
from grok_video._job import AsyncJob, poller_of
from grok_video._policies import Deadline
from grok_video._requests import refuse, require_positive
from grok_video._transports._loops import Bell, current_time


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
        if timeout is not None:
            require_positive("timeout", timeout, "must be a number of seconds above 0, or None")

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


class _Pump:
    def __init__(self, jobs: list[AsyncJob], deadline: Deadline) -> None:
        self._deadline = deadline
        self._jobs = jobs
        self._finished = [job for job in jobs if job.is_finished]
        #: (due, tie-breaker, job): the number keeps the heap from comparing jobs.
        self._waiting: list[tuple[float, int, AsyncJob]] = []
        for number, job in enumerate(jobs):
            if not job.is_finished:
                self._plan(number, job)
        self._in_flight = 0
        self._timed_out = False
        self._news = Bell()
        #: Of the clients whose jobs are waited for, as long as they are open.
        self._open = {poller_of(job).session.lifetime for _, _, job in self._waiting}

    @property
    def is_open(self) -> bool:
        return bool(self._finished or self._waiting)

    @property
    def waiting(self) -> list[str]:
        """The ids of the jobs that are not finished, in the order in which they were given."""
        return [job.request_id for job in self._jobs if not job.is_finished]

    async def next_finished(self) -> list[AsyncJob]:
        """Return the jobs that finished since the last call, waiting for the first of them."""
        if not self._finished:
            await self._run_until_one_finishes()
        if not self._finished and self._timed_out:
            raise self._timeout()
        found, self._finished = self._finished, []
        return found

    async def _run_until_one_finishes(self) -> None:
        async with anyio.create_task_group() as tasks:
            while not self._finished and not self._timed_out:
                self._heed_closing()
                now = current_time()
                while self._waiting and self._waiting[0][0] <= now:
                    _, number, job = heapq.heappop(self._waiting)
                    self._in_flight += 1
                    tasks.start_soon(self._step, number, job)
                if self._timed_out or self._finished or not (self._waiting or self._in_flight):
                    return
                await self._sleep_until(self._waiting[0][0] if self._waiting else math.inf)
            # Polls in flight are let finish: cut off, each would cost its connection.

    def _heed_closing(self) -> None:
        """Plan the jobs of a client that was closed meanwhile for now: each will say so."""
        over = {lifetime for lifetime in self._open if lifetime.is_over}
        if over:
            self._open -= over
            entries, self._waiting = self._waiting, []
            for _, number, job in entries:
                self._plan(number, job)

    async def _sleep_until(self, due: float) -> None:
        watches = [(lifetime, lifetime.watch(self._news)) for lifetime in self._open]
        try:
            await self._news.wait_until(
                due, unless=lambda: any(lifetime.is_over for lifetime in self._open)
            )
        finally:
            for lifetime, watch in watches:
                lifetime.forget(watch)

    async def _step(self, number: int, job: AsyncJob) -> None:
        try:
            await poller_of(job).step(self._deadline)
        except JobTimeout as error:
            if error.stalled_for is not None:
                self._finished.append(job)  # its own trouble, as below
            else:
                self._timed_out = True
                self._plan(number, job)
        except GrokVideoError:
            # The API refuses to say (401, 404): this job's own trouble, told by its `result()`.
            self._finished.append(job)
        else:
            if job.is_finished:
                self._finished.append(job)
            else:
                self._plan(number, job)
        finally:
            self._in_flight -= 1
            self._news.ring()

    def _plan(self, number: int, job: AsyncJob) -> None:
        heapq.heappush(self._waiting, (poller_of(job).due_within(self._deadline), number, job))

    def _timeout(self) -> JobTimeout:
        jobs = [job for _, _, job in sorted(self._waiting, key=lambda entry: entry[1])]
        ids = ", ".join(job.request_id for job in jobs[:20])
        more = f" and {len(jobs) - 20} more" if len(jobs) > 20 else ""
        return JobTimeout(
            f"{len(jobs)} jobs are still running after {self._deadline.timeout:g} s ({ids}{more}); "
            f"they go on and may be billed. {resume_hint(jobs[0].request_id)}",
            request_id=jobs[0].request_id,
            snapshot=jobs[0].snapshot,
            pending=tuple(job.request_id for job in jobs),
        )

"""When to ask next, so that a video is noticed soon after it is ready, with few requests.

`Polling` is a frozen policy that answers `next_delay`; what a job has shown and what a client has
seen (`Watch`, `Experience`) come in, a number of seconds goes out. Nothing here may look at a
clock, sleep or send.

**The question.** A job ends at an unknown time T. Looks at t1 < t2 < ... cost one request each, and
the first look after T notices it, late by the *lag*. With a *price* of c seconds of lag per look,
the best schedule minimises lag + c * looks. Where the end comes at a rate h (its hazard: chance per
second, given it is still running), a gap d costs d / 2 of lag in the end and c / d per second until
then: the best gap is **d = sqrt(2 c / h)**. So looks are dense where the end is likely and sparse
where it is not, and the first one waits until the end becomes likely at all. For real curves with
few looks the rule is only about right; `_schedule.inspect` finds the exact schedule by going
backwards from the latest time (dynamic programming over 100 to 300 times, a little closer than the
looks will be; a quarter of a millisecond, and only when what is believed has moved by a tenth of
its spread).

**The price.** A fixed interval D is the right answer for a job of mean length T that may end at any
moment equally (h = 1 / T, d = D) if c = D * D / (2 T). `Polling(interval=D)` takes that price, so
everything that is known about a job turns into less lag *and* fewer looks than a fixed D would
give, by about the same factor. Beyond 20 seconds T ** 0.75 stands for T (a longer job may be
noticed a little later); under 20 the price shrinks with the job.

**What is known** (`_experience`). Before anything: T is lognormal about the formula of contract.md,
section 5, and a few jobs take several times longer (a second, far hump). Every finished job of the
client narrows that, as the window between its last two looks; jobs still running count as "longer
than this", so the first batch of a fan-out learns from its own earliest finishers without taking
them for typical. Kinds (model, duration, resolution) teach each other the speed of the server. As
long as a client has seen nothing at all it looks once early, where that is cheap: an emulator is a
thousand times faster, a bad input fails within a second.

**Progress** is a clock, a rough one. `Curve.read` turns a percentage into the fraction of life at
which jobs of this kind showed it (an interval, give or take some noise), so T is the age divided by
that fraction; `narrow` combines it with what was believed before, for each of the two humps, and
says which of them had the better odds. A number speaks of an age somewhat before its answer
(`_curve.shown_at`): by seconds, not by a share of the job. The next look is where the schedule for
a bell about the hump puts it; while both are possible, the earlier of two, each look at what is
only p likely being 1 / p as dear. A number that stalls says only what its curve says about the far
end. Numbers count once three jobs of the kind have sent them, as long as they give better odds to
the ends that come than time alone does; one job in 32 is watched by the time as well, so that a
server that begins to lie is found out. Where numbers are to be expected, the first look is placed
for them.

**The round trip.** A look is worth what it says when its answer arrives, so all times are those of
answers, and each delay is shortened by what polls of this client have been taking (0.3 s before
one was measured). Looks are never planned closer together than that.

**By hand.** A 10 s clip at 480p from the older model takes 8 + 10 * 1.2 = 20 s typically, so a look
costs c = 5 * 5 / (2 * 20) = 0.625 s. With nothing seen, log T is off by hypot(0.33, 0.30) = 0.446.
At 20 s, still running, the density is 0.97 * 0.399 / (0.446 * 20) = 0.043 per second (0.97: the
rest is the far hump) and 0.515 of the jobs are left, so h = 0.084 and the gap should be about
sqrt(2 * 0.625 / 0.084) = 3.9 s; `inspect` says 3.6. It puts the first look at 14.3 s, when 22 % of
the jobs are done, then 18.6, 22.4, 25.9, and expects to pay 4.7 s in all, lag and looks.
`tests/pure/polling/test_schedule.py` does this sum again.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from grok_video._arguments import refuse, require_flags, require_positive, require_seconds
from grok_video._curve import answered_at, shown_at
from grok_video._experience import SOONEST, Experience, Watch
from grok_video._kinds import Humps, Kind, narrow
from grok_video._public import Value, publish
from grok_video._schedule import ROOT_HALF, Schedule, bell, inspect

if TYPE_CHECKING:
    import random as _random

__all__ = ["Experience", "Polling", "Watch"]

#: Shortest and longest wait between two polls of one job, in seconds. With 60 a job of two minutes
#: would cost a look where it is hardly ever done; hours-long jobs are seen to live every 120.
SHORTEST: Final = 0.05
LONGEST: Final = 120.0
#: The intervals that are taken, in seconds: from what no server answers faster than to eleven days.
#: What lies far beyond has no price that can be reckoned with, and the first to know would be a
#: job that was paid for.
LEAST_INTERVAL: Final = 0.001
MOST_INTERVAL: Final = 1e6
#: Seconds up to which the server's wish is kept: the usual patience for a whole job.
LONGEST_WISH: Final = 600.0
#: The length of job at which a look costs most, in seconds.
DEAREST: Final = 20.0
#: Each delay is changed by up to this share of itself, so that a batch does not poll in step.
JITTER: Final = 0.03
# Progress is used once `UNTESTED` jobs have sent some, and while it foretells better than time does
# (`Kind.gain`); this share of jobs is watched by time alone, so that it can be compared.
UNTESTED: Final = 3
AUDITED: Final = 1.0 / 32.0
#: log(fraction of life) beyond which "not yet over" is all that a number says.
NEARLY_ALL: Final = -0.12
#: A hump that is less likely is forgotten.
UNLIKELY: Final = 0.01
#: Steps of the times of a schedule, in gaps: on coarser ones looks would come too late.
FINE: Final = 0.7
#: How likely a server nobody has asked is to be an emulator, or the first job to fail at once.
EARLY_CHANCE: Final = 0.08

#: Fifteen equally likely places of a bell.
_NODES: Final = (
    *(-1.83, -1.28, -0.97, -0.73, -0.52, -0.34, -0.17),
    *(0.0, 0.17, 0.34, 0.52, 0.73, 0.97, 1.28, 1.83),
)


def price_of_a_look(interval: float, typical: float) -> float:
    """Return what a look costs, in seconds of lag, for jobs of typically that many seconds."""
    relative = typical / DEAREST
    scale = relative if relative < 1.0 else relative**-0.75
    return 0.5 * interval * interval / DEAREST * scale


# Written by hand, as `Schedule` is.


class Plan:
    """What one state of experience says about jobs of one kind."""

    __slots__ = (
        *("centre", "first", "humps", "interval", "judged"),
        *("price", "schedule", "version", "width"),
    )

    def __init__(
        self,
        kind: Kind,
        interval: float,
        price: float,
        schedule: Schedule,
        first: float,
        centre: float,
        width: float,
    ) -> None:
        self.interval = interval
        self.price = price
        self.schedule = schedule
        #: When to look first: early enough to learn from the progress, where some is expected.
        self.first = first
        #: Mean and spread of log(seconds), the long tail included.
        self.centre = centre
        self.width = width
        #: The state of experience that it was last found to fit.
        self.version = kind.version
        #: What it was made from: the belief, and how many jobs had ended.
        self.humps = kind.humps()
        self.judged = kind.talking + kind.silent


def _stands(plan: Plan, kind: Kind) -> bool:
    """Return whether what is now believed is so near to what the plan was made from."""
    was, now = plan.humps, kind.humps()
    return (
        kind.talking + kind.silent <= 3 + plan.judged + plan.judged // 3
        and abs(now.mean - was.mean) < 0.1 * was.spread
        and abs(now.spread - was.spread) < 0.1 * was.spread
        and abs(now.share - was.share) < 0.2 * was.share
        and abs(now.far - was.far) < 0.2 * was.wide
        and abs(now.wide - was.wide) < 0.2 * was.wide
    )


def _step(price: float, spread: float, typical: float) -> float:
    return min(max(FINE * math.sqrt(2.0 * price * spread / typical), 0.025 * spread), 0.1 * spread)


def survey(kind: Kind, interval: float, gap: float) -> Plan:
    """Return the schedule for jobs of this kind, from what is believed of them now."""
    mean, spread = kind.mean, kind.spread
    share, far = kind.tail_share, kind.tail_mean
    wide = math.hypot(kind.tail_sigma, kind.mean_error)
    typical = kind.typical * math.exp(mean)
    price = price_of_a_look(interval, typical)
    # Times a little closer than the looks will be, in either hump.
    step, far_step = _step(price, spread, typical), _step(price, wide, kind.typical * math.exp(far))
    logs, end = [mean - 4.0 * spread], mean + 4.0 * spread
    while logs[-1] < end:
        logs.append(logs[-1] + (step if logs[-1] < far - 3.0 * wide else min(step, far_step)))
    while logs[-1] < far + 3.5 * wide:
        logs.append(logs[-1] + far_step)
    near, out = ROOT_HALF / spread, ROOT_HALF / wide
    chances = [
        0.5 * (1.0 - share) * math.erfc((mean - u) * near)
        + 0.5 * share * math.erfc((far - u) * out)
        for u in logs
    ]
    times = [kind.typical * math.exp(u) for u in logs]
    schedule = inspect([0.0, *times], [0.0, *chances], price, gap)
    width = math.hypot(spread, math.sqrt(share) * (far - mean))
    first = _first_look(kind, schedule, price, typical, width)
    return Plan(kind, interval, price, schedule, first, math.log(typical), width)


def _first_look(
    kind: Kind, schedule: Schedule, price: float, typical: float, width: float
) -> float:
    """Return when the first look costs least, given that it may bring a number."""
    numbers = (1.0 + kind.talking) / (2.0 + kind.talking + kind.silent)
    latest = schedule.targets[0]
    if numbers < 0.2:
        return latest
    ends = [typical * math.exp(kind.spread * z) for z in _NODES]
    foretold: dict[int, float] = {}
    best, first = math.inf, latest
    for k in range(17):
        look = typical * (0.2 + 0.06 * k)
        if look > 1.5 * latest:
            break
        i = bisect_right(schedule.times, look) - 1
        silent = schedule.area[i] + price + schedule.rest[i]
        talking = 0.0
        for end in ends:
            cell = int(40.0 * shown_at(look) / end)
            if end <= look:
                talking += look - end
            else:
                if cell not in foretold:
                    foretold[cell] = _after_number(kind, (cell + 0.5) / 40.0, width, price, typical)
                talking += foretold[cell] * end / typical
        talking = price + talking / len(ends)
        cost = numbers * talking + (1.0 - numbers) * silent
        if cost < best:
            best, first = cost, look
    return first


def _after_number(kind: Kind, fraction: float, width: float, price: float, typical: float) -> float:
    """Return what a typical job still costs after the number it shows at `fraction` of its life."""
    low, high, noise = kind.curve.read(kind.curve.says(fraction))
    age = math.log(fraction)
    _, _, spread = narrow(0.0, width, age - high if high < NEARLY_ALL else -9.0, age - low, noise)
    spread = min(spread, width) * typical
    return bell(price / spread).rest[0] * spread


# None of these is `float` itself: to read the signature of a builtin, attrs has `inspect` compile
# the pattern of all tokens of Python, a tenth of what making a client costs beside aiohttp.


def _interval(value: float) -> float:
    limit = f"must be a number of seconds from {LEAST_INTERVAL:g} to {MOST_INTERVAL:,.0f}"
    seconds = require_positive("interval", value, limit)
    if not LEAST_INTERVAL <= seconds <= MOST_INTERVAL:
        raise refuse("interval", value, limit)
    return seconds


def _jitter(value: float) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0.0
    return require_positive("jitter", value, "must be a number of seconds, 0 or more")


def _stalled_after(value: float | None) -> float | None:
    return require_seconds("stalled_after", value)


@frozen(eq=False, repr=False)
class Polling(Value):
    """How often running jobs are asked about; the default learns.

    It learns from each finished job how long such jobs take, and from their progress, so that it
    asks when the end is likely and seldom before: as thrifty as asking every `interval` seconds
    where it knows nothing, and earlier with fewer polls the more it knows. With `adaptive=False`
    it asks every `interval` seconds, give or take `jitter`. `stalled_after` is how many seconds
    without anything new end a wait with `JobTimeout`; None waits to its deadline.
    """

    #: Seconds, 0.001 to 1,000,000. A fixed policy asks this often; the learner is about as thrifty
    #: as that where it knows nothing, and better on both counts the more it knows.
    interval: float = field(default=5.0, converter=_interval)
    #: False asks every `interval`, whatever the jobs show.
    adaptive: bool = True
    #: Seconds added or taken at random around a fixed interval; less than the interval.
    jitter: float = field(default=0.0, converter=_jitter)
    #: Seconds for which a job may show nothing new (the same status and progress, or polls that
    #: fail) before a wait gives up on it with `JobTimeout`; None waits to its deadline. Longer than
    #: a whole job takes where the server sends no progress: there a status may be all that changes.
    stalled_after: float | None = field(default=None, converter=_stalled_after)

    def __attrs_post_init__(self) -> None:
        require_flags(adaptive=self.adaptive)
        if not self.jitter < self.interval:
            limit = f"must be less than the interval of {self.interval:g} seconds"
            raise refuse("jitter", self.jitter, limit)

    @classmethod
    def fixed(cls, seconds: float, jitter: float = 0.0) -> Polling:
        """Ask every `seconds`, give or take `jitter`; a server's wish to wait longer is kept.

        Up to 600 seconds of it, as with the default: longer than most waits for a whole job.
        """
        return cls(interval=seconds, adaptive=False, jitter=jitter)

    def next_delay(
        self, watch: Watch, elapsed: float, experience: Experience, random: _random.Random
    ) -> float:
        """Return the seconds until the next poll, not before the server's wish of up to 600.

        The learner's own answers lie between 0.05 and 120. To be asked once before the first poll
        and once after each that found the job running.
        """
        if self.adaptive:
            delay = self._adaptive(watch, elapsed, experience, random)
            delay = min(max(delay, SHORTEST), LONGEST)
        elif self.jitter:
            delay = random.uniform(self.interval - self.jitter, self.interval + self.jitter)
        else:
            delay = self.interval
        if watch.hint_until > elapsed:
            delay = max(delay, min(watch.hint_until - elapsed, LONGEST_WISH))
        watch.due = elapsed + delay
        return delay

    def _adaptive(
        self, watch: Watch, elapsed: float, experience: Experience, random: _random.Random
    ) -> float:
        kind = watch.kind or experience.kind(watch)
        ignorant = not (experience.answered or watch.polls or kind.finished)
        experience.follow(watch, kind)
        if kind.news >= 1.0:
            experience.consult(kind)
        plan = kind.plan
        if not isinstance(plan, Plan) or plan.interval != self.interval:
            plan = kind.plan = survey(kind, self.interval, experience.round_trip)
        elif plan.version != kind.version:
            if _stands(plan, kind):
                plan.version = kind.version
            else:
                plan = kind.plan = survey(kind, self.interval, experience.round_trip)
        if not watch.polls:
            if not watch.age_known:
                return SHORTEST  # a handle made from an id: most likely done long ago
            if ignorant and EARLY_CHANCE * plan.first > 2.0 * plan.price:
                return min(1.0, 0.05 * plan.first) * random.uniform(0.8, 1.2)
        if watch.unread:
            watch.unread = False
            _take_in(watch, kind, random)
        if watch.age_known:
            target = _target(watch, kind, elapsed, plan)
        else:
            target = _target_of_a_stranger(watch, kind, elapsed, plan)
        if not experience.answered and kind.finished:
            # Nothing was ever caught running: whatever was asked so far came too late.
            target = min(target, 0.25 * experience.soonest)
        delay = (target - elapsed) * (1.0 + JITTER * (2.0 * random.random() - 1.0))
        return delay - experience.round_trip if watch.polls else delay


def _take_in(watch: Watch, kind: Kind, random: _random.Random) -> None:
    """Combine the number of the last poll with what is believed of this job."""
    if kind.talking < UNTESTED or not watch.age_known:
        return
    readings = watch.readings[-1:]
    shown = watch.readings[-2][1] if len(watch.readings) > 1 else None
    if not watch.tested:
        # Only now the curve is the server's own: read all numbers from the first.
        watch.tested, watch.audit = True, random.random() < AUDITED
        readings, shown = watch.readings, None
    belief = watch.belief or kind.humps()
    for elapsed, percent in readings:
        belief = _heard(belief, kind, elapsed, percent, stalled=percent == shown)
        shown = percent
    watch.belief = belief


def _heard(belief: Humps, kind: Kind, elapsed: float, percent: float, *, stalled: bool) -> Humps:
    """Return the humps of log(seconds in all), after one more number."""
    low, high, noise = kind.curve.read(percent)
    if elapsed < SOONEST or (stalled and high >= NEARLY_ALL):
        return belief  # still "at most nearly all of its life": the schedule knows that
    age = math.log(shown_at(elapsed))
    least = age - high
    most = age + 9.0 if stalled else age - low  # of a stalled number only its far end is new
    share, mean, spread, far, wide = belief
    surprise = max(least - mean, mean - most) / (spread + noise)
    if share > 0.0:
        surprise = min(surprise, max(least - far, far - most) / (wide + noise))
    if surprise > 1.5:
        # the more a number contradicts what is known, the less it is believed
        noise *= (surprise / 1.5) ** 2
    if share == 0.0:
        _, mean, spread = narrow(mean, spread, least, most, noise)
    elif share == 1.0:
        _, far, wide = narrow(far, wide, least, most, noise)
    else:
        near_mass, mean, spread = narrow(mean, spread, least, most, noise)
        far_mass, far, wide = narrow(far, wide, least, most, noise)
        share *= far_mass / (share * far_mass + (1.0 - share) * near_mass)
        share = 0.0 if share < UNLIKELY else 1.0 if share > 1.0 - UNLIKELY else share
    return Humps(share, mean, spread, far, wide)


def _target(watch: Watch, kind: Kind, elapsed: float, plan: Plan) -> float:
    """Return when the next answer should be here."""
    belief = watch.belief
    if belief is None and elapsed < 0.5 * plan.first:
        return plan.first
    if belief is None or kind.gain < 0.0:
        return plan.schedule.after(elapsed)
    share, mean, spread, far, wide = belief
    if spread > 0.8 * plan.width and abs(mean - plan.centre) < plan.width:
        return plan.schedule.after(elapsed)  # the numbers have told next to nothing
    age = math.log(max(elapsed, SOONEST))
    if share == 0.0:
        target = _after(age, mean, spread, plan.price)
    elif share == 1.0:
        target = _after(age, far, wide, plan.price)
    else:
        near = (1.0 - share) * math.erfc((age - mean) / spread * ROOT_HALF)
        share *= math.erfc((age - far) / wide * ROOT_HALF)
        share /= share + near + 1e-9
        target = math.inf
        if share > UNLIKELY:
            # a look at what is only so likely is so much dearer
            target = _after(age, far, wide, plan.price / share)
        if share < 1.0 - UNLIKELY:
            target = min(target, _after(age, mean, spread, plan.price / (1.0 - share)))
    if spread > 0.12 and share < 0.5:
        # Still vague: look again where the curve tells most, if that is not behind us.
        whole = math.exp(mean)
        telling = whole * plan.first / math.exp(plan.centre)
        if elapsed < 0.85 * telling:
            target = min(target, max(telling, elapsed + 0.15 * whole))
    return min(target, plan.schedule.after(elapsed)) if watch.audit else target


def _after(age: float, mean: float, spread: float, price: float) -> float:
    """Return when to look next at a job whose log(seconds in all) is normal, by its log age."""
    z = (age - mean) / spread
    after = bell(price / (spread * math.exp(mean))).after(z)
    return math.exp(min(mean + spread * after, 20.0))


def _target_of_a_stranger(watch: Watch, kind: Kind, elapsed: float, plan: Plan) -> float:
    """Return when the next answer should be here, for a job of unknown age.

    Without numbers it may be anywhere in its life, so it ends at a constant rate, twice in a
    typical length; with them, what is left is the rest of a typical life.
    """
    whole = math.exp(plan.centre)
    if watch.readings and kind.talking >= UNTESTED and kind.gain >= 0.0:
        percent = watch.readings[-1][1]
        since = next(at for at, shown in watch.readings if shown == percent)
        low, high, _ = kind.curve.read(percent)
        fraction = math.exp(0.5 * (low + high))
        spread = max(math.hypot((1.0 - fraction) * plan.width, 0.3 * (high - low) * fraction), 0.01)
        age = answered_at(fraction * whole) + elapsed - since
        after = bell(plan.price / (spread * whole)).after((age / whole - 1.0) / spread)
        return elapsed + whole * (1.0 + spread * after) - age
    gap = math.sqrt(plan.price * whole)
    return elapsed + gap * math.sqrt(max(1.0, 2.0 * elapsed / whole))


publish(globals(), ("Polling",))

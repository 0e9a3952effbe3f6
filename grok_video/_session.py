"""What all jobs of one client share, and the two exchanges with the API: create and poll.

A create asks the lifecycle what may follow what and the retry policy whether sending again is safe;
one attempt at it is `_create`. Nothing here waits for a job (that is `_poller`), and nothing here
knows JSON (that is `_wire`).
"""

from __future__ import annotations

import contextlib
import math
import random
import sys
import time
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote

from grok_video import _wire
from grok_video._attempts import Attempts, not_in_time, too_long
from grok_video._body import TextBody, create_body
from grok_video._create import CANCEL_GRACE, Attempt, Sending
from grok_video._errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    ConfigurationError,
    GrokVideoError,
    RateLimited,
    UnexpectedResponse,
    reword,
)
from grok_video._lifecycle import Event
from grok_video._lifetime import Lifetime
from grok_video._log import News, logger
from grok_video._models import JobStatus, Snapshot
from grok_video._policies import NO_END, poll_pause
from grok_video._polling import Experience
from grok_video._redaction import hide_key
from grok_video._refusals import read_retry_after
from grok_video._slots import Taken, slots_of_each_loop
from grok_video._threads import CHECKS, load, load_anyio
from grok_video._transports._base import (
    Address,
    Transport,
    proves_refusal,
    transport_failed,
    without_frames,
)
from grok_video._transports._loops import checkpoint, current_time, ends_at, running_library
from grok_video._transports._proxies import Proxies
from grok_video._turns import NoTurn, Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from grok_video._body import CreateBody
    from grok_video._create import AttemptOutcome, Record
    from grok_video._policies import Deadline, Limits, Retry
    from grok_video._polling import Polling
    from grok_video._requests import VideoRequest
    from grok_video._slots import Slots
    from grok_video._transports._base import Answer, TransportConfig
    from grok_video._transports._looplocal import LoopLocal

#: A shorter key (in tests) may stand in any word of an answer; real ones have 40 characters.
_LEAST_KEY: Final = 12
#: The round trip of a poll before one was measured: the median of 55 recorded ones, in seconds.
_ROUND_TRIP: Final = 0.5
_ODD_WORD: Final = (
    "job %s has the status %r, which this version does not know: it is taken for still running"
)


class Session:
    """The connections, budgets and experience that the jobs of one client share."""

    def __init__(
        self,
        config: TransportConfig,
        *,
        retry: Retry,
        polling: Polling,
        limits: Limits,
        transport: Transport | str | None,
        http_client: Any,  # noqa: ANN401 - a client of either httpx family
    ) -> None:
        self.config = config
        self.retry = retry
        self.polling = polling
        self.limits = limits
        self.random: random.Random = random.Random()  # noqa: S311 - jitter, not a secret
        self.experience: Experience = Experience()
        self.round_trip: float = _ROUND_TRIP
        self._odd_words = News()
        self.download_slots: LoopLocal[Slots] = slots_of_each_loop(limits.concurrent_downloads)
        self.create_url: Address = Address(config.base_url + _wire.CREATE_PATH)
        # Turns stand before the transports, so that waiting for a connection is neither waiting for
        # the server nor the beginning of a create.
        creates = limits.creates_per_minute
        per_second = creates / 60 if creates is not None else None
        self.lifetime: Lifetime = Lifetime()
        self._creates = Turns(per_second, limits.connections, self.lifetime)
        self._polls = Turns(limits.polls_per_second, limits.connections, self.lifetime)
        self._wanted = transport
        #: Asked for each request; whether something is of an abstract class is a slow question.
        self._given = transport if isinstance(transport, Transport) else None
        #: False where the caller's own transport or client connects, of which nobody knows when an
        #: exchange ends by itself, and whether it reads a body before it sends.
        self._connects_itself = self._given is None and http_client is None
        self._exchange_ends = config.timeout if self._connects_itself else math.inf
        self._http_client = http_client
        self._transports: dict[str, Transport] = {}
        if self._connects_itself:
            # Imported here and not at the first request: inside a coroutine it would hold the
            # event loop for a fifth of a second.
            if transport != "httpx":
                import_module("grok_video._transports._aiohttp")
            else:
                with contextlib.suppress(ConfigurationError):  # the first call says it
                    import_module("grok_video._transports._httpxlines").own_family()
                import_module("grok_video._transports._httpx")

    def renewed(self) -> Session:
        """Return a session that is set up like this one and shares no connection with it.

        Raises `ConfigurationError` if the connections were given by the caller.
        """
        if self._given is not None or self._http_client is not None:
            message = (
                "this client was used before the fork, and the transport or http_client that it "
                "was given shares its connections with the parent process: make a new one here"
            )
            raise ConfigurationError(message)
        new = Session(
            self.config,
            retry=self.retry,
            polling=self.polling,
            limits=self.limits,
            transport=self._wanted,
            http_client=None,
        )
        new.lifetime.is_over = self.lifetime.is_over
        return new

    # --- connections -----------------------------------------------------------------------------

    @property
    def transport(self) -> Transport:
        """The transport for the running event loop. Raises `ConfigurationError` if closed."""
        self.lifetime.require()
        if self._given is not None:
            return self._given
        library = running_library()
        return self._transports.get(library) or self._make_transport(library)

    async def ready_transport(self) -> Transport:
        """Return the transport, made with its first use; the event loop is not held for that.

        What reads the answers is loaded by then, too, and did not hold the event loop either.
        """
        self.lifetime.require()
        library = running_library()
        made = self._transports.get(library)
        if made is None:
            await load("grok_video._documents")
            if self._given is None and self._is_of_httpx(library):
                # Its libraries on trio, where nobody knew before that they are needed, and its TLS.
                made = await CHECKS.run(self._make_transport, library)
            self.lifetime.require()
        return self._given or made or self._make_transport(library)

    def _is_of_httpx(self, library: str) -> bool:
        return library == "trio" or self._wanted == "httpx" or self._http_client is not None

    def _make_transport(self, library: str) -> Transport:
        if library == "trio" and self._wanted == "aiohttp":
            message = "aiohttp cannot run on trio; leave transport= out, or use 'httpx'"
            raise ConfigurationError(message)
        if self._connects_itself:
            # Here, before a create begins that would have to be noted as one.
            Proxies.found_for(self.config).require(self.config.origin)
        made: Transport
        if self._is_of_httpx(library):
            from grok_video._transports._httpx import HttpxTransport

            made = HttpxTransport(self.config, self._http_client)
        else:
            from grok_video._transports._aiohttp import AiohttpTransport

            made = AiohttpTransport(self.config)
        # Another thread may have made one; none has connections before its first request.
        return self._transports.setdefault(library, made)

    async def aclose(self) -> None:
        """Close the connections of the running event loop; the client is closed for good.

        Creates that are on their way have their answer first, or `CANCEL_GRACE` seconds for it.
        Who waits for a turn or for the next poll hears of it now.
        """
        try:
            self.lifetime.end()
            await self._creates.until_idle(current_time() + CANCEL_GRACE)
        finally:
            for transport in self._transports.values():
                await transport.aclose()
            if self._given is not None:
                await self._given.aclose()
            for held in (self.download_slots, self._creates, self._polls):
                await held.aclose()

    # --- create ----------------------------------------------------------------------------------

    async def create(
        self,
        request: VideoRequest,
        *,
        deadline: Deadline = NO_END,
        record: Record | None = None,
        fingerprint: str = "",
    ) -> str:
        """Return the id of a job that was accepted.

        `fingerprint` is what the request is told by if its answer is lost, if not its own hash.
        At most one job was created, whatever happened. Raises `InvalidRequest` if the picture
        cannot be used (nothing was sent), `APIError` if the server refused,
        `APIConnectionError` if it certainly was not reached, and `CreateOutcomeUnknown` if it may
        have been.
        """
        transport = await self.ready_transport()  # closed, it says so before a picture is opened
        async with create_body(request, deadline) as body:
            with Attempts(request, fingerprint) as tried:
                while True:
                    outcome = await self._try_once(transport, body, tried, deadline, record)
                    if outcome.request_id is not None:
                        return outcome.request_id
                    await self._sleep_before_next(tried, outcome, deadline)

    async def _try_once(
        self,
        transport: Transport,
        body: CreateBody,
        tried: Attempts,
        until: Deadline,
        record: Record | None,
    ) -> AttemptOutcome:
        """Send the create once, when it has its turn, and return what came of it.

        Raises what ends the call, worded for all that was tried before.
        """
        try:
            slots = await self._turn_for_create(until, tried.so_far)
        except (APITimeoutError, ConfigurationError, RateLimited) as error:
            if tried.is_in_doubt:
                raise tried.unknown(error)  # noqa: B904 - it has a cause
            raise error from tried.failure
        slot = Taken(slots)
        post = partial(self._post, transport, body, slot)
        sending = Sending(body, is_watched=self._connects_itself)
        attempt = Attempt(
            tried.request,
            sending,
            post,
            record,
            is_in_doubt=tried.is_in_doubt,
            fingerprint=tried.fingerprint,
        )
        tried.begin()
        try:
            # How long a picture is on its way nobody knows.
            ends = self._exchange_ends if isinstance(body, TextBody) else math.inf
            outcome = await attempt.run(until, ends)
        except BaseException as error:
            known = attempt.outcome
            if known is not None:  # while it was cancelled, or not recorded
                tried.end(known)
            is_accepted = known is not None and known.request_id is not None
            if isinstance(error, Exception) and tried.is_in_doubt and not is_accepted:
                raise tried.unknown(error)  # noqa: B904 - as above
            raise
        finally:
            slot.release()
        tried.end(outcome)
        return outcome

    async def _sleep_before_next(
        self, tried: Attempts, outcome: AttemptOutcome, until: Deadline
    ) -> None:
        """Return when the create may be sent again; raises what it failed with if it may not."""
        failure = outcome.failure
        assert failure is not None  # noqa: S101 - for the type checker: it has no id
        if isinstance(failure, RateLimited):
            self._creates.pacer.throttled(current_time(), failure.retry_after)
        delay = self.retry.create_delay(failure, tried.sent, self.random)
        remaining = until.remaining(current_time())
        if delay is None or delay > remaining:
            wish = failure.retry_after if isinstance(failure, APIError) else None
            passes = outcome.event is Event.NOT_TAKEN
            is_too_long = passes and (wish or 0.0) > min(self.retry.patience, remaining)
            raise tried.error(wish if is_too_long else None)
        if outcome.event is Event.ANSWER_LOST:
            logger.warning(
                "the answer to a create was lost, it may have been accepted and billed (%s); "
                "sent again in %.1f s",
                failure,
                delay,
            )
        else:
            logger.info("create not taken (%s); sent again in %.1f s", failure, delay)
        await self.lifetime.sleep(delay)

    async def _post(
        self, transport: Transport, body: CreateBody, slot: Taken, sending: Sending
    ) -> str:
        try:
            answer = await transport.post(self.create_url, sending)
        except GrokVideoError as error:
            received, error.received = error.received, None
            request_id = _wire.read_broken_create(*received) if received is not None else None
            if request_id is None:
                if received is not None and 200 <= received[0] < 300:
                    sending.doubt()
                elif body.failure is not None and isinstance(error, APIConnectionError):
                    # The picture changed while it was sent: the body was cut short of its length,
                    # and no server can have accepted it.
                    raise body.failure from body.failure.__cause__
                if not self._is_of_transports(error, body):
                    raise transport_failed(error) from error
                raise
        else:
            request_id = _wire.read_create(
                answer.status, answer.headers, self.without_key(answer), now=time.time()
            )
        # Before anybody is told: the caller's function may close the client, which waits for what
        # is on its way. After a refusal the next in line has to hear of a Retry-After first.
        slot.release()
        return request_id

    def _is_of_transports(self, error: GrokVideoError, body: CreateBody) -> bool:
        """Return whether a transport may say this of a create.

        All else comes from the caller's own code (its transport, a hook of its client), which may
        raise whatever it likes of an answer that nobody here has seen.
        """
        if self._connects_itself or isinstance(error, APIConnectionError) or error is body.failure:
            return True
        # What the transport over the caller's client says of an answer that it could not read.
        return (
            self._given is None
            and isinstance(error, UnexpectedResponse)
            and (proves_refusal(error.status) or not error.refused)
        )

    async def _turn_for_create(self, until: Deadline, so_far: str) -> Slots:
        """Return the slots of which one is taken for a create that may be sent now.

        Raises `RateLimited` or `APITimeoutError` if it may not before the end of the call, and
        `ConfigurationError` if the client was closed meanwhile.
        """
        try:
            slots, _ = await self._creates.take(current_time(), until.at, self.retry.patience)
        except NoTurn as no:
            if no.delay is None:
                raise not_in_time("no connection became free", until, so_far) from None
            raise too_long(no.delay, so_far) from None
        try:
            await self._require_wanted(until, so_far)
        except BaseException:
            slots.release()
            raise
        return slots

    async def _require_wanted(self, until: Deadline, so_far: str) -> None:
        """Return if its caller still wants the create: nobody pays for what came too late."""
        await checkpoint()
        self.lifetime.require()
        if until.at != math.inf and current_time() >= until.at:
            raise not_in_time("the create could not be sent", until, so_far)

    def creates_blocked_until(self) -> float:
        """Return the time before which the server wants no create."""
        return self._creates.pacer.blocked_until

    # --- poll ------------------------------------------------------------------------------------

    def poll_url(self, request_id: str) -> Address:
        """Return where a job is asked about; ids are opaque, so every odd character is encoded."""
        name = quote(request_id.encode("utf-8", "surrogatepass"), safe="")
        return Address(f"{self.config.base_url}{_wire.POLL_PATH}{name}")

    async def poll(
        self,
        url: str,
        request_id: str,
        now: float,
        heard: Heard | None,
        *,
        asker: Asker,
        until: Deadline,
        delivered_elsewhere: bool,
    ) -> tuple[Heard, float, float | None]:
        """Return what the API says of one job, from exactly one GET, when it said so, and its hint.

        The hint is a Retry-After beside a good answer: seconds until it is worth asking again.
        `heard` is what the last poll heard; `now` and the time returned are of `current_time`.
        It waits for its place in the client's budget and for a connection. Raises `TooLate` if no
        answer is here `until` then, `APIError` or `APIConnectionError`, each with the `request_id`.
        """
        outer = sys.exception()
        try:
            transport = await self.ready_transport()
            try:
                slots, went = await self._polls.take(now, until.at)
            except NoTurn:
                raise TooLate(had_turn=False) from None
            asker.is_on_its_way = True
            try:
                if went is not now:  # it waited for its turn
                    self.lifetime.require()
                    now = went
                if until.at == math.inf or now + self._exchange_ends < until.at:
                    answer = await transport.get(url)
                else:
                    # Only here: a scope costs half as much as all else that a poll is.
                    answer = await _in_time(partial(transport.get, url), until)
            except (GrokVideoError, TooLate):
                raise
            except Exception as error:  # noqa: BLE001 - of the caller's own transport
                # Their frames hold the request, and the key.
                raise transport_failed(error) from without_frames(error, outer)
            finally:
                slots.release()
            ended = current_time()
            self.round_trip += 0.2 * (ended - now - self.round_trip)
            # Most polls are answered as the one before was, byte for byte: that means the same.
            if heard is None or answer.status != heard.status or answer.body != heard.body:
                snapshot = _wire.read_poll(
                    answer.status,
                    answer.headers,
                    self.without_key(answer),
                    request_id=request_id,
                    now=time.time(),
                    delivered_elsewhere=delivered_elsewhere,
                )
                if snapshot.status is JobStatus.PROCESSING:
                    word = _wire.unknown_word(snapshot)
                    if word is not None and self._odd_words.is_new(word):
                        logger.warning(_ODD_WORD, request_id, word)
                heard = Heard(answer.status, answer.body, snapshot)
        except GrokVideoError as error:
            if isinstance(error, RateLimited):
                self._polls.pacer.throttled(current_time(), poll_pause(error))
            error.request_id = request_id
            reword(error, f"job {request_id}: {error.message}")
            # Without its frames, which hold what the server said before it was redacted.
            raise error.with_traceback(None)  # noqa: B904 - it is the same error
        hint = None
        if "retry-after" in answer.headers or "retry-after-ms" in answer.headers:
            hint = read_retry_after(answer.headers, now=time.time())
        return heard, ended, hint

    def polls_blocked_until(self) -> float:
        """Return the time before which the server wants no poll."""
        return self._polls.pacer.blocked_until

    def without_key(self, answer: Answer) -> bytes:
        """Return the body without the key, should a server ever echo it."""
        key = self.config.api_key.reveal()
        return hide_key(answer.body, key) if len(key) >= _LEAST_KEY else answer.body


class Asker(Protocol):
    """Who asks for a poll, and is told when it has its turn and goes."""

    is_on_its_way: bool


class Heard:
    """A poll's answer that could be read, and what it meant."""

    __slots__ = ("body", "snapshot", "status")

    def __init__(self, status: int, body: bytes, snapshot: Snapshot) -> None:
        self.status: int = status
        self.body: bytes = body  # as it came: a server may have echoed the key
        self.snapshot: Snapshot = snapshot


class TooLate(Exception):
    """A poll found no answer before the end of the wait that asked for it.

    `had_turn` says whether it was sent.
    """

    def __init__(self, *, had_turn: bool) -> None:
        super().__init__(had_turn)
        self.had_turn = had_turn


async def _in_time(ask: Callable[[], Awaitable[Answer]], until: Deadline) -> Answer:
    await load_anyio()
    with ends_at(until.at):
        return await ask()
    raise TooLate(had_turn=True)

"""The asynchronous client: the door to everything, with as little in it as a door can have.

It checks what it is set up with, makes jobs, and owns the connections. Money is spent in
`_session`, waiting is done in `_poller`; the blocking twin of this class is generated from it.
"""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, Never, Self, overload

from grok_video._arguments import (
    refuse,
    refuse_unknown,
    require_flags,
    require_path,
    require_positive,
    require_request_id,
)
from grok_video._clientsettings import check_parts, check_transport
from grok_video._create import CANCEL_GRACE, log_unheard
from grok_video._errors import ConfigurationError, InvalidRequest
from grok_video._job import (
    DEFAULT_TIMEOUT,
    AsyncJob,
    fetch,
    load_downloads,
    poller_of,
)
from grok_video._policies import NO_END, Deadline, Limits, Retry
from grok_video._polling import Polling
from grok_video._redaction import lift, redact_url, veil, veil_all
from grok_video._requests import DEFAULT_MODEL, VideoRequest
from grok_video._session import Session
from grok_video._settings import checked_headers, checked_proxy, find_base_url, find_key
from grok_video._start import Start
from grok_video._threads import load
from grok_video._transports._base import Transport, TransportConfig, without_frames
from grok_video._transports._loops import current_time, finish

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from decimal import Decimal
    from types import TracebackType

    from grok_video._batch import AsyncBatch
    from grok_video._manifest import BatchSource
    from grok_video._models import Video
    from grok_video._outcomes import BatchSummary
    from grok_video._requests import AspectRatio, ImageInput, Resolution

__all__ = ["AsyncClient"]

#: Seconds that a caller who is cancelled while it closes a client waits for that: the answers of
#: the creates, and as much again for connections that do not close.
_CLOSING_GRACE: Final = 2 * CANCEL_GRACE


class AsyncClient:
    """A client of the video API, for asyncio and trio.

    Use it as a context manager, or call `aclose()`. Making one does no I/O and binds it to no event
    loop: it works across several `asyncio.run` calls.

    `api_key` falls back to the environment's COMETAPI_KEY; `base_url` to GROK_VIDEO_BASE_URL, then
    to CometAPI (`https://api.x.ai/v1` with an xAI key works too). `timeout` is seconds of silence
    in one request, not for a job: a picture on a slow line may take as long as it gets on. `retry`,
    `polling` and `limits` are the policies. `transport` is "aiohttp" or "httpx", or a transport of
    your own; left out, it follows the event loop. `http_client` is an `httpx2.AsyncClient` or
    `httpx.AsyncClient` of your own, and stays yours to close; a transport of your own is closed
    with the client. `proxy` and `ssl_context` replace what the environment (HTTPS_PROXY,
    SSL_CERT_FILE) says. `headers` are sent to the API with each request, and nowhere else.

    Raises `ConfigurationError` if there is no usable key, base URL, proxy or header, and
    `InvalidRequest` if anything else is not what it has to be.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        timeout: float = 60.0,
        retry: Retry = Retry(),
        polling: Polling = Polling(),
        limits: Limits = Limits(),
        transport: Transport | Literal["aiohttp", "httpx"] | None = None,
        http_client: Any = None,  # noqa: ANN401 - a client of either httpx family
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        api_key, proxy, headers = veil(api_key), veil(proxy), veil(headers)
        outer = sys.exception()
        try:
            check_parts(retry, polling, limits, ssl_context)
            check_transport(transport, http_client, proxy=lift(proxy), ssl_context=ssl_context)
            config = TransportConfig(
                base_url=find_base_url(base_url)[0],
                api_key=find_key(lift(api_key))[0],
                timeout=require_positive("timeout", timeout, "must be a number of seconds above 0"),
                proxy=checked_proxy(lift(proxy)),
                ssl_context=ssl_context,
                headers=checked_headers(lift(headers)),
            )
        except (ConfigurationError, InvalidRequest) as error:
            # They hold the key, and a program may print them, or send them to Sentry.
            raise without_frames(error, outer) from None
        self._session = Session(
            config,
            retry=retry,
            polling=polling,
            limits=limits,
            transport=transport,
            http_client=http_client,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the client cannot be used after it. Jobs go on at the provider."""
        await finish(self._session.aclose, grace=lambda: _CLOSING_GRACE)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {redact_url(self._session.config.base_url)}>"

    # --- jobs ------------------------------------------------------------------------------------

    @overload
    async def submit(
        self,
        prompt: VideoRequest,
        *,
        timeout: float | None = None,
        on_submitted: Callable[[AsyncJob], object] | None = None,
    ) -> AsyncJob: ...

    @overload
    async def submit(
        self,
        prompt: str,
        image: ImageInput | None = None,
        *,
        duration: int | None = None,
        aspect_ratio: AspectRatio | None = None,
        resolution: Resolution | None = None,
        model: str = DEFAULT_MODEL,
        output: Mapping[str, Any] | None = None,
        user: str | None = None,
        timeout: float | None = None,
        on_submitted: Callable[[AsyncJob], object] | None = None,
    ) -> AsyncJob: ...

    async def submit(
        self,
        prompt: str | VideoRequest,
        image: ImageInput | None = None,
        *,
        duration: int | None = None,
        aspect_ratio: AspectRatio | None = None,
        resolution: Resolution | None = None,
        model: str = DEFAULT_MODEL,
        output: Mapping[str, Any] | None = None,
        user: str | None = None,
        timeout: float | None = None,
        on_submitted: Callable[[AsyncJob], object] | None = None,
        **unknown: Never,
    ) -> AsyncJob:
        """Start a job and return its handle as soon as its request_id is known.

        At most one video is paid for, whatever happens (unless `Retry` was told to send again what
        may have been taken). Takes the words of `VideoRequest`, or one `VideoRequest`; only what is
        set is sent. `timeout` is seconds for all of it, None for as long as `Retry` goes on; an
        answer that is on its way then is waited for, at most 5 s. `on_submitted` is called with the
        job before anything else happens to it, also when the call is being cancelled: the place to
        write the id down. A cancelled call waits for the answer of a create that was sent, at most
        5 s, and is cancelled then; the id is logged if there is no `on_submitted`, or if that
        raised or did not come to its end.

        Raises `InvalidRequest` if the input is refused here (nothing was sent), `APIError` if the
        server refuses it, `APIConnectionError` (`APITimeoutError` at the timeout) if it certainly
        did not take it, and `CreateOutcomeUnknown` if it may have: then nothing is sent again.
        """
        image, output = veil(image), veil(output)
        if unknown:
            veil_all(unknown)
        deadline = NO_END if timeout is None else Deadline.after(current_time(), timeout)
        request = _as_request(
            AsyncClient.submit,
            prompt,
            {
                "image": image,
                "duration": duration,
                "aspect_ratio": aspect_ratio,
                "resolution": resolution,
                "model": model if model != DEFAULT_MODEL else None,
                "output": output,
                "user": user,
            },
            unknown,
        )
        return await self._start(request, deadline, on_submitted)

    @overload
    async def generate(
        self,
        prompt: VideoRequest,
        *,
        save_to: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        sha256: bool = False,
        timeout: float | None = DEFAULT_TIMEOUT,
        on_submitted: Callable[[AsyncJob], object] | None = None,
    ) -> Video: ...

    @overload
    async def generate(
        self,
        prompt: str,
        image: ImageInput | None = None,
        *,
        duration: int | None = None,
        aspect_ratio: AspectRatio | None = None,
        resolution: Resolution | None = None,
        model: str = DEFAULT_MODEL,
        output: Mapping[str, Any] | None = None,
        user: str | None = None,
        save_to: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        sha256: bool = False,
        timeout: float | None = DEFAULT_TIMEOUT,
        on_submitted: Callable[[AsyncJob], object] | None = None,
    ) -> Video: ...

    async def generate(
        self,
        prompt: str | VideoRequest,
        image: ImageInput | None = None,
        *,
        duration: int | None = None,
        aspect_ratio: AspectRatio | None = None,
        resolution: Resolution | None = None,
        model: str = DEFAULT_MODEL,
        output: Mapping[str, Any] | None = None,
        user: str | None = None,
        save_to: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        sha256: bool = False,
        timeout: float | None = DEFAULT_TIMEOUT,
        on_submitted: Callable[[AsyncJob], object] | None = None,
        **unknown: Never,
    ) -> Video:
        """Return a finished video: submit, wait and, with `save_to`, download.

        `timeout` is seconds for all of it, None for no end. `save_to` is checked before anything is
        paid for; `overwrite` lets it replace a file, and with `sha256` it is hashed as it arrives.
        Nothing is sent, and `RateLimited` raised, while the server wants no poll in that time.
        Raises what `submit`, `AsyncJob.result` and `AsyncJob.download` raise; every error after the
        create has the request_id. If the call is cancelled, the id is logged where there is no
        `on_submitted`.
        """
        image, output = veil(image), veil(output)
        veil_all(unknown)
        require_flags(overwrite=overwrite, sha256=sha256)
        deadline = Deadline.after(current_time(), timeout)
        request = _as_request(
            AsyncClient.generate,
            prompt,
            {
                "image": image,
                "duration": duration,
                "aspect_ratio": aspect_ratio,
                "resolution": resolution,
                "model": model if model != DEFAULT_MODEL else None,
                "output": output,
                "user": user,
            },
            unknown,
        )
        if save_to is not None:
            require_path("save_to", save_to)
            from grok_video._destination import Destination

            save_to = Destination.of(save_to)
            if request.is_delivered:
                limit = "must be left out where output.upload_url has the provider deliver the file"
                raise refuse("save_to", save_to, limit)
            await load_downloads()
            from grok_video import _download

            await _download.check_destination(
                save_to, overwrite=overwrite, request_id=None, until=deadline
            )
        job = await self._start(request, deadline, on_submitted, wait=deadline)
        try:
            if save_to is None:
                return await poller_of(job).wait(deadline)
            return await fetch(
                poller_of(job),
                save_to,
                overwrite=overwrite,
                sha256=sha256,
                wait=deadline,
                deadline=deadline,
            )
        except BaseException as error:
            if on_submitted is None:
                log_unheard(job.request_id, error)
            raise

    def job(self, request_id: str, *, uploaded: bool = False) -> AsyncJob:
        """Return a handle of a job from its id, made by whatever process and on whatever day.

        Does no I/O: whether the API knows the id shows at the first poll. `uploaded` says that the
        create asked for `output.upload_url`: such a job is done without a link, and any other one
        that has none has failed.
        """
        require_flags(uploaded=uploaded)
        return AsyncJob(self._session, require_request_id(request_id), uploaded=uploaded)

    def as_completed(
        self, jobs: Iterable[AsyncJob], *, timeout: float | None = None
    ) -> AsyncIterator[AsyncJob]:
        """Give each job once it is finished, however it ended; its `result()` is then immediate.

        `timeout` is seconds for all of them, None for no end. Raises `JobTimeout` naming the jobs
        that are still running if it passes.
        """
        from grok_video._completion import Completion

        return Completion(jobs, timeout)

    def batch(
        self,
        requests: BatchSource,
        *,
        out: str | os.PathLike[str] | None = None,
        ledger: str | os.PathLike[str] | None = None,
        max_in_flight: int = 200,
        max_cost_usd: Decimal | float | None = None,
        retry_failed: bool = False,
        resubmit_in_doubt: bool = False,
        found_ids: Mapping[str, str] | None = None,
        name: str = "{key}.mp4",
        overwrite: bool = False,
        sha256: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> AsyncBatch:
        """Return a batch over many requests, to be entered as a context and iterated.

        `requests` is any iterable, read as places come free, of `VideoRequest`, `BatchItem` or
        (key, request); without a key the request's hash is one, for which open files are read: one
        that cannot seek needs a key. A plain iterable is read in the event loop, where one that
        waits (for a queue, say) holds up everything and should be an asynchronous one; a blocking
        client has a thread of its own for it, where it may wait. At most `max_in_flight` are under
        way at once, and no more of the manifest is held in memory than these (without a ledger also
        22 bytes for each key, so that one that comes twice is not paid for twice). Finished videos
        are saved as `out`/`name` (None: not downloaded). `ledger` is an SQLite file: the same call
        with it goes on where an earlier process ended, however it ended, and nothing is paid for
        twice. No create is sent that could lead the ledger's whole cost beyond `max_cost_usd`. Each
        create counts with its list price until the provider states its own, and with nothing where
        it was refused, or its job failed; what moderation held back, what expired and what is done
        without a link may be billed.

        A saved file that is gone is fetched again, which costs nothing; one that was changed is
        told as unfetched, and replaced only with `overwrite`. Items that failed stay failed unless
        `retry_failed`, which leaves out what would be refused again, and perhaps billed: what
        content moderation or the server itself refused. Another request needs another key.
        Items in doubt are told as such and sent again only with `resubmit_in_doubt`. Such a
        decision is for one run: what is not sent after all, or not taken, is what it was.
        `found_ids` gives, by key, the request_id that a person found for an item in doubt; it is
        taken once the API has shown that it knows the job. Files are hashed as they arrive, so that
        the ledger says what was delivered, unless `sha256` is False. Where the service accepts no
        creates (it cannot be reached, say), one is tried now and then, for 15 minutes; then the
        rest is left for the next run. `timeout` is seconds for the wait of each job, None for no
        end; no create is sent whose job the server would not let be polled in that time. Raises
        `InvalidRequest` if a setting cannot be; entering raises it for a found id that the ledger
        shows to be wrong, and `LedgerError` if the ledger cannot be used.
        """
        # Imported here: SQLite and the rest of it are for those who run batches.
        from grok_video._batch import AsyncBatch
        from grok_video._batchsettings import Settings

        settings = Settings.checked(
            out=out,
            ledger=ledger,
            max_in_flight=max_in_flight,
            max_cost_usd=max_cost_usd,
            retry_failed=retry_failed,
            resubmit_in_doubt=resubmit_in_doubt,
            found_ids=found_ids,
            name=name,
            overwrite=overwrite,
            sha256=sha256,
            timeout=timeout,
        )
        return AsyncBatch(self._session, requests, settings)

    async def run_batch(
        self,
        requests: BatchSource,
        *,
        out: str | os.PathLike[str] | None = None,
        ledger: str | os.PathLike[str] | None = None,
        max_in_flight: int = 200,
        max_cost_usd: Decimal | float | None = None,
        retry_failed: bool = False,
        resubmit_in_doubt: bool = False,
        found_ids: Mapping[str, str] | None = None,
        name: str = "{key}.mp4",
        overwrite: bool = False,
        sha256: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> BatchSummary:
        """Run a batch to its end and return its summary; everything is as with `batch`.

        What went wrong with single items is not raised: the summary names them, up to a thousand
        that failed with the reason of each (`failed`), and the ledger knows all that were sent.
        """
        await load("grok_video._batch")
        from grok_video._batch import run_through

        batch = self.batch(
            requests,
            out=out,
            ledger=ledger,
            max_in_flight=max_in_flight,
            max_cost_usd=max_cost_usd,
            retry_failed=retry_failed,
            resubmit_in_doubt=resubmit_in_doubt,
            found_ids=found_ids,
            name=name,
            overwrite=overwrite,
            sha256=sha256,
            timeout=timeout,
        )
        await run_through(batch)
        return batch.summary

    async def _start(
        self,
        request: VideoRequest,
        deadline: Deadline,
        on_submitted: Callable[[AsyncJob], object] | None,
        wait: Deadline | None = None,
    ) -> AsyncJob:
        if on_submitted is not None and not callable(on_submitted):
            limit = "must be a function that can be called with the job, or None"
            raise refuse("on_submitted", on_submitted, limit)
        start = Start(self._session, request, on_submitted, wait)
        start.require_polls()  # before the picture is opened
        outer = sys.exception()
        try:
            await self._session.create(request, deadline=deadline, record=start)
        except InvalidRequest as error:
            if isinstance(error.__cause__, SystemExit | KeyboardInterrupt):
                raise error.__cause__ from None  # of a picture's own read()
            raise without_frames(error, outer)  # noqa: B904 - the same error; they hold the picture
        except BaseException as error:
            if start.job is not None and on_submitted is None:
                log_unheard(start.job.request_id, error)
            raise
        assert start.job is not None  # noqa: S101 - for the type checker: it was accepted
        return start.job


def renewed(client: AsyncClient) -> AsyncClient:
    """Return a client that is set up like this one and shares no connection with it.

    For a forked child. Raises `ConfigurationError` if the connections were given by the caller.
    """
    new = copy.copy(client)
    # A constructor beside the class, because only a forked child has a use for it.
    renewed_session = client._session.renewed()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    new._session = renewed_session  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return new


def end(client: AsyncClient) -> None:
    """The client is closed for good, from any thread; its connections are closed by `aclose`."""
    # As in `renewed`: only the blocking twin closes from another thread.
    client._session.lifetime.end()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _as_request(
    method: Callable[..., object],
    prompt: str | VideoRequest,
    words: dict[str, Any],
    unknown: dict[str, Any],
) -> VideoRequest:
    given = {name: value for name, value in words.items() if value is not None}
    outer = sys.exception()
    try:
        refuse_unknown(method, unknown)
        if not isinstance(prompt, VideoRequest):
            return VideoRequest(prompt, **given)
    except InvalidRequest as error:
        # They hold the picture.
        raise without_frames(error, outer) from None
    for name, value in given.items():
        raise refuse(name, value, "belongs inside the VideoRequest that was given")
    return prompt


AsyncClient.__module__ = "grok_video"

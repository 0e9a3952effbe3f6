"""Pictures to video with Grok through CometAPI: async-first, blocking twin, bulk and command line.

`AsyncClient` and `Client` are the two doors; everything else is a value they take or return, or an
error they raise. Names load on first use: importing the package costs next to nothing, and aiohttp
arrives with the first request.
"""

from __future__ import annotations

# Type checkers read this name as true; `typing` itself is a third of what the import would cost.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from grok_video._batch import AsyncBatch
    from grok_video._budget import list_price
    from grok_video._client import AsyncClient
    from grok_video._errors import (
        APIConnectionError,
        APIError,
        APITimeoutError,
        AuthenticationError,
        BadRequest,
        ConfigurationError,
        CreateOutcomeUnknown,
        DestinationError,
        DownloadError,
        DownloadTimeout,
        GrokVideoError,
        InsufficientBalance,
        InvalidRequest,
        JobError,
        JobExpired,
        JobFailed,
        JobTimeout,
        LedgerError,
        LinkExpired,
        ModerationRefused,
        NotAVideo,
        NotFound,
        PermissionDenied,
        RateLimited,
        ServerError,
        Truncated,
        UnexpectedResponse,
    )
    from grok_video._job import AsyncJob
    from grok_video._manifest import BatchSource
    from grok_video._models import JobFailure, JobStatus, Snapshot, Video
    from grok_video._outcomes import BatchItem, BatchSummary, Outcome, OutcomeState
    from grok_video._policies import Limits, Retry
    from grok_video._polling import Polling
    from grok_video._requests import (
        AspectRatio,
        Image,
        ImageInput,
        Resolution,
        VideoRequest,
        frame_size,
    )
    from grok_video._sync import Batch, Client, Job
    from grok_video._transports._base import Answer, Body, StreamedAnswer, Transport

__version__ = "0.1.0"

_HOMES = {
    "_batch": ("AsyncBatch",),
    "_budget": ("list_price",),
    "_client": ("AsyncClient",),
    "_errors": (
        "APIConnectionError",
        "APIError",
        "APITimeoutError",
        "AuthenticationError",
        "BadRequest",
        "ConfigurationError",
        "CreateOutcomeUnknown",
        "DestinationError",
        "DownloadError",
        "DownloadTimeout",
        "GrokVideoError",
        "InsufficientBalance",
        "InvalidRequest",
        "JobError",
        "JobExpired",
        "JobFailed",
        "JobTimeout",
        "LedgerError",
        "LinkExpired",
        "ModerationRefused",
        "NotAVideo",
        "NotFound",
        "PermissionDenied",
        "RateLimited",
        "ServerError",
        "Truncated",
        "UnexpectedResponse",
    ),
    "_job": ("AsyncJob",),
    "_manifest": ("BatchSource",),
    "_models": ("JobFailure", "JobStatus", "Snapshot", "Video"),
    "_outcomes": ("BatchItem", "BatchSummary", "Outcome", "OutcomeState"),
    "_policies": ("Limits", "Retry"),
    "_polling": ("Polling",),
    "_requests": (
        "AspectRatio",
        "Image",
        "ImageInput",
        "Resolution",
        "VideoRequest",
        "frame_size",
    ),
    "_sync": ("Batch", "Client", "Job"),
    "_transports._base": ("Answer", "Body", "StreamedAnswer", "Transport"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "APIConnectionError",
    "APIError",
    "APITimeoutError",
    "Answer",
    "AspectRatio",
    "AsyncBatch",
    "AsyncClient",
    "AsyncJob",
    "AuthenticationError",
    "BadRequest",
    "Batch",
    "BatchItem",
    "BatchSource",
    "BatchSummary",
    "Body",
    "Client",
    "ConfigurationError",
    "CreateOutcomeUnknown",
    "DestinationError",
    "DownloadError",
    "DownloadTimeout",
    "GrokVideoError",
    "Image",
    "ImageInput",
    "InsufficientBalance",
    "InvalidRequest",
    "Job",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobFailure",
    "JobStatus",
    "JobTimeout",
    "LedgerError",
    "Limits",
    "LinkExpired",
    "ModerationRefused",
    "NotAVideo",
    "NotFound",
    "Outcome",
    "OutcomeState",
    "PermissionDenied",
    "Polling",
    "RateLimited",
    "Resolution",
    "Retry",
    "ServerError",
    "Snapshot",
    "StreamedAnswer",
    "Transport",
    "Truncated",
    "UnexpectedResponse",
    "Video",
    "VideoRequest",
    "frame_size",
    "list_price",
]


if not TYPE_CHECKING:  # a checker knows the names from above, and finds misspelt ones

    def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
        if name not in _HOME:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])

"""The options that several commands of the command line share, with their help."""

# No `from __future__ import annotations`: typer evaluates these types when it starts.

from typing import Annotated

import typer


def named_out(value: str | None) -> str | None:
    """Refuse stdout as the place of a file."""
    # Elsewhere - is stdin or stdout; a file of that name would be a surprise, and hard to remove.
    if value == "-":
        message = "- would be stdout, and this is saved whole or not at all: name a file (or ./-)"
        raise typer.BadParameter(message)
    return value


def named_in(value: str) -> str:
    """Refuse stdin as a file that is read."""
    if value == "-":
        raise typer.BadParameter(
            "- would be stdin, and this is read more than once: name a file (or ./-)"
        )
    return value


Prompt = Annotated[str, typer.Argument(help="What should happen in the video.", show_default=False)]
RequestId = Annotated[str, typer.Argument(metavar="ID", help="The job's request_id.")]
ImageOption = Annotated[
    str | None,
    typer.Option(
        "--image",
        "-i",
        metavar="PATH|URL|DATA-URI|-",
        help="The picture: JPEG, PNG or WebP. A URL must be public; - reads stdin.",
    ),
]
Duration = Annotated[
    str | None, typer.Option(metavar="SECONDS", help="1 to 15; the server's default is 8.")
]
Resolution = Annotated[str | None, typer.Option(metavar="480p|720p|1080p")]
AspectRatio = Annotated[
    str | None,
    typer.Option(
        metavar="W:H",
        help="1:1, 16:9, 9:16, 4:3, 3:4, 3:2 or 2:3; left out, the picture's own ratio.",
    ),
]
Model = Annotated[str | None, typer.Option(help="The default is grok-imagine-video-1.5.")]
User = Annotated[str | None, typer.Option(help="An opaque id of your end user.")]
UploadUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="A signed URL to which the provider puts the MP4."),
]
Uploaded = Annotated[
    bool,
    typer.Option(
        "--uploaded",
        help="Its create had --upload-url: done without a link is no failure.",
    ),
]
Size = Annotated[str | None, typer.Option(hidden=True)]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Save the video here; else print its link.",
        callback=named_out,
    ),
]
RequiredOut = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Save the video here.",
        show_default=False,
        callback=named_out,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")]
Timeout = Annotated[
    float, typer.Option(metavar="SECONDS", help="For everything; the job goes on after it.")
]
PollInterval = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Poll this often; left out, polling learns."),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Of the API; the default is https://api.cometapi.com/grok/v1."
    ),
]
ApiKeyFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Read the key from this file instead of COMETAPI_KEY. There is no option for the key "
        "itself: everybody on this machine could read it in the process list.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Results and errors as JSON lines on stdout.")]
EmulatorFlag = Annotated[
    bool,
    typer.Option(
        "--emulator",
        help="Emulate the API inside this command: no key, no network, no cost.",
    ),
]
# Accepted in order to be refused with a reason.
NoEmulator = Annotated[bool, typer.Option("--emulator", hidden=True)]

"""The words of the command line: commands and their help; usage errors in one line.

Everything a command does is imported when it runs, so that `--help` costs typer and nothing else.
"""

# No `from __future__ import annotations`: typer evaluates the options' types when it starts, and
# strings would cost it a look-up for each.

import contextlib
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from grok_video import __version__
from grok_video._cli._options import (
    ApiKeyFile,
    AspectRatio,
    BaseUrl,
    Duration,
    EmulatorFlag,
    ImageOption,
    Json,
    Model,
    NoEmulator,
    Out,
    Overwrite,
    PollInterval,
    Prompt,
    RequestId,
    RequiredOut,
    Resolution,
    Size,
    Timeout,
    Uploaded,
    UploadUrl,
    User,
    named_in,
    named_out,
)

_EPILOG = (
    "Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage, "
    "3 the create may have been accepted and billed, 4 timed out and still running, "
    "130 interrupted (143 by SIGTERM, 129 by a closed terminal). Key: COMETAPI_KEY or "
    "--api-key-file. Base URL: --base-url or GROK_VIDEO_BASE_URL."
)

_HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="grok-video",
    help="Pictures to video with Grok through CometAPI.",
    epilog=_EPILOG,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_HELP,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"grok-video {__version__}", flush=True)  # noqa: T201 - the result of the option
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Pictures to video with Grok through CometAPI."""


# --- commands ------------------------------------------------------------------------------------


@app.command(context_settings=_HELP)
def generate(
    prompt: Prompt,
    image: ImageOption = None,
    duration: Duration = None,
    resolution: Resolution = None,
    aspect_ratio: AspectRatio = None,
    model: Model = None,
    user: User = None,
    upload_url: UploadUrl = None,
    size: Size = None,
    out: Out = None,
    overwrite: Overwrite = False,
    timeout: Timeout = 600.0,
    poll_interval: PollInterval = None,
    emulator: EmulatorFlag = False,
    base_url: BaseUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Json = False,
) -> int:
    """Make a video: submit, wait, download. Prints its path, or its link without -o."""
    from grok_video._cli import _connect, _jobs

    return _jobs.generate(
        {
            "prompt": prompt,
            "image": image,
            "duration": duration,
            "resolution": resolution,
            "aspect_ratio": aspect_ratio,
            "model": model,
            "user": user,
            "upload_url": upload_url,
            "size": size,
        },
        _connect.Connection(base_url, api_key_file, poll_interval, emulator),
        out=out,
        overwrite=overwrite,
        timeout=timeout,
        json_lines=json,
    )


@app.command(context_settings=_HELP)
def submit(
    prompt: Prompt,
    image: ImageOption = None,
    duration: Duration = None,
    resolution: Resolution = None,
    aspect_ratio: AspectRatio = None,
    model: Model = None,
    user: User = None,
    upload_url: UploadUrl = None,
    size: Size = None,
    emulator: NoEmulator = False,
    base_url: BaseUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Json = False,
) -> int:
    """Start a job and print its request_id."""
    from grok_video._cli import _connect, _jobs

    return _jobs.submit(
        {
            "prompt": prompt,
            "image": image,
            "duration": duration,
            "resolution": resolution,
            "aspect_ratio": aspect_ratio,
            "model": model,
            "user": user,
            "upload_url": upload_url,
            "size": size,
        },
        _connect.Connection(base_url, api_key_file, emulator=emulator),
        json_lines=json,
    )


@app.command(context_settings=_HELP)
def status(
    request_id: RequestId,
    uploaded: Uploaded = False,
    emulator: NoEmulator = False,
    base_url: BaseUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Json = False,
) -> int:
    """Ask once how a job is. Exits 0 whenever the API told, also of a failed job."""
    from grok_video._cli import _connect, _jobs

    connection = _connect.Connection(base_url, api_key_file, emulator=emulator)
    return _jobs.status(request_id, connection, uploaded=uploaded, json_lines=json)


@app.command(context_settings=_HELP)
def wait(
    request_id: RequestId,
    out: Out = None,
    overwrite: Overwrite = False,
    uploaded: Uploaded = False,
    timeout: Timeout = 600.0,
    poll_interval: PollInterval = None,
    emulator: NoEmulator = False,
    base_url: BaseUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Json = False,
) -> int:
    """Wait for a job, from any process and on any day. Prints the link, or the path with -o."""
    from grok_video._cli import _connect, _jobs

    return _jobs.wait(
        request_id,
        _connect.Connection(base_url, api_key_file, poll_interval, emulator),
        command="wait",
        out=out,
        overwrite=overwrite,
        uploaded=uploaded,
        timeout=timeout,
        json_lines=json,
    )


@app.command(context_settings=_HELP)
def download(
    request_id: RequestId,
    out: RequiredOut,
    overwrite: Overwrite = False,
    timeout: Timeout = 600.0,
    poll_interval: PollInterval = None,
    emulator: NoEmulator = False,
    base_url: BaseUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Json = False,
) -> int:
    """Save a job's video, continuing where an earlier try broke off. Waits if it is not done."""
    from grok_video._cli import _connect, _jobs

    return _jobs.wait(
        request_id,
        _connect.Connection(base_url, api_key_file, poll_interval, emulator),
        command="download",
        out=out,
        overwrite=overwrite,
        timeout=timeout,
        json_lines=json,
    )


@app.command(context_settings=_HELP)
def batch(
    manifest: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST",
            help="CSV or JSON Lines with key, prompt, image and any option; or a folder of "
            "pictures, with --prompt.",
            show_default=False,
            callback=named_in,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Save the videos here, as KEY.mp4.",
            callback=named_out,
        ),
    ],
    prompt: Annotated[str | None, typer.Option(help="For lines without one.")] = None,
    duration: Duration = None,
    resolution: Resolution = None,
    aspect_ratio: AspectRatio = None,
    model: Model = None,
    user: User = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Where it stands; the default is DIR/grok-video.sqlite.",
            callback=named_out,
        ),
    ] = None,
    max_in_flight: Annotated[
        int, typer.Option(metavar="N", help="Under way at once, at most.")
    ] = 200,
    max_cost: Annotated[
        str | None,
        typer.Option(metavar="USD", help="Send nothing that could lead beyond it."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Send again what failed or expired.")
    ] = False,
    resubmit_in_doubt: Annotated[
        bool,
        typer.Option(
            "--resubmit-in-doubt", help="Send again what is in doubt, and perhaps pay twice."
        ),
    ] = False,
    found_id: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=ID", help="The request_id found for an item in doubt."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are in the place of videos.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="For the wait of each job.")
    ] = 600.0,
    poll_interval: PollInterval = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Send nothing, and say what it would cost."),
    ] = False,
    emulator: NoEmulator = False,
    base_url: BaseUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Json = False,
) -> int:
    """Make many videos. The same command goes on where it ended, and pays for nothing twice."""
    from grok_video._cli import _batch, _connect, _plan

    connection = _connect.Connection(base_url, api_key_file, poll_interval, emulator)
    plan = _plan.Plan(
        manifest,
        out,
        {
            "prompt": prompt,
            "duration": duration,
            "resolution": resolution,
            "aspect_ratio": aspect_ratio,
            "model": model,
            "user": user,
        },
        ledger=ledger,
        max_in_flight=max_in_flight,
        max_cost=max_cost,
        retry_failed=retry_failed,
        resubmit_in_doubt=resubmit_in_doubt,
        found_ids=found_id or (),
        overwrite=overwrite,
        timeout=timeout,
        poll_interval=poll_interval,
        connection_options=connection.resume_options(),
    )
    return _batch.batch(plan, connection, json_lines=json, dry_run=dry_run)


@app.command(context_settings=_HELP)
def report(
    ledger: Annotated[
        str,
        typer.Argument(metavar="LEDGER", help="Of a batch, also a running one.", callback=named_in),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The page.",
            show_default=False,
            callback=named_out,
        ),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace FILE even if it is no earlier page.")
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    json: Json = False,
) -> int:
    """Make one page of a batch: pictures beside videos, what failed and why, time and cost."""
    from grok_video._cli import _show

    return _show.report(ledger, out, overwrite=overwrite, open_it=open_it, json_lines=json)


@app.command(context_settings=_HELP)
def emulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    form: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORM",
            help="Of the polls' answers: flat, envelope or native; several take turns.",
        ),
    ] = None,
    time_scale: Annotated[
        float | None,
        typer.Option(
            help="Share of the real service's time a job takes: 1 is life; 0.05 where not given."
        ),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Keep jobs, links and the bill here between runs."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="An MP4 to serve in place of rendered ones."),
    ] = None,
    seed: Annotated[int, typer.Option(help="How long jobs take is drawn from this.")] = 0,
    link_life: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="A day where not given.")
    ] = None,
) -> int:
    """Emulate the API on loopback until interrupted. Prints one JSON line: base_url and api_key."""
    from grok_video._cli import _serve

    return _serve.emulator(
        port=port,
        form=form or (),
        time_scale=time_scale,
        state=state,
        clip=clip,
        seed=seed,
        link_life=link_life,
    )


@app.command(context_settings=_HELP)
def doctor(
    emulator: EmulatorFlag = False,
    base_url: BaseUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Json = False,
) -> int:
    """Tell what would be used and whether the API answers. Costs nothing, never shows the key."""
    from grok_video._cli import _connect, _doctor

    connection = _connect.Connection(base_url, api_key_file, emulator=emulator)
    return _doctor.doctor(connection, json_lines=json)


# --- running one ---------------------------------------------------------------------------------


def run(arguments: Sequence[str] | None) -> int:
    """Run one command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command, name, rest = typer.main.get_command(app), "grok-video", arguments
    # Past the root: typer 0.29 would load pydantic (80 ms) to find that its --help was not given.
    named = getattr(command, "commands", {}).get(arguments[0]) if arguments else None
    if named is not None:
        command, name, rest = named, f"grok-video {arguments[0]}", arguments[1:]
    try:
        code = command.main(rest, prog_name=name, standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # typer brings a click of its own in some versions and uses an installed one in others; the
        # usage errors of both have this method, and nothing else has.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        # What is accepted only to be refused with a reason is no good suggestion.
        if possibilities := getattr(error, "possibilities", None):
            hidden = {
                option
                for parameter in command.params
                if getattr(parameter, "hidden", False)
                for option in parameter.opts
            }
            # click's, which only some of its errors have.
            error.possibilities = [one for one in possibilities if one not in hidden]  # type: ignore[attr-defined]
        _tell_usage(name, message(), as_json="--json" in arguments)
        return 2
    return code if isinstance(code, int) else 0


def _tell_usage(command: str, message: str, *, as_json: bool) -> None:
    from grok_video._cli._console import Console
    from grok_video._cli._endings import USAGE, error_facts
    from grok_video._redaction import redact

    # A word too many may be a key. `doctor` takes none, so there it hardly can be anything else.
    message = redact(message)
    if command.endswith(" doctor"):
        message = re.sub(r"(extra arguments?(?:\(s\))?) \(.*\)", r"\1", message)
    said = f"{message.rstrip('.')}. See: {command} --help"
    with contextlib.suppress(OSError):  # the exit code says it as well
        Console(json_lines=as_json).error(error_facts("UsageError", said, exit_code=USAGE))

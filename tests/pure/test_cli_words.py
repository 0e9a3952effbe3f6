"""The parts of the command line that need no process: words in, lines out, exit codes."""

from __future__ import annotations

import shlex
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from grok_video import (
    APIConnectionError,
    AsyncClient,
    AuthenticationError,
    ConfigurationError,
    CreateOutcomeUnknown,
    DestinationError,
    InvalidRequest,
    JobExpired,
    JobFailed,
    JobTimeout,
    LedgerError,
    LinkExpired,
    ModerationRefused,
    NotFound,
    Outcome,
    OutcomeState,
)
from grok_video._cli import _endings
from grok_video._cli._arguments import read_request
from grok_video._cli._batch import BatchConsole, BatchErrand
from grok_video._cli._console import Console, in_bash, one_line, printable
from grok_video._cli._endings import Errand, Interrupted, exit_code
from grok_video._cli._jobs import picture
from grok_video._cli._plan import Plan, plain
from grok_video._cli._rows import open_rows
from grok_video._cli._words import last_words, summary_facts
from grok_video._errors import resume_hint
from grok_video._outcomes import Tally
from tests.conftest import PHOTO

CODES: list[tuple[BaseException, int]] = [
    (InvalidRequest("m", field="f"), 2),
    (ConfigurationError("m"), 2),
    (CreateOutcomeUnknown("m", fingerprint="f", sent_at=0.0, phase="p"), 3),
    (JobTimeout("m", request_id="i"), 4),
    (JobFailed("m", request_id="i"), 1),
    (ModerationRefused("m", request_id="i"), 1),
    (JobExpired("m", request_id="i"), 1),
    (LinkExpired("m", request_id="i"), 1),
    (DestinationError("m", request_id="i"), 1),
    (AuthenticationError("m", status=401), 1),
    (APIConnectionError("m", may_have_been_sent=False), 1),
    (OSError(28, "No space left on device"), 1),
    (RuntimeError("m"), 1),
    (KeyboardInterrupt(), 130),
    (Interrupted(2), 130),
    (Interrupted(15), 143),
]


def test_nothing_is_a_mere_matter_of_usage_once_a_batch_may_have_paid() -> None:
    errand = BatchErrand(BatchConsole(json_lines=True), Plan("m.csv", "out", {}))
    full = LedgerError("the ledger cannot be written", path=Path("a.sqlite"))
    assert errand.exit_code(full) == 2
    errand.batch = AsyncClient("key").batch([])
    assert errand.exit_code(full) == errand.facts(full)["exit_code"] == 1
    assert errand.exit_code(Interrupted(2)) == 130


@pytest.mark.parametrize(("error", "code"), CODES)
def test_every_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code
    assert Errand(Console(json_lines=True)).facts(error)["exit_code"] == code


def test_the_command_that_resumes_has_the_options_of_the_one_that_ended() -> None:
    errand = Errand(
        Console(json_lines=False),
        request_id="it's",
        resume_options=["--base-url", "http://h/v1"],
        out="a b.mp4",
    )
    assert errand.resume == ("""grok-video wait 'it'"'"'s' --base-url http://h/v1 -o 'a b.mp4'""")


def test_no_command_is_named_that_is_certain_to_fail(tmp_path: Path) -> None:
    taken, free = tmp_path / "taken.mp4", tmp_path / "free.mp4"
    taken.touch()

    def resume(error: BaseException, out: Path | None = None, **words: Any) -> str | None:
        place = str(out) if out is not None else None
        errand = Errand(Console(json_lines=False), request_id="i-1", out=place, **words)
        return errand.facts(error)["resume"]

    late = JobTimeout("m", request_id="i-1")
    assert resume(late, free) == f"grok-video wait i-1 -o {free}"
    assert resume(late, taken, overwrite=True) == f"grok-video wait i-1 -o {taken} --overwrite"
    # The file came to be meanwhile, or its folder is gone: the link can be had in any case.
    assert resume(late, taken) == "grok-video wait i-1"
    assert resume(late, tmp_path / "gone" / "a.mp4") == "grok-video wait i-1"
    # Refused before anything was asked, or asked for what is not there.
    assert resume(DestinationError("m", request_id=None), taken) is None
    assert resume(ConfigurationError("no key")) is None
    assert resume(NotFound("m", status=404, code="task_not_exist")) is None
    assert resume(NotFound("m", status=404, code="model_not_found")) == "grok-video wait i-1"
    # A job that was accepted a moment ago is worth another try, whatever the API says of it.
    errand = Errand(Console(json_lines=False))
    errand.request_id = "i-2"
    facts = errand.facts(NotFound("m", status=404, code="task_not_exist"))
    assert facts["resume"] == "grok-video wait i-2"


def test_an_unknown_outcome_has_the_facts_by_which_to_find_it() -> None:
    request = read_request({"prompt": "x", "duration": "5", "resolution": "480p"}, picture)
    errand = Errand(Console(json_lines=False))
    errand.begin(request)
    hash_ = request.fingerprint()
    error = CreateOutcomeUnknown("m.", fingerprint=hash_, sent_at=1_800_000_000.9, phase="p")
    facts = errand.facts(error)
    assert (facts["sent_at"], facts["fingerprint"]) == ("2027-01-15T08:00:00Z", hash_)
    assert facts["estimate_usd"] == 0.4
    assert facts["message"] == (
        f"m. Sent at 2027-01-15T08:00:00Z, fingerprint {hash_}; by the list it costs 0.4 USD."
    )
    # The same of a create that was left at once.
    facts = errand.facts(Interrupted(2))
    assert facts["fingerprint"] == hash_
    assert f"fingerprint {hash_}" in facts["message"]
    errand.creating, errand.request_id = False, "i-1"
    assert "fingerprint" not in errand.facts(Interrupted(2))


def test_an_error_names_its_job_once_and_resumes_once() -> None:
    errand = Errand(Console(json_lines=False))
    message = f"the link is dead. {resume_hint('i-1')}"
    facts = errand.facts(LinkExpired(message, request_id="i-1"))
    assert facts["message"] == "job i-1: the link is dead."
    assert errand.console.error_line(facts) == (
        "grok-video: job i-1: the link is dead. Resume with: grok-video wait i-1"
    )


def test_a_bug_after_a_create_still_names_the_job() -> None:
    errand = Errand(Console(json_lines=False), request_id="i-1")
    facts = errand.facts(ZeroDivisionError("division by zero"))
    assert "i-1" in facts["message"]
    assert "ZeroDivisionError" in facts["message"]
    assert facts["resume"] == "grok-video wait i-1"


def test_an_interruption_says_what_may_have_been_paid() -> None:
    errand = Errand(Console(json_lines=False))
    assert errand.facts(Interrupted(2))["message"] == "interrupted; nothing was sent"
    errand.creating = True
    assert "may have been accepted and billed" in errand.facts(Interrupted(2))["message"]
    errand.request_id = "i-1"
    assert errand.facts(Interrupted(2))["resume"] == "grok-video wait i-1"


def test_other_peoples_text_stays_on_one_line_and_moves_no_cursor() -> None:
    assert one_line(" a\r\n\n  b \x1b[31mred\x07 c\u2028d ") == r"a b \x1b[31mred\x07 c\u2028d"
    assert one_line("grün 猫") == "grün 猫"
    assert one_line("\ud800 \x85 \u202egp4.txt\u2069") == r"\ud800 \x85 \u202egp4.txt\u2069"


def test_what_a_name_may_have_stays_as_it_is() -> None:
    # Spaces of every width (macOS puts one before AM), joiners (Persian, emoji of several), a mark
    # of a vendor's own, and one that Unicode may know tomorrow.
    name = "  at 10.11\u202fAM 猫\u3000a\u00a0b می\u200cشود 👩\u200d💻 \uf8ff \U0001fae9 "
    assert printable(name) == name
    assert one_line(name) == name.strip()
    assert printable("a\nb\x1b[2J") == r"a\nb\x1b[2J", "a name is one line, and no two are the same"


def test_the_librarys_sentences_are_spelled_for_a_shell() -> None:
    # Should the library change its words, these spellings would silently stop to apply.
    from grok_video._arguments import refuse_unknown
    from grok_video._settings import find_key

    with pytest.raises(ConfigurationError) as caught:
        find_key(None)
    assert "--api-key-file" in _endings.in_shell_words(caught.value.message)
    with pytest.raises(InvalidRequest) as refused:
        refuse_unknown(find_key, {"size": "720p"})
    said = _endings.in_shell_words(refused.value.message)
    assert "use --aspect-ratio (such as '16:9') and --resolution (720p)" in said


def test_names_of_arguments_become_options_and_paths_stay_paths() -> None:
    said = _endings.in_shell_words(
        "use aspect_ratio (such as '16:9'); give found_ids, or resubmit_in_doubt: max_cost_usd "
        "(0.2 USD). See /x/max_cost/time_scale.csv, 'aspect_ratio' and retry_failed."
    )
    assert said == (
        "use --aspect-ratio (such as '16:9'); give --found-id, or --resubmit-in-doubt: --max-cost "
        "(0.2 USD). See /x/max_cost/time_scale.csv, 'aspect_ratio' and --retry-failed."
    )


def test_a_path_is_told_without_its_detours_unless_a_link_gives_them_a_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    monkeypatch.chdir(tmp_path / "a")
    assert plain("../videos/x.mp4") == str(tmp_path / "videos" / "x.mp4")
    assert plain("../link/x.mp4") == str(tmp_path / "link" / "x.mp4")
    assert plain("../link/../x.mp4") == str((tmp_path / "a" / "x.mp4").resolve())


def test_a_manifest_means_the_picture_that_the_system_would_open(tmp_path: Path) -> None:
    """Behind a link to a folder `..` is another folder, and its picture would be paid for."""
    (tmp_path / "releases" / "1").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/1")
    for folder in (tmp_path, tmp_path / "releases"):
        (folder / "cat.jpg").write_bytes(PHOTO.read_bytes() + str(folder).encode())
    manifest = tmp_path / "m.csv"
    manifest.write_text("key,prompt,image\na,drift,current/../cat.jpg\n")
    with open_rows(str(manifest), {}, out="out") as rows:
        assert rows.check() == 1
        (item,) = rows.items()
    assert item.request.image is not None
    assert item.request.image.source.samefile(tmp_path / "releases" / "cat.jpg")


def test_a_string_on_the_command_line_is_a_path_unless_it_is_a_url() -> None:
    assert picture("cat.jpg").kind == "path"
    assert picture("HTTPS://host/cat.jpg").kind == "url"
    assert picture("data:image/png;base64,iVBORw0KGgo=").kind == "data"


def test_only_what_was_given_is_asked_for() -> None:
    request = read_request(
        {"prompt": "x", "duration": "+3", "user": None, "upload_url": "https://h/p"}, picture
    )
    assert request.settings() == {
        "model": request.model,
        "prompt": "x",
        "duration": 3,
        "output": {"upload_url": "https://h/p"},
    }


def test_only_what_may_come_to_another_end_is_offered_to_be_tried_again() -> None:
    tally = Tally()
    for number, retryable in enumerate([True, True, False]):
        tally.add(Outcome(f"k{number}", OutcomeState.FAILED, retryable=retryable))
    summary = tally.summary(
        in_flight=0, is_over=True, cost_usd=Decimal(0), open_usd=Decimal(0), stopped=None
    )
    plan = Plan("m.csv", "out", {})
    told = last_words(summary, plan, {})
    assert "2 failed or expired. To try them again: " + plan.command("--retry-failed") in told
    assert "1 failed for good (each says why), and --retry-failed leaves them out" in told
    assert summary_facts(summary)["failed"][0]["key"] == "k0"
    tally = Tally()
    tally.add(Outcome("k", OutcomeState.FAILED))
    summary = tally.summary(
        in_flight=0, is_over=True, cost_usd=Decimal(0), open_usd=Decimal(0), stopped=None
    )
    assert not any("To try them again" in line for line in last_words(summary, plan, {}))


@pytest.mark.parametrize("is_at_ceiling", [True, False])
def test_more_money_is_asked_for_where_it_was_wanting_whatever_else_stopped_the_batch(
    is_at_ceiling: bool,
) -> None:
    """That is a fact of the summary, and no search in its words."""
    tally = Tally()
    tally.add(Outcome("k", OutcomeState.LEFT))
    summary = tally.summary(
        in_flight=0,
        is_over=False,
        cost_usd=Decimal(0),
        open_usd=Decimal(0),
        stopped="stop() was called",
        is_at_ceiling=is_at_ceiling,
    )
    told = " ".join(last_words(summary, Plan("m.csv", "out", {}, max_cost="1"), {}))
    assert ("--max-cost MORE" in told) == is_at_ceiling


def test_a_command_in_a_sentence_has_the_prompt_to_its_letter() -> None:
    """A line break that became a space would make another prompt, and with it new keys."""
    prompt = "first\nthen 'second'"
    tally = Tally()
    for state in OutcomeState:
        tally.add(Outcome(state.value, state, retryable=state is OutcomeState.FAILED))
    summary = tally.summary(
        in_flight=0, is_over=True, cost_usd=Decimal(0), open_usd=Decimal(0), stopped=None
    )
    in_the_way = {OutcomeState.LEFT: 1, OutcomeState.UNFETCHED: 1}
    plan = Plan("m.csv", "out", {"prompt": prompt})
    told = " ".join(one_line(line) for line in last_words(summary, plan, in_the_way))
    spelled = in_bash(shlex.quote(prompt))
    assert told.count(f"grok-video batch m.csv -o out --prompt {spelled}") == 6
    assert told.count("grok-video batch") == 6
    read = subprocess.run(
        ["bash", "-c", f"printf %s {spelled}"], capture_output=True, text=True, check=True
    )
    assert read.stdout == prompt

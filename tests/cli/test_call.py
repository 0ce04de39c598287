"""`calls-mcp call`: one tool from the shell, confirmed on a terminal."""

import json
import signal
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any, cast

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from calls_mcp.emulator.testing import RunningEmulator
from calls_mcp.storage.database import default_path
from calls_mcp.tools.humanize import formatted
from tests.audit_records import records_in
from tests.cli.terminal import on_terminal
from tests.cli.test_main import run, run_on_terminal
from tests.guard.test_policy import policy
from tests.harness import CALLER, TALKS_FOR_AN_HOUR, TWIML
from tests.upstream import Exchange, Upstream, answer, call

PLACE = ("create_call", f"to={TALKS_FOR_AN_HOUR}", f"from={CALLER}", f"twiml={TWIML}")
PROMPT = "Type yes to confirm"


def answered(status: int, *arguments: str, stdin: str = "", **variables: str) -> dict[str, Any]:
    """Call a tool that must end with this status; return its JSON."""
    ended = run("call", *arguments, "--json", stdin=stdin, **variables)
    assert ended.returncode == status, ended.stderr
    return cast("dict[str, Any]", json.loads(ended.stdout))


def changes(account: RunningEmulator) -> list[str]:
    return [entry.method for entry in account.requests if entry.method != "GET"]


def placed() -> str:
    return cast("str", answered(0, *PLACE, "--yes")["call"]["sid"])


def test_a_read_is_shown_as_a_model_sees_it(account: RunningEmulator) -> None:
    sid = placed()
    told = run("call", "fetch_call", f"sid={sid}")
    assert told.returncode == 0
    assert told.stdout.startswith(f"{sid} queued outbound-api {CALLER} → {TALKS_FOR_AN_HOUR}")
    assert "\x1b" not in told.stdout
    assert changes(account) == ["POST"]


@pytest.mark.usefixtures("account")
def test_numbers_and_repeated_lists_get_the_types_of_the_schema() -> None:
    more = ("timeout=20", "record=false", "status_callback=https://example.com/s")
    events = ("status_callback_event=ringing", "status_callback_event=answered")
    assert answered(0, *PLACE, *more, *events, "--yes")["outcome"] == "done"
    (fault,) = answered(1, "list_calls", "limit=soon")["error"]["faults"]
    assert fault["path"] == "/limit"


@pytest.mark.usefixtures("account")
def test_the_command_line_overrides_arguments_from_input(
    tmp_path: Path,
) -> None:
    placed()
    given = '{"limit": 5, "status": "busy"}'
    file = tmp_path / "arguments.json"
    for mark in ("", "\ufeff"):  # Windows programs start files with a byte-order mark
        file.write_text(f"{mark}{given}", "utf-8")
        found = answered(0, "list_calls", "status=queued", "--input", str(file))
        assert found["count"] == 1
        assert answered(0, "list_calls", "--input", "-", stdin=f"{mark}{given}")["count"] == 0


def test_an_error_is_status_1(account: RunningEmulator) -> None:
    told = run("call", "fetch_call", f"sid=CA{'9' * 32}")
    assert told.returncode == 1
    assert told.stdout.startswith("not_found: ")
    assert answered(1, "delete_call", "SID=x")["error"]["kind"] == "invalid_arguments"
    assert changes(account) == []


@pytest.mark.parametrize(
    "arguments",
    [
        "no_such_tool",
        "fetch_call sid",
        "fetch_call =x",
        "fetch_call sid=x sid=y",
        "fetch_call --input no/such/file",
    ],
)
@pytest.mark.usefixtures("account")
def test_wrong_usage_is_status_2_and_one_line(arguments: str) -> None:
    told = run("call", *arguments.split())
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("calls-mcp: ")
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["no json", "[1]", "[" * 100_000])
@pytest.mark.usefixtures("account")
def test_an_input_that_is_not_a_json_object_is_status_2(text: str) -> None:
    told = run("call", "list_calls", "--input", "-", stdin=text)
    assert told.returncode == 2
    assert told.stderr == "calls-mcp: --input -: must be a JSON object.\n"


def test_a_disabled_tool_is_status_2(account: RunningEmulator) -> None:
    told = run("call", *PLACE, "--yes", CALLS_MCP_READ_ONLY="1")
    assert told.returncode == 2
    assert "is not available" in told.stderr
    assert changes(account) == []


def test_missing_credentials_are_named() -> None:
    told = run("call", "list_calls")
    assert told.returncode == 2
    assert "TWILIO_ACCOUNT_SID" in told.stderr


def test_without_a_terminal_a_change_is_not_done_and_the_status_is_4(
    account: RunningEmulator,
) -> None:
    told = run("call", *PLACE, "--json")
    assert told.returncode == 4
    assert json.loads(told.stdout)["outcome"] == "confirmation_required"
    assert "--yes" in told.stderr
    assert changes(account) == []


def test_the_token_confirms_the_change_in_a_later_process(
    account: RunningEmulator, sqlite_url: str
) -> None:
    asked = answered(4, *PLACE, CALLS_MCP_STATE_URL=sqlite_url)
    token = asked["confirmation"]["token"]
    answered(0, *PLACE, f"confirmation_token={token}", CALLS_MCP_STATE_URL=sqlite_url)
    assert changes(account) == ["POST"]


def test_yes_shows_the_preview_that_it_confirms(account: RunningEmulator) -> None:
    tool, *arguments = PLACE
    told = run("call", tool, "--yes", arguments[0], "--json", *arguments[1:])
    assert (told.returncode, json.loads(told.stdout)["outcome"]) == (0, "done")
    assert "Call +1 500" in told.stderr
    assert changes(account) == ["POST"]


@pytest.mark.parametrize(
    ("requirement", "told"), [("require_human", (4, "awaiting_operator")), ("deny", (1, "error"))]
)
def test_yes_does_not_bypass_the_policy(
    requirement: str, told: tuple[int, str], account: RunningEmulator, tmp_path: Path
) -> None:
    file = str(policy(tmp_path, f'[confirm]\nplace = "{requirement}"\n'))
    status, outcome = told
    assert answered(status, *PLACE, "--yes", CALLS_MCP_POLICY=file)["outcome"] == outcome
    assert changes(account) == []


@pytest.mark.process
def test_yes_typed_on_the_terminal_counts_as_a_humans_confirmation(
    account: RunningEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "audit.db"
    file = policy(tmp_path, '[confirm]\nplace = "require_human"\n')
    monkeypatch.setenv("CALLS_MCP_POLICY", str(file))
    monkeypatch.setenv("CALLS_MCP_AUDIT_DATABASE", str(record))
    with on_terminal("call", *PLACE, "--json") as terminal:
        terminal.wait_for(PROMPT)
        assert changes(account) == []
        terminal.type("yes\n")
        status, out = terminal.ended()
    assert (status, json.loads(out)["outcome"]) == (0, "done")
    assert f"Call {formatted(TALKS_FOR_AN_HOUR)}." in terminal.seen
    assert changes(account) == ["POST"]
    assert [entry.get("confirmed_by") for entry in records_in(record)][1:] == ["elicitation", None]


@pytest.mark.process
def test_a_wait_shows_each_status_on_a_terminal(account: RunningEmulator) -> None:
    with on_terminal("call", "fetch_call", f"sid={placed()}", "wait_until=ended") as terminal:
        terminal.wait_for("queued…")
        account.advance(10)
        terminal.wait_for("in-progress…")
        account.advance(2 * 3600)
        status, out = terminal.ended()
    assert (
        status,
        "A person or a machine answered (no machine_detection result). Duration: 1 h." in out,
    ) == (0, True)


@pytest.mark.process
def test_no_log_line_interrupts_the_question(
    account: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("CALLS_MCP_STATE_URL", "memory:")
    monkeypatch.setenv("CALLS_MCP_AUDIT_DATABASE", "stderr:")
    with on_terminal("call", *PLACE, "-vv") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("no\n")
        assert terminal.ended()[0] == 3
    question = terminal.seen[terminal.seen.index("Call +1 500") : terminal.seen.index(PROMPT)]
    assert "calls-mcp: create_call: " in terminal.seen
    assert "calls-mcp: " not in question
    assert '"decision"' not in question
    assert changes(account) == []


@pytest.mark.parametrize("typed", ["no\n", "y\n", "YES\n", "\n", "yes please\n"])
def test_any_other_answer_declines(typed: str, account: RunningEmulator) -> None:
    told = run_on_terminal("call", *PLACE, typed=typed)
    assert told.returncode == 3
    assert told.stdout.startswith("The user said no.")
    assert PROMPT in told.stderr
    assert changes(account) == []


@pytest.mark.process
def test_the_end_of_input_declines(
    account: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with on_terminal("call", *PLACE) as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("\x04")
        status, out = terminal.ended()
    assert (status, out) == (3, "The user dismissed the question. Nothing was done.\n")
    assert "\x1b" not in terminal.seen
    assert changes(account) == []


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_question_ends_the_command_and_nothing_is_done(
    number: signal.Signals, account: RunningEmulator
) -> None:
    with on_terminal("call", *PLACE) as terminal:
        terminal.wait_for(PROMPT)
        terminal.process.send_signal(number)
        assert terminal.ended() == (130, "")
    assert changes(account) == []


@pytest.fixture
def slow() -> Generator[tuple[Upstream, Event, Event]]:
    """An API that answers to a new call only when the test lets it."""
    sent, answered = Event(), Event()

    async def later(exchange: Exchange) -> None:
        sent.set()
        await anyio.to_thread.run_sync(answered.wait)
        await answer(201, call())(exchange)

    with start_blocking_portal() as portal:
        upstream = Upstream(later)
        with portal.wrap_async_context_manager(upstream):
            yield upstream, sent, answered
            answered.set()


@pytest.mark.process
def test_a_change_that_was_sent_before_a_signal_is_finished_and_recorded(
    slow: tuple[Upstream, Event, Event],
    account: RunningEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream, sent, answered = slow
    record = tmp_path / "audit.db"
    monkeypatch.setenv("CALLS_MCP_API_BASE_URL", upstream.base_url)
    monkeypatch.setenv("CALLS_MCP_AUDIT_DATABASE", str(record))
    del account
    with on_terminal("call", *PLACE, "--yes") as terminal:
        sent.wait()
        terminal.process.send_signal(signal.SIGINT)
        answered.set()
        status, _ = terminal.ended()
    assert status in (0, 130)  # whether the answer was still waited for
    last = records_in(record)[-1]
    assert (last["phase"], last["outcome"]) == ("after", "done")
    assert upstream.methods == ["POST"]


def test_the_sandbox_needs_no_setting_and_keeps_its_state_in_its_own_database() -> None:
    asked = answered(4, *PLACE, "--sandbox")
    token = asked["confirmation"]["token"]
    done = answered(0, *PLACE, f"confirmation_token={token}", "--sandbox")
    assert done["sandbox"]
    file = default_path(sandbox=True)
    assert [record["phase"] for record in records_in(file)][-2:] == ["before", "after"]
    assert not default_path().exists()


def test_an_operator_can_approve_a_change_in_the_sandbox() -> None:
    operator = {"CALLS_MCP_CONFIRM": "operator"}
    asked = answered(4, *PLACE, "--sandbox", "--yes", **operator)
    assert asked["outcome"] == "awaiting_operator"
    approval = asked["confirmation"]["approval"]
    assert run("approvals", "approve", approval, "--sandbox").returncode == 0
    assert answered(0, *PLACE, "--sandbox", **operator)["outcome"] == "done"


def test_the_sandbox_uses_the_databases_of_the_settings(tmp_path: Path, sqlite_url: str) -> None:
    record = tmp_path / "audit.db"
    chosen = {"CALLS_MCP_STATE_URL": sqlite_url, "CALLS_MCP_AUDIT_DATABASE": str(record)}
    answered(0, *PLACE, "--sandbox", "--yes", **chosen)
    assert records_in(record)
    assert (tmp_path / "state.db").exists()
    assert not default_path(sandbox=True).exists()


def spoil_newer(file: Path) -> str:
    with closing(sqlite3.connect(file)) as newer:
        newer.execute("PRAGMA user_version = 99")
    return "newer version of calls-mcp"


def spoil_no_database(file: Path) -> str:
    file.write_text("x" * 5000, "utf-8")
    return "not a database"


SPOILERS = [spoil_newer, spoil_no_database]


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("setting", ["CALLS_MCP_STATE_URL", "CALLS_MCP_AUDIT_DATABASE"])
@pytest.mark.usefixtures("account")
def test_an_unusable_file_is_reported_with_the_setting_that_replaces_it(
    spoil: Callable[[Path], str],
    setting: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, variables = (
        tmp_path / "audit.db",
        {"CALLS_MCP_AUDIT_DATABASE": str(tmp_path / "audit.db")},
    )
    if setting == "CALLS_MCP_STATE_URL":
        file = default_path()
        file.parent.mkdir(parents=True)
    why = spoil(file)
    error = answered(1, *PLACE, "--yes", **variables)["error"]
    assert setting in error["hint"]
    assert str(file) not in json.dumps(error)
    assert all(part in caplog.text for part in (setting, str(file), why))


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize(
    "command", [("approvals",), ("approvals", "approve", "x"), ("console", "--port", "0")]
)
def test_approvals_and_the_console_report_an_unusable_file_in_one_line(
    command: tuple[str, ...], spoil: Callable[[Path], str]
) -> None:
    file = default_path()
    file.parent.mkdir(parents=True)
    why = spoil(file)
    told = run(*command)
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1)
    assert told.stderr.startswith(f"calls-mcp: The state store {file} can't be used: ")
    assert why in told.stderr
    assert "CALLS_MCP_STATE_URL" in told.stderr
    assert "folder" not in told.stderr


SECRET = "hunter2"


@pytest.mark.parametrize(
    "words",
    [
        [f"sip_auth_password:{SECRET}"],
        [f"sip_auth_password:{SECRET}=x"],
        [f"--sip-auth-password={SECRET}"],
        [f"--sip_auth_password:{SECRET}"],
        ["--sip-auth-password", SECRET],
        ["--yes", f"sip_auth_password:{SECRET}"],
        [f"-p{SECRET}"],
        [f"={SECRET}"],
    ],
)
@pytest.mark.usefixtures("account")
def test_no_error_repeats_a_possible_secret(words: list[str]) -> None:
    for arguments in (["create_call", *words], [*words, "create_call"]):
        told = run("call", *arguments, "--json")
        assert told.returncode == 2
        assert SECRET not in told.stdout + told.stderr

"""`calls-mcp approvals`: listing and deciding approval requests."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from calls_mcp.cli.main import main
from calls_mcp.emulator.testing import RunningEmulator
from calls_mcp.storage.database import default_path
from calls_mcp.storage.records import OperatorDecision, as_json
from tests.audit_records import records_in
from tests.cli.test_call import PLACE, changes
from tests.guard.test_policy import policy

WATCH = (sys.executable, "-m", "calls_mcp", "approvals", "--watch")

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: RunningEmulator) -> Path:
    """Return the audit log of servers whose operator must approve new calls."""
    del account
    file = tmp_path / "audit.db"
    monkeypatch.setenv("CALLS_MCP_POLICY", str(policy(tmp_path, '[confirm]\nplace = "operator"\n')))
    monkeypatch.setenv("CALLS_MCP_STATE_URL", f"sqlite:///{tmp_path}/state.db")
    monkeypatch.setenv("CALLS_MCP_AUDIT_DATABASE", str(file))
    return file


def asked(capsys: Captured) -> str:
    """Ask for a call; return the id of its approval request."""
    assert main(["call", *PLACE, "--json"]) == 4
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["outcome"] == "awaiting_operator"
    return cast("str", outcome["confirmation"]["approval"])


def test_a_name_cannot_hide_the_preview(capsys: Captured, record: Path) -> None:
    approval = asked(capsys)
    nasty = "ann\r\n  Hang up\x1b[8m\u202e"
    with closing(sqlite3.connect(record.parent / "state.db")) as store, store:
        for field in ("$.client", "$.binding.principal"):
            store.execute(
                "UPDATE approval_requests SET request = json_set(request, ?, ?)", (field, nasty)
            )
    assert main(["approvals", "show", approval]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith('ago by "ann Hang up[8m" ("ann Hang up[8m")')
    assert any("Call +1 500" in line for line in lines[4:])


def shown(capsys: Captured, *arguments: str) -> Any:  # noqa: ANN401  # JSON
    assert main(["approvals", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_pending_requests_are_listed_with_a_summary(capsys: Captured, record: Path) -> None:
    assert main(["approvals"]) == 0
    assert capsys.readouterr().out == f"No pending approval requests in {record.parent}/state.db\n"
    approval = asked(capsys)
    assert main(["approvals", "list"]) == 0
    told = capsys.readouterr().out
    assert approval in told
    assert "Call +1 500" in told
    assert main(["approvals", "show", approval]) == 0
    told = capsys.readouterr().out
    assert 'ago by "calls-mcp call" ("calls-mcp call ' in told
    assert "The server that asked has stopped. If you approve this, the change is" in told
    (listed,) = shown(capsys, "list")
    whole = shown(capsys, "show", approval)
    assert listed == {name: value for name, value in whole.items() if name != "progress"}
    assert (listed["id"], listed["state"], listed["tool"]) == (approval, "pending", "create_call")


def test_an_approved_change_runs_when_it_is_called_again(
    account: RunningEmulator, record: Path, capsys: Captured
) -> None:
    approval = asked(capsys)
    assert main(["approvals", "approve", approval, "--by", "bob"]) == 0
    assert capsys.readouterr().out == "Approved. It runs when the agent retries.\n"
    assert changes(account) == []
    assert main(["call", *PLACE]) == 0
    capsys.readouterr()
    assert changes(account) == ["POST"]
    decided = [(each.get("decision"), each.get("decided_by")) for each in records_in(record)]
    assert decided == [("asked", None), ("approved", "bob"), ("allowed", "bob"), (None, None)]
    assert shown(capsys, "list") == []
    (listed,) = shown(capsys, "list", "--all")
    told = (listed["state"], listed["decision"], listed["decided_by"])
    assert told == ("decided", "approved", "bob")


def test_a_denial_is_final_and_the_agent_sees_the_reason(
    account: RunningEmulator, capsys: Captured
) -> None:
    approval = asked(capsys)
    assert main(["approvals", "deny", approval, "--reason", "not at night", "--by", "ann"]) == 0
    assert capsys.readouterr().out.startswith("Denied")
    assert main(["approvals", "approve", approval, "--by", "bob"]) == 1
    assert capsys.readouterr().out == "Already denied by ann. That decision stands.\n"
    assert main(["call", *PLACE, "--json"]) == 3
    assert "not at night" in json.loads(capsys.readouterr().out)["reason"]
    assert changes(account) == []


def test_deciding_about_a_withdrawn_request_says_why_it_was_withdrawn(
    capsys: Captured, record: Path
) -> None:
    approval = asked(capsys)
    reason = "The call has ended."
    made = OperatorDecision(
        is_approval=False, by="the server", at=0, reason=reason, is_withdrawal=True
    )
    with closing(sqlite3.connect(record.parent / "state.db")) as store, store:
        store.execute("UPDATE approval_requests SET decision = ?", (as_json(made),))
    assert main(["approvals", "approve", approval]) == 1
    assert capsys.readouterr().out == "Already withdrawn by the server. The call has ended.\n"


@pytest.mark.parametrize("action", ["show", "approve", "deny"])
def test_an_unknown_or_missing_id_is_reported(action: str, capsys: Captured) -> None:
    assert main(["approvals", action, "nothing"]) == 2
    assert 'no approval request "nothing"' in capsys.readouterr().err
    assert main(["approvals", action, "nothing", "--sandbox"]) == 2
    assert "List them: calls-mcp approvals --sandbox\n" in capsys.readouterr().err
    assert main(["approvals", action]) == 2
    assert f"ID is missing: calls-mcp approvals {action} ID" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("list 123", "list takes no ID"),
        ("show 123 --watch", "--watch can be used with list only."),
        ("deny 123 --all", "--all can be used with list only."),
    ],
)
def test_an_argument_of_another_action_is_reported(
    arguments: str, message: str, capsys: Captured
) -> None:
    assert main(["approvals", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_state_in_the_memory_of_a_server_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("CALLS_MCP_STATE_URL", "memory:")
    assert main(["approvals"]) == 2
    assert "CALLS_MCP_STATE_URL is memory:" in capsys.readouterr().err


def test_a_decision_that_cannot_be_recorded_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    approval = asked(capsys)
    monkeypatch.setenv("CALLS_MCP_AUDIT_DATABASE", str(tmp_path / "missing" / "audit.db"))
    assert main(["approvals", "approve", approval]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"calls-mcp: The audit log {tmp_path}/missing/audit.db can't be written")
    assert "CALLS_MCP_AUDIT_DATABASE" in told
    assert told.count("\n") == 1
    assert shown(capsys, "show", approval)["state"] == "pending"


@pytest.mark.parametrize(
    ("asked_in", "looked_in", "hint"),
    [
        (["--sandbox"], [], "1 request is pending in the database of the sandbox: calls-mcp"),
        ([], ["--sandbox"], "1 request is pending in the database of servers without"),
    ],
)
def test_requests_in_the_other_default_database_are_mentioned(
    asked_in: list[str],
    looked_in: list[str],
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.delenv("CALLS_MCP_STATE_URL")
    assert main(["call", *PLACE, *asked_in]) == 4
    capsys.readouterr()
    assert main(["approvals", *looked_in]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"No pending approval requests in {default_path(sandbox=bool(looked_in))}"
    assert second.startswith(hint)
    assert shown(capsys, *looked_in) == []
    assert main(["approvals", *asked_in]) == 0
    assert "pending, 1" in capsys.readouterr().out


def test_an_unreachable_redis_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("CALLS_MCP_STATE_URL", "redis://me:canary@127.0.0.1:1/0?db=0")
    assert main(["approvals"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("calls-mcp: The state store redis://127.0.0.1:1/0 can't be used: ")
    assert told.count("\n") == 1
    assert "canary" not in told


@pytest.mark.process
def test_watch_lists_new_requests(capsys: Captured) -> None:
    with subprocess.Popen(WATCH, stdout=subprocess.PIPE, encoding="utf-8") as watching:  # noqa: S603
        assert watching.stdout
        try:
            assert watching.stdout.readline().startswith("No pending approval requests in ")
            approval = asked(capsys)
            assert watching.stdout.readline().startswith("ID ")
            assert watching.stdout.readline().startswith(approval)
        finally:
            watching.kill()


def test_an_old_pending_request_is_listed_after_many_newer_decisions(
    record: Path, capsys: Captured
) -> None:
    approval = asked(capsys)
    newer = decided_since(record.parent / "state.db", 1001)
    assert [each["id"] for each in shown(capsys, "list")] == [approval]
    everything = [each["id"] for each in shown(capsys, "list", "--all")]
    assert everything[-1] == approval
    assert {*everything[:-1]} < newer


def decided_since(store: Path, count: int) -> set[str]:
    """Store this many newer decided requests; return their ids."""
    with closing(sqlite3.connect(store)) as file, file:
        (request,) = file.execute("SELECT request FROM approval_requests").fetchone()
        rows = list[tuple[str, str, float]]()
        for number in range(count):
            told = json.loads(request)
            told |= {"identifier": f"{number:016x}", "asked_at": told["asked_at"] + 1}
            rows.append((told["identifier"], json.dumps(told), told["asked_at"]))
        decision = as_json(OperatorDecision(is_approval=True, by="bob", at=0))
        file.executemany(
            "INSERT INTO approval_requests "
            "SELECT ?, owner, ?, ?, expires_at, ? FROM approval_requests LIMIT 1",
            [(*row, decision) for row in rows],
        )
    return {row[0] for row in rows}

"""The policy from end to end: refused changes are never sent, and refusals name their rule."""

import re
import socket
from pathlib import Path
from typing import Any

import anyio
import pytest

from calls_mcp.cli.main import main
from calls_mcp.errors import ConfigurationError
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from tests.harness import CALLER, TALKS_FOR_AN_HOUR, User, access_to, open_harness, placing
from tests.strategies import DOCUMENTED, is_url

pytestmark = pytest.mark.anyio

URLS = [name for name in DOCUMENTED["create_call"]["parameters"] if is_url(name)]


def policy(directory: Path, text: str) -> Path:
    file = directory / "policy.toml"
    file.write_text(text, "utf-8")
    return file


@pytest.mark.requirement("31", "33", "34")
@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"to": "+911"}, "destinations.emergency"),
        ({"to": "+19005550123"}, "destinations.deny_number_types"),
        ({"url": "http://example.com/"}, "urls.https_only"),
        ({"url": "https://169.254.169.254/"}, "urls.always"),
        ({"status_callback": "https://u:p@example.com/"}, "urls.always"),
        ({"twiml": "<Response>"}, "twiml.well_formed"),
        ({"record": True}, "caps.record"),
        ({"time_limit": 14_401}, "caps.time_limit"),
    ],
)
async def test_the_shipped_policy_refuses_dangerous_changes_without_asking(
    arguments: dict[str, object], rule: str
) -> None:
    async with open_harness(calls_mcp_policy=None) as harness, harness.connect() as agent:
        outcome = await agent.call("create_call", **placing(**arguments))
        assert harness.emulator.requests == ()
    assert outcome["error"]["kind"] == "policy_denied"
    assert f"({rule})" in outcome["error"]["message"]


async def test_the_shipped_policy_limits_each_new_call_with_a_warning() -> None:
    async with open_harness(calls_mcp_policy=None) as harness, harness.connect() as agent:
        asked = await agent.call("create_call", **placing())
        outcome = await agent.confirm("create_call", **placing())
        (create,) = harness.changes
    assert "time_limit 14400 seconds" in asked["confirmation"]["preview"]
    assert outcome["warnings"] == ["the operator's policy sets time_limit to 14400 seconds"]
    assert dict(create.form)["TimeLimit"] == "14400"


async def test_a_denied_change_is_denied_even_with_a_user(tmp_path: Path) -> None:
    file = policy(tmp_path, '[confirm]\ndelete = "deny"\n')
    async with (
        open_harness(calls_mcp_policy=file) as harness,
        harness.connect(user=User()) as agent,
    ):
        outcome = await agent.call("delete_call", sid="CA" + "0" * 32)
        assert harness.emulator.requests == ()
    assert "(confirm.delete)" in outcome["error"]["message"]


async def test_a_token_is_not_enough_where_a_human_is_required(tmp_path: Path) -> None:
    file = policy(tmp_path, '[confirm]\nplace = "require_human"\n')
    user = User()
    async with open_harness(calls_mcp_policy=file) as harness:
        async with harness.connect() as agent:
            refused = await agent.call("create_call", **placing())
        async with harness.connect(user=user) as agent:
            done = await agent.call("create_call", **placing())
        assert len(harness.changes) == 1
    assert refused["error"]["kind"] == "policy_denied"
    assert done["outcome"] == "done"
    assert len(user.asked) == 1


async def test_a_pre_approved_number_needs_no_confirmation(tmp_path: Path) -> None:
    file = policy(tmp_path, f'[destinations]\npre_approved = ["{TALKS_FOR_AN_HOUR}"]\n')
    async with open_harness(calls_mcp_policy=file) as harness, harness.connect() as agent:
        first = await agent.call("create_call", **placing())
        again = await agent.call("create_call", **placing())
        assert len(harness.changes) == 1
        harness.clock.advance(31)
        later = await agent.call("create_call", **placing())
    assert first["outcome"] == later["outcome"] == "done"
    assert again["outcome"] == "confirmation_required"
    reason = "A call to the same number was placed recently. A second call within 30 s needs a "
    assert f"{reason}confirmation." in again["confirmation"]["preview"]


@pytest.mark.requirement("37")
@pytest.mark.parametrize(
    ("section", "key", "seconds"),
    [
        ("caps", "calls_per_minute", 60),
        ("caps", "calls_per_hour", 3600),
        ("caps", "calls_per_day", 86_400),
        ("caps.principal", "calls_per_minute", 60),
    ],
)
async def test_calls_are_limited_by_the_caps(
    tmp_path: Path, section: str, key: str, seconds: float
) -> None:
    file = policy(tmp_path, f"[{section}]\n{key} = 5\n")
    outcomes: list[dict[str, Any]] = []
    async with (
        open_harness(calls_mcp_policy=file) as harness,
        harness.connect(user=User()) as agent,
    ):

        async def place(number: int) -> None:
            outcomes.append(await agent.call("create_call", **placing(to=f"+1617555{number:04}")))

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(place, number)
        assert len(harness.changes) == 5
        harness.clock.advance(seconds + 1)
        await place(21)
        assert len(harness.changes) == 6
        assert (await agent.call("list_calls"))["outcome"] == "done"
    refused = [outcome["error"] for outcome in outcomes if "error" in outcome]
    assert len(refused) == 15
    for error in refused:
        assert f"({section}.{key})" in error["message"]
        assert re.search(r"Wait .*[0-9]+", error["hint"])


@pytest.mark.requirement("37")
@pytest.mark.parametrize(
    ("tool", "name", "arguments"),
    [
        ("list_calls", "reads_per_minute", {}),
        ("create_call", "changes_per_minute", placing()),
        ("create_call", "changes_per_minute", {"to": "nobody"}),
    ],
)
async def test_a_client_in_a_loop_is_rate_limited(
    tmp_path: Path, tool: str, name: str, arguments: dict[str, object]
) -> None:
    file = policy(tmp_path, f"[caps]\n{name} = 2\n")
    async with open_harness(calls_mcp_policy=file) as harness:
        async with harness.connect() as agent:
            outcomes = [await agent.call(tool, **arguments) for _ in range(3)]
            seen = len(harness.emulator.requests)
            harness.clock.advance(61)
            later = await agent.call(tool, **arguments)
        async with harness.connect(name="another") as other:
            free = await other.call(tool, **arguments)
    kinds = [outcome.get("error", {}).get("kind", "") for outcome in (*outcomes, later, free)]
    assert kinds[2] == "policy_denied"
    assert f"(caps.{name})" in outcomes[2]["error"]["message"]
    assert "Wait 1 min," in outcomes[2]["error"]["hint"]
    assert "policy_denied" not in (kinds[0], kinds[1], kinds[3], kinds[4])
    assert seen == (2 if tool == "list_calls" else 0)


async def test_an_account_that_is_not_allowed_is_not_even_read(tmp_path: Path) -> None:
    file = policy(tmp_path, f'[accounts]\nallow = ["AC{"1" * 32}"]\n')
    async with open_harness(calls_mcp_policy=file) as harness, harness.connect() as agent:
        outcome = await agent.call("list_calls", to=CALLER)
        assert harness.emulator.requests == ()
    assert "(accounts.allow)" in outcome["error"]["message"]


async def test_an_invalid_policy_is_reported_at_start(tmp_path: Path) -> None:
    settings = load_settings({"calls_mcp_policy": policy(tmp_path, "[confirm]\nplase = 1\n")})
    with pytest.raises(ConfigurationError, match=r"policy\.toml:2: .*plase"):
        async with Runtime(settings, access_to("http://127.0.0.1:1")):
            pass


def test_policy_check_explains_the_policy_and_needs_no_other_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS_MCP_TIMEOUT", "wrong")
    assert main(["policy", "check"]) == 0
    assert "at most 4 h" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("confirm", "needs"),
    [
        ("operator", "Placing a call needs the operator's approval."),
        ("destructive", "Placing a call needs no confirmation."),
    ],
)
def test_the_explanation_is_of_what_a_server_applies(
    confirm: str, needs: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS_MCP_CONFIRM", confirm)
    assert main(["policy", "check"]) == 0
    assert needs in capsys.readouterr().out


def test_an_invalid_policy_is_reported_with_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "check", str(policy(tmp_path, "\n[urls]\nhost = []\n"))]) == 2
    assert "policy.toml:3: " in capsys.readouterr().err


@pytest.mark.requirement("31")
async def test_hosts_in_urls_are_never_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[object] = []
    resolve = socket.getaddrinfo

    def note(host: Any, *rest: Any, **more: Any) -> Any:  # noqa: ANN401  # as socket has it
        looked_up.append(host)
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", note)
    urls = {name: f"https://{name.replace('_', '-')}.example.com/x" for name in URLS}
    async with open_harness() as harness, harness.connect() as agent:
        sid = await agent.place(**urls, record=True, machine_detection="Enable")
        await agent.confirm("update_call", sid=sid, url=urls["url"])
        assert len(harness.changes) == 2
    assert {*looked_up} <= {"127.0.0.1", b"127.0.0.1"}

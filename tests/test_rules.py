"""The policy on the path: what it refuses is never sent, and the refusal names its rule."""

from pathlib import Path

import pytest

from calls_mcp.cli import main
from calls_mcp.errors import ConfigurationError
from calls_mcp.runtime import Runtime
from calls_mcp.settings import load_settings
from tests.rig import CALLER, TALKS_FOR_AN_HOUR, User, access_to, open_rig, placing

pytestmark = pytest.mark.anyio


def policy(directory: Path, text: str) -> Path:
    file = directory / "policy.toml"
    file.write_text(text, "utf-8")
    return file


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
async def test_the_shipped_policy_refuses_what_is_dangerous_before_anybody_is_asked(
    arguments: dict[str, object], rule: str
) -> None:
    async with open_rig(calls_mcp_policy=None) as rig, rig.connect() as agent:
        outcome = await agent.call("create_call", **placing(**arguments))
        assert rig.emulator.requests == ()
    assert outcome["error"]["kind"] == "policy_denied"
    assert f"({rule})" in outcome["error"]["message"]


async def test_the_shipped_policy_bounds_each_new_call_and_says_so() -> None:
    async with open_rig(calls_mcp_policy=None) as rig, rig.connect() as agent:
        asked = await agent.call("create_call", **placing())
        outcome = await agent.confirm("create_call", **placing())
        (create,) = rig.changes
    assert "time_limit 14400 seconds" in asked["confirmation"]["preview"]
    assert outcome["warnings"] == ["time_limit 14400 is set by the operator's policy"]
    assert dict(create.form)["TimeLimit"] == "14400"


async def test_what_is_denied_is_denied_to_whoever_asks(tmp_path: Path) -> None:
    file = policy(tmp_path, '[confirm]\ndelete = "deny"\n')
    async with open_rig(calls_mcp_policy=file) as rig, rig.connect(user=User()) as agent:
        outcome = await agent.call("delete_call", sid="CA" + "0" * 32)
        assert rig.emulator.requests == ()
    assert "(confirm.delete)" in outcome["error"]["message"]


async def test_where_a_human_is_required_a_token_does_not_count(tmp_path: Path) -> None:
    file = policy(tmp_path, '[confirm]\nplace = "require_human"\n')
    user = User()
    async with open_rig(calls_mcp_policy=file) as rig:
        async with rig.connect() as agent:
            refused = await agent.call("create_call", **placing())
        async with rig.connect(user=user) as agent:
            done = await agent.call("create_call", **placing())
        assert len(rig.changes) == 1
    assert refused["error"]["kind"] == "policy_denied"
    assert done["outcome"] == "done"
    assert len(user.asked) == 1


async def test_a_pre_approved_number_needs_no_confirmation(tmp_path: Path) -> None:
    file = policy(tmp_path, f'[destinations]\npre_approved = ["{TALKS_FOR_AN_HOUR}"]\n')
    async with open_rig(calls_mcp_policy=file) as rig, rig.connect() as agent:
        first = await agent.call("create_call", **placing())
        again = await agent.call("create_call", **placing())
        assert len(rig.changes) == 1
        rig.clock.advance(31)
        later = await agent.call("create_call", **placing())
    assert first["outcome"] == later["outcome"] == "done"
    assert again["outcome"] == "confirmation_required"
    assert "same number was placed just now" in again["confirmation"]["preview"]


async def test_no_more_calls_are_placed_than_the_caps_allow(tmp_path: Path) -> None:
    file = policy(tmp_path, "[caps]\ncalls_per_minute = 2\nsame_number_seconds = 0\n")
    async with (
        open_rig(calls_mcp_policy=file, calls_mcp_confirm="none") as rig,
        rig.connect() as agent,
    ):
        outcomes = [await agent.call("create_call", **placing()) for _ in range(3)]
        assert len(rig.changes) == 2
        rig.clock.advance(61)
        later = await agent.call("create_call", **placing())
    assert [outcome["outcome"] for outcome in outcomes] == ["done", "done", "error"]
    assert "(caps.calls_per_minute)" in outcomes[2]["error"]["message"]
    assert later["outcome"] == "done"


@pytest.mark.parametrize(
    ("tool", "name", "arguments"),
    [
        ("list_calls", "reads_per_minute", {}),
        ("create_call", "changes_per_minute", placing()),
        ("create_call", "changes_per_minute", {"to": "nobody"}),
    ],
)
async def test_a_client_that_runs_in_a_loop_is_stopped_for_a_while(
    tmp_path: Path, tool: str, name: str, arguments: dict[str, object]
) -> None:
    file = policy(tmp_path, f"[caps]\n{name} = 2\n")
    async with open_rig(calls_mcp_policy=file) as rig:
        async with rig.connect() as agent:
            outcomes = [await agent.call(tool, **arguments) for _ in range(3)]
            seen = len(rig.emulator.requests)
            rig.clock.advance(61)
            later = await agent.call(tool, **arguments)
        async with rig.connect(name="another") as other:
            free = await other.call(tool, **arguments)
    kinds = [outcome.get("error", {}).get("kind", "") for outcome in (*outcomes, later, free)]
    assert kinds[2] == "policy_denied"
    assert f"(caps.{name})" in outcomes[2]["error"]["message"]
    assert "Wait 60 seconds" in outcomes[2]["error"]["hint"]
    assert "policy_denied" not in (kinds[0], kinds[1], kinds[3], kinds[4])
    assert seen == (2 if tool == "list_calls" else 0)


async def test_an_account_that_is_not_allowed_is_not_even_read(tmp_path: Path) -> None:
    file = policy(tmp_path, f'[accounts]\nallow = ["AC{"1" * 32}"]\n')
    async with open_rig(calls_mcp_policy=file) as rig, rig.connect() as agent:
        outcome = await agent.call("list_calls", to=CALLER)
        assert rig.emulator.requests == ()
    assert "(accounts.allow)" in outcome["error"]["message"]


async def test_a_policy_that_is_wrong_is_told_at_start(tmp_path: Path) -> None:
    settings = load_settings({"calls_mcp_policy": policy(tmp_path, "[confirm]\nplase = 1\n")})
    with pytest.raises(ConfigurationError, match=r"policy\.toml:2: .*plase"):
        async with Runtime(settings, access_to("http://127.0.0.1:1")):
            pass


def test_the_policy_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check"]) == 0
    assert "14400 seconds" in capsys.readouterr().out


def test_a_wrong_policy_is_told_with_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "check", str(policy(tmp_path, "\n[urls]\nhost = []\n"))]) == 2
    assert "policy.toml:3: " in capsys.readouterr().err

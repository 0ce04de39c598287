"""A command loads only what it needs."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.process import LEGACY, environment, modules_loaded_by

pytestmark = pytest.mark.process

_HELLO = {
    "protocolVersion": LEGACY,
    "capabilities": {},
    "clientInfo": {"name": "raw", "version": "1"},
}
_GREETING = (
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": _HELLO},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
)


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_and_version_load_no_command(option: str) -> None:
    loaded = modules_loaded_by(option)
    assert "calls_mcp.cli.main" in loaded
    assert loaded.isdisjoint({"mcp", "calls_mcp.cli.serve"})


def test_serving_on_stdio_loads_none_of_the_other_commands() -> None:
    loaded = modules_loaded_by("serve", "--sandbox")
    assert "calls_mcp.server.stdio" in loaded
    others = tuple(
        f"calls_mcp.cli.{name}" for name in ("approvals", "call", "client_", "doctor", "terminal")
    )
    assert not [name for name in loaded if name.startswith(others)]


def test_modules_of_a_tool_call_are_not_loaded_at_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    loaded = modules_loaded_by()
    assert "calls_mcp.server.handlers" in loaded
    assert loaded.isdisjoint({"httpx", "jsonschema", "phonenumbers", "tenacity", "yaml"})
    later = (
        "tools.validation",
        "audit",
        "guard.decisions",
        "guard.preview",
        "guard.policy",
        "service.invocation",
        "storage.sqlite",
    )
    assert all(find_spec(f"calls_mcp.{module}") for module in later)
    assert loaded.isdisjoint({f"calls_mcp.{module}" for module in later})


def test_a_read_loads_none_of_what_only_changes_need() -> None:
    read = {"name": "fetch_call", "arguments": {"sid": f"CA{'0' * 32}"}}
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": read}
    loaded = modules_loaded_by("serve", "--sandbox", messages=(*_GREETING, call))
    assert "calls_mcp.service.invocation" in loaded
    needed = ("audit", "guard.decisions", "guard.policy.evaluation", "storage.interface")
    assert all(find_spec(f"calls_mcp.{module}") for module in needed)
    assert loaded.isdisjoint({f"calls_mcp.{module}" for module in needed})


def test_modules_of_a_tool_call_are_loaded_after_the_tools_are_listed() -> None:
    messages = (*_GREETING, {"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "calls_mcp"],
        env=environment("http://127.0.0.1:9"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as server:
        assert server.stdin
        assert server.stderr
        server.stdin.writelines(f"{json.dumps(message)}\n" for message in messages)
        server.stdin.flush()
        loaded: set[str] = set()
        for line in server.stderr:
            loaded.add(line.rpartition("|")[2].strip())
            if "calls_mcp.service.approved_changes" in loaded:  # which comes last
                break
        server.kill()
    assert loaded >= {"calls_mcp.guard.decisions", "calls_mcp.service.invocation", "httpcore"}
    assert loaded.isdisjoint({"calls_mcp.emulator", "phonenumbers", "redis"})

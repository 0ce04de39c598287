"""What a command does not need is not loaded."""

import pytest

from tests.loading import loaded_by
from tests.process import environment


def test_serving_on_stdio_loads_none_of_the_other_commands() -> None:
    loaded = loaded_by("serve", "--sandbox")
    assert "calls_mcp.stdio" in loaded
    others = ("calls_mcp.commands.", "calls_mcp.doctor", "calls_mcp.clients", "calls_mcp.terminal")
    assert not [name for name in loaded if name.startswith(others)]


def test_what_only_an_invocation_needs_is_not_loaded_before_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    loaded = loaded_by()
    assert "calls_mcp.server" in loaded
    assert loaded.isdisjoint({"httpx", "jsonschema", "limits", "tenacity", "yaml"})
    rooms = {"arguments", "audit", "decisions", "desk", "guard", "invocation", "policy", "store"}
    assert loaded.isdisjoint({f"calls_mcp.{room}" for room in rooms})

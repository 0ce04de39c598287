"""What a command does not need is not loaded."""

from tests.loading import loaded_by


def test_serving_on_stdio_loads_none_of_the_other_commands() -> None:
    loaded = loaded_by("serve", "--sandbox")
    assert "calls_mcp.stdio" in loaded
    others = ("calls_mcp.commands.", "calls_mcp.doctor", "calls_mcp.clients", "calls_mcp.terminal")
    assert not [name for name in loaded if name.startswith(others)]

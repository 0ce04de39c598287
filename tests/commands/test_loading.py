"""What a command does not need is not loaded."""

import subprocess
import sys


def test_serving_on_stdio_loads_none_of_the_other_commands() -> None:
    code = (
        "import sys; from calls_mcp.cli import main; main(['serve', '--sandbox']); "
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    loaded = {*ended.stderr.splitlines()}
    assert "calls_mcp.stdio" in loaded
    others = ("calls_mcp.commands.", "calls_mcp.doctor", "calls_mcp.clients", "calls_mcp.terminal")
    assert not [name for name in loaded if name.startswith(others)]

"""What a command loads."""

import subprocess
import sys


def loaded_by(*arguments: str) -> set[str]:
    """The modules that `calls-mcp` with these arguments has loaded at the end of its input."""
    code = (
        "import sys; from calls_mcp.cli.main import main; main(sys.argv[1:]); "
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        check=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    return {*ended.stderr.splitlines()}

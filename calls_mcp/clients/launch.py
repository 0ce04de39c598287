"""What starts this installation, wherever it is started from."""

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_UV = frozenset({"archive-v0", "environments-v2"})  # where uvx keeps what it has made


@dataclass(frozen=True, slots=True)
class Launch:
    """A command and its first arguments."""

    command: str
    args: tuple[str, ...] = ()


def launch() -> Launch:
    """`uvx calls-mcp` or `pipx run calls-mcp` if that runs us, else our executable's whole path.

    What uvx and pipx have made for one run may be gone tomorrow.
    """
    parts = Path(sys.prefix).parts
    if _UV.intersection(parts):
        return Launch(_uvx(), ("calls-mcp",))
    if "pipx" in parts and ".cache" in parts[parts.index("pipx") :]:
        return Launch(shutil.which("pipx") or "pipx", ("run", "calls-mcp"))
    name = "calls-mcp.exe" if sys.platform == "win32" else "calls-mcp"
    executable = Path(sysconfig.get_path("scripts")) / name
    if executable.exists():
        return Launch(str(executable))
    return Launch(sys.executable, ("-m", "calls_mcp"))


def _uvx() -> str:
    """Its whole path, if it can be had: a client that is no shell's child may not find it."""
    uv = os.environ.get("UV")  # which uvx names itself by
    beside = Path(uv).with_name("uvx.exe" if sys.platform == "win32" else "uvx") if uv else None
    if beside and beside.exists():
        return str(beside)
    return shutil.which("uvx") or "uvx"

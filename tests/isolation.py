"""Keep tests away from the data of the user who runs them."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from mcp.client import stdio


def state_variables(folder: Path) -> Mapping[str, str]:
    """Return the variables that make `folder` the user's state directory, on each platform."""
    if sys.platform == "darwin":
        return {"HOME": str(folder)}
    name = "WIN_PD_OVERRIDE_LOCAL_APPDATA" if sys.platform == "win32" else "XDG_STATE_HOME"
    return {name: str(folder)}


def keep_state_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Set them for this process and its child processes, including those of the SDK's client."""
    variables = state_variables(folder)
    for name, value in variables.items():
        patch.setenv(name, value)
    inherited = [*stdio.DEFAULT_INHERITED_ENV_VARS, *variables]
    patch.setattr(stdio, "DEFAULT_INHERITED_ENV_VARS", inherited)


def without_state() -> Mapping[str, str]:
    """Return variables that keep a measured server away from the user's state directory."""
    folder = Path(tempfile.gettempdir()) / "calls-mcp-benchmarks"
    return {"CALLS_MCP_STATE_URL": "memory:", **state_variables(folder)}

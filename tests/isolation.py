"""Tests must not touch what the user who runs them has."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def state_variables(folder: Path) -> Mapping[str, str]:
    """What makes `folder` the user's state directory, on each platform."""
    if sys.platform == "darwin":
        return {"HOME": str(folder)}
    name = "WIN_PD_OVERRIDE_LOCAL_APPDATA" if sys.platform == "win32" else "XDG_STATE_HOME"
    return {name: str(folder)}


def keep_state_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make it so for this process and those that inherit its environment."""
    for name, value in state_variables(folder).items():
        patch.setenv(name, value)

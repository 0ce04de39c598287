"""Find the command that starts this installation."""

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import NotRequired, TypedDict, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from calls_mcp import __version__
from calls_mcp.errors import ConfigurationError

_NAME = "calls-mcp"
_EXTRAS = {"otel": "prometheus_client", "redis": "redis"}  # that a server may need
_SUFFIX = ".exe" if sys.platform == "win32" else ""
_UV_CACHES = frozenset({"archive-v0", "environments-v2"})  # of uvx's environments


class _Origin(TypedDict):
    """Where a package that is not from an index was installed from (PEP 610)."""

    url: str
    vcs_info: NotRequired[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Launch:
    """A command and its first arguments. `note` says what it depends on."""

    command: str
    args: tuple[str, ...] = ()
    note: str = ""


def launch_command() -> Launch:
    """Return the absolute path of our executable, or the `uvx` or `pipx run` command in use.

    uvx and pipx may delete their environments at any time. The path is absolute because the client
    may have another PATH.

    Raises:
        ConfigurationError: The package that was run is gone, or its URL contains a password.
    """
    place = Path(sys.prefix)
    if _UV_CACHES.intersection(place.parts):
        source, note = _source()
        return Launch(_uvx(), ("--from", source, _NAME), note)
    if "pipx" in place.parts and (place.parent.name == ".cache" or _is_cache(place.parent)):
        source, note = _source()
        return Launch(shutil.which("pipx") or "pipx", ("run", "--spec", source, _NAME), note)
    executable = Path(sysconfig.get_path("scripts")) / f"{_NAME}{_SUFFIX}"
    if executable.exists():
        return Launch(str(executable))
    return Launch(sys.executable, ("-m", "calls_mcp"))


def _is_cache(folder: Path) -> bool:
    return (folder / "CACHEDIR.TAG").exists()


def _source() -> tuple[str, str]:
    """Return the installed package as a requirement, and a note about it.

    Raises:
        ConfigurationError: The package no longer exists, or its URL has a secret.
    """
    extras = ",".join(name for name, module in _EXTRAS.items() if find_spec(module))
    name = f"{_NAME}[{extras}]" if extras else _NAME
    direct_url = distribution(_NAME).read_text("direct_url.json")
    if direct_url is None:
        source = f"{name}=={__version__}"
        return source, (
            f"The client will fetch {source} from this machine's package index. If it is not "
            "there, install calls-mcp from a checkout and run client-config again."
        )
    return _requirement(name, cast("_Origin", json.loads(direct_url)))


def _requirement(name: str, origin: _Origin) -> tuple[str, str]:
    url = urlsplit(origin["url"])
    where = url2pathname(url.path) if url.scheme == "file" else origin["url"]
    if "@" in url.netloc or (url.scheme == "file" and not Path(where).exists()):
        raise ConfigurationError(
            "The package that you ran is gone, or its URL contains a password. In the checkout of "
            'calls-mcp, run "uv tool install ." or "pipx install .", then client-config again.'
        )
    vcs = origin.get("vcs_info")
    full = f"{vcs['vcs']}+{origin['url']}@{vcs['commit_id']}" if vcs else origin["url"]
    if url.scheme != "file":
        return f"{name} @ {full}", f"The client will fetch it from {where}."
    return f"{name} @ {full}", f"The client will start it from {where}, so do not move it."


def _uvx() -> str:
    """Return the absolute path of uvx if it is known, because the client may have another PATH."""
    uv = os.environ.get("UV")  # set by uvx
    sibling = Path(uv).with_name(f"uvx{_SUFFIX}") if uv else None
    if sibling and sibling.exists():
        return str(sibling)
    return shutil.which("uvx") or "uvx"

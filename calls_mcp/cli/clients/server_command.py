"""Find the command that starts this installation, whatever installed it."""

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
_EXTRAS = {"otel": "prometheus_client", "redis": "redis"}  # those a server can need
_SUFFIX = ".exe" if sys.platform == "win32" else ""
_UV_CACHES = frozenset({"archive-v0", "environments-v2"})  # environments that uvx has made


class _Origin(TypedDict):
    """Where a package that is not from an index was installed from (PEP 610)."""

    url: str
    vcs_info: NotRequired[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Launch:
    """A command and its first arguments; `note` is the condition under which it works."""

    command: str
    args: tuple[str, ...] = ()
    note: str = ""


def launch_command() -> Launch:
    """Return the absolute path of our executable; under uvx or pipx run, the same run again.

    An environment that those made for one run may be deleted any time. Otherwise the path is
    absolute because a program that was not started by a shell may have another PATH.

    Raises:
        ConfigurationError: No such command would last.
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
    """Return what was installed as a requirement, and a note about it.

    Raises:
        ConfigurationError: It no longer exists, or its URL has a secret.
    """
    extras = ",".join(name for name, module in _EXTRAS.items() if find_spec(module))
    name = f"{_NAME}[{extras}]" if extras else _NAME
    direct_url = distribution(_NAME).read_text("direct_url.json")
    if direct_url is None:
        source = f"{name}=={__version__}"
        return source, (
            f"{source} is fetched by its name from this machine's package index. If this one is "
            "not from there, install it first, and run client-config again."
        )
    return _requirement(name, cast("_Origin", json.loads(direct_url)))


def _requirement(name: str, origin: _Origin) -> tuple[str, str]:
    url = urlsplit(origin["url"])
    where = url2pathname(url.path) if url.scheme == "file" else origin["url"]
    if "@" in url.netloc or (url.scheme == "file" and not Path(where).exists()):
        raise ConfigurationError(
            "What was run here can't be found again. Install it first, such as with uv tool "
            "install or pipx install, and run client-config again."
        )
    vcs = origin.get("vcs_info")
    full = f"{vcs['vcs']}+{origin['url']}@{vcs['commit_id']}" if vcs else origin["url"]
    return f"{name} @ {full}", f"It is started from {where}, which must stay there."


def _uvx() -> str:
    """Return its absolute path, if it is known: the client may have another PATH."""
    uv = os.environ.get("UV")  # set by uvx
    beside = Path(uv).with_name(f"uvx{_SUFFIX}") if uv else None
    if beside and beside.exists():
        return str(beside)
    return shutil.which("uvx") or "uvx"

"""What starts this installation, wherever it is started from."""

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
_UV = frozenset({"archive-v0", "environments-v2"})  # where uvx keeps what it has made


class _Origin(TypedDict):
    """What an installer says of where a package is from, if not from an index (PEP 610)."""

    url: str
    vcs_info: NotRequired[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Launch:
    """A command and its first arguments; `note` is what must be so for it to start us."""

    command: str
    args: tuple[str, ...] = ()
    note: str = ""


def launch() -> Launch:
    """Our executable's whole path; under uvx or pipx run, what has them run the same again.

    What these have made for one run may be gone tomorrow.

    Raises:
        ConfigurationError: There is nothing that would last.
    """
    place = Path(sys.prefix)
    if _UV.intersection(place.parts):
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
    """What was installed, as a requirement, and what to know of it.

    Raises:
        ConfigurationError: It is not there any more, or can't be named without a secret.
    """
    extras = ",".join(name for name, module in _EXTRAS.items() if _is_installed(module))
    name = f"{_NAME}[{extras}]" if extras else _NAME
    told = distribution(_NAME).read_text("direct_url.json")
    if told is None:
        source = f"{name}=={__version__}"
        return source, (
            f"{source} is fetched by its name from this machine's package index. If this one is "
            "not from there, install it first, and run client-config again."
        )
    origin = cast("_Origin", json.loads(told))
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


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


def _uvx() -> str:
    """Its whole path, if it can be had: a client that is no shell's child may not find it."""
    uv = os.environ.get("UV")  # which uvx names itself by
    beside = Path(uv).with_name(f"uvx{_SUFFIX}") if uv else None
    if beside and beside.exists():
        return str(beside)
    return shutil.which("uvx") or "uvx"

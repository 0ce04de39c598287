"""`calls-mcp console`: serve the operator's pages, by themselves or beside an HTTP server."""

import getpass
import logging
import re
import signal
import time
import webbrowser
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from calls_mcp.cli.options import add_sandbox_of_servers
from calls_mcp.cli.terminal import say
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability.logs import configure_logs
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Settings, load_settings

if TYPE_CHECKING:
    from calls_mcp.console import ConsoleContext

_EPILOG = """\
It needs the settings of the servers that it is beside, if they have any: CALLS_MCP_STATE_URL for
what waits, CALLS_MCP_AUDIT_DATABASE for the audit log, CALLS_MCP_POLICY for the rules, and the
account's credentials for the calls. The way in is a link that is printed here. It works once.

Where other machines reach --host, a proxy must speak https for it: --url says at which address.
"""
_log = logging.getLogger(__name__)
_UNAVAILABLE = {
    "approvals": "Nothing can be decided in it",
    "runtime": "It sees no calls, but what the record tells of them",
    "audit_database": "It has no record to show",
}
_LIBRARIES = ("jinja2", "leather", "markupsafe")
_ADDRESS = re.compile(r"(?:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>[0-9]{1,5})|")


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    option = parser.add_argument
    option("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    option("--port", type=int, default=8090, help="port to listen on, 0 for any (%(default)s)")
    option("--url", help="the https address by which browsers know it")
    option("--open", action="store_true", help="open the link in the browser")
    add_sandbox_of_servers(parser)
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Serve the console until a signal comes. Return the exit status.

    Raises:
        ConfigurationError: The setup is wrong, the extra `console` is not installed, or it would
            not be safe to serve there.
    """
    settings = load_settings()
    configure_logs(settings.logs.format, settings.logs.level)
    with suppress(KeyboardInterrupt):
        anyio.run(_serve, settings, options)
    return 0


async def _serve(settings: Settings, options: Namespace) -> None:
    address = (options.host, options.port)
    opening = _open_console(settings, address, options.url, sandbox=options.sandbox)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with opening as console:
            link = console.link(_user())
            say(f"The console is at {console.url}. This link lets one browser in:\n\n  {link}\n")
            for note in _notes(console):
                say(f"{note[0].upper()}{note[1:]}")
            if options.open:
                await anyio.to_thread.run_sync(webbrowser.open, link)
            await anext(signals)


@asynccontextmanager
async def open_beside(runtime: Runtime, where: str) -> AsyncGenerator[None]:
    """Serve the console beside a server, with its `runtime`, at `[HOST:]PORT` or the usual place.

    A link is only shown if the server's callers need no tokens; otherwise operators use those.

    Raises:
        ConfigurationError: As `run` does, and if `where` is not an address.
    """
    _log.setLevel(logging.INFO)  # always log where it is
    async with _open_console(runtime.settings, _address(where), runtime=runtime) as console:
        if runtime.settings.auth.mode == "none":
            sign_in = f"this link lets one browser in: {console.link(_user())}"
        else:
            sign_in = "a token with calls:approve lets an operator in"
        _log.info("the console is at %s; %s", console.url, sign_in)
        for note in _notes(console):
            _log.info("%s", note)
        yield


@asynccontextmanager
async def _open_console(
    settings: Settings,
    address: tuple[str, int],
    url: str | None = None,
    runtime: Runtime | None = None,
    *,
    sandbox: bool = False,
) -> AsyncGenerator["ConsoleContext"]:
    try:
        from calls_mcp.console import Address, open_console  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if missing.name not in _LIBRARIES:
            raise
        raise ConfigurationError(
            "The console needs libraries that are not installed. In the checkout of calls-mcp, "
            "run: pip install '.[console]'"
        ) from missing
    found = Address(*address, url or _proxy_url(settings))
    clock = runtime.clock if runtime else time.time
    async with open_console(settings, found, runtime, clock, sandbox=sandbox) as console:
        yield console


def _address(where: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(where)
    if found is None:
        raise ConfigurationError("--console must be PORT or HOST:PORT, such as 127.0.0.1:8090.")
    return (found["host"] or "127.0.0.1").strip("[]"), int(found["port"] or 8090)


def _proxy_url(settings: Settings) -> str:
    """Return the URL of the proxy in front; a local URL is the console's own address."""
    url = settings.console.url or ""
    return url if url.startswith("https://") else ""


def _notes(console: "ConsoleContext") -> Iterator[str]:
    """Yield what the console shows, and what it can't."""
    if console.approvals:
        yield f"it shows the approval requests in {console.approvals.where}"
    for name, reason in console.unavailable.items():
        yield f"{_UNAVAILABLE[name]}: {reason}"


def _user() -> str:
    """Return the name of this user, who may have none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "operator"

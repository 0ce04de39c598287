"""`calls-mcp console`: the operator's pages, until a signal comes; or beside a service."""

import getpass
import logging
import re
import signal
import webbrowser
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from importlib import import_module

import anyio
import anyio.to_thread

from calls_mcp.cli.options import add_sandbox_of_servers
from calls_mcp.cli.terminal import say
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability.logs import configure_logs
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Settings, load_settings

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
_WHERE = re.compile(r"(?:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>[0-9]{1,5})|")


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
    """Serve the console; the exit status.

    Raises:
        ConfigurationError: The set-up is wrong, the extra `console` is not installed, or it would
            not be safe to serve there.
    """
    settings = load_settings()
    configure_logs(settings.logs.format, settings.logs.level)
    with suppress(KeyboardInterrupt):
        anyio.run(_serve, settings, options)
    return 0


@asynccontextmanager
async def open_beside(runtime: Runtime, where: str) -> AsyncGenerator[None]:
    """Serve the console beside a service, with its `runtime`, at `[HOST:]PORT` or the usual place.

    A link is made only where the service's callers show no tokens: those are the way in elsewhere.

    Raises:
        ConfigurationError: As `run` does, and if `where` is no address.
    """
    _require_libraries()
    from calls_mcp.console import Address, open_console  # noqa: PLC0415

    host, port = _address(where)
    by_link = runtime.settings.auth.mode == "none"
    address = Address(host, port, _public(runtime.settings))
    _log.setLevel(logging.INFO)  # where it is, is told in any case
    async with open_console(runtime.settings, address, runtime, runtime.clock) as console:
        if by_link:
            way_in = f"this link lets one browser in: {console.link(_user())}"
        else:
            way_in = "a token with calls:approve lets an operator in"
        _log.info("the console is at %s; %s", console.url, way_in)
        if console.approvals:
            _log.info("it shows the approval requests in %s", console.approvals.where)
        for name, reason in console.unavailable.items():
            _log.info("%s: %s", _UNAVAILABLE[name], reason)
        yield


def _require_libraries() -> None:
    try:
        import_module("calls_mcp.console")
    except ModuleNotFoundError as missing:
        if missing.name not in ("jinja2", "leather", "markupsafe"):
            raise
        raise ConfigurationError(
            "The console needs libraries that are not installed: pip install 'calls-mcp[console]', "
            "or in a checkout: pip install '.[console]'"
        ) from missing


def _address(where: str) -> tuple[str, int]:
    found = _WHERE.fullmatch(where)
    if found is None:
        raise ConfigurationError("--console must be PORT or HOST:PORT, such as 127.0.0.1:8090.")
    return (found["host"] or "127.0.0.1").strip("[]"), int(found["port"] or 8090)


def _public(settings: Settings) -> str:
    """Where a proxy before the console is; an address on this machine is the console's own."""
    url = settings.console.url or ""
    return url if url.startswith("https://") else ""


def _user() -> str:
    """The name of this user, who may have none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "operator"


async def _serve(settings: Settings, options: Namespace) -> None:
    _require_libraries()
    from calls_mcp.console import Address, open_console  # noqa: PLC0415

    address = Address(options.host, options.port, options.url or _public(settings))
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_console(settings, address, sandbox=options.sandbox) as console:
            link = console.link(_user())
            say(f"The console is at {console.url}. This link lets one browser in:\n\n  {link}\n")
            if console.approvals:
                say(f"It shows the approval requests in {console.approvals.where}")
            for name, reason in console.unavailable.items():
                say(f"{_UNAVAILABLE[name]}: {reason}")
            if options.open:
                await anyio.to_thread.run_sync(webbrowser.open, link)
            await anext(signals)

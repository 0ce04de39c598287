"""`calls-mcp console`: serve the operator's web pages, alone or next to an HTTP server."""

import logging
import re
import time
import webbrowser
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from calls_mcp.cli.options import add_sandbox_of_servers, user_name
from calls_mcp.cli.terminal import say
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability import stderr
from calls_mcp.observability.logs import configure_logs
from calls_mcp.service.runtime import Runtime
from calls_mcp.service.signals import receive_signals
from calls_mcp.settings import Settings, load_settings

if TYPE_CHECKING:
    from calls_mcp.console import ConsoleContext

_EPILOG = """\
examples:
  calls-mcp console --open
  calls-mcp console --sandbox
  calls-mcp console --host 0.0.0.0 --url https://console.example.com

Use the same settings as the servers: CALLS_MCP_STATE_URL for approval requests,
CALLS_MCP_AUDIT_DATABASE for the audit log, CALLS_MCP_POLICY for the policy, and the account's
credentials for live calls.

To sign in, open the link that the command prints. It works once, within ten minutes.

If other machines can reach --host, put an HTTPS proxy in front and give its address as --url.
"""
_log = logging.getLogger(__name__)
_GRACE = 3  # seconds to shut down in
_UNAVAILABLE = {
    "approvals": "Approval requests are not available",
    "runtime": "Only calls in the audit log are available",
    "audit_database": "The audit log is not available",
}
_LIBRARIES = ("jinja2", "markupsafe")
_ADDRESS = re.compile(r"(?:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>[0-9]{1,5})|")


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    option = parser.add_argument
    option("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    option(
        "--port",
        type=int,
        default=8090,
        help="port to listen on; 0 selects a free port (default: %(default)s)",
    )
    option("--url", help="HTTPS URL at which browsers reach the console, if it is behind a proxy")
    option("--open", action="store_true", help="open the sign-in link in your browser")
    add_sandbox_of_servers(parser)
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Serve the console until a signal comes. Return the exit status.

    Raises:
        ConfigurationError: The setup is wrong, the extra `console` is not installed, or the address
            is not safe to serve on.
    """
    stderr.never_block()
    settings = load_settings()
    configure_logs(settings.logs.format, settings.logs.level)
    with suppress(KeyboardInterrupt):
        anyio.run(_serve, settings, options)
    return 0


async def _serve(settings: Settings, options: Namespace) -> None:
    address = (options.host, options.port)
    opening = _open_console(settings, address, options.url, sandbox=options.sandbox)
    with receive_signals(_GRACE) as signals:
        async with opening as console, anyio.create_task_group() as tasks:
            link = console.link(user_name())
            tasks.start_soon(_in_thread, partial(_introduce, console, link))
            if options.open:
                tasks.start_soon(_in_thread, partial(webbrowser.open, link))
            await anext(signals)
            tasks.cancel_scope.cancel()


async def _in_thread(job: Callable[[], object]) -> None:
    """Run `job`, which may block for as long as nobody reads stdout."""
    await anyio.to_thread.run_sync(job, abandon_on_cancel=True)


def _introduce(console: "ConsoleContext", link: str) -> None:
    say(f"The console is at {console.url}. Open this link to sign in:\n\n  {link}\n")
    for note in _notes(console):
        say(note)


@asynccontextmanager
async def open_in_server(runtime: Runtime, where: str) -> AsyncGenerator[None]:
    """Serve the console in a server's process, with its `runtime`.

    `where` is `[HOST:]PORT`, or empty for the default. A sign-in link is logged only if clients
    need no tokens; otherwise operators sign in with a token.

    Raises:
        ConfigurationError: As `run`, or `where` is not an address.
    """
    _log.setLevel(logging.INFO)  # always log the address
    async with _open_console(runtime.settings, _address(where), runtime=runtime) as console:
        if runtime.settings.auth.mode == "none":
            sign_in = f"Open this link to sign in: {console.link(user_name())}"
        else:
            sign_in = "Sign in with a token that has the scope calls:approve."
        _log.info("The console is at %s. %s", console.url, sign_in)
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
    """Return the URL of the proxy in front; empty if there is none."""
    url = settings.console.url or ""
    return url if url.startswith("https://") else ""


def _notes(console: "ConsoleContext") -> Iterator[str]:
    """Yield what the console shows, and what is not available."""
    if console.approvals:
        yield f"It shows the approval requests in {console.approvals.where}"
    for name, reason in console.unavailable.items():
        yield f"{_UNAVAILABLE[name]}. {reason}"

"""`calls-mcp serve`: serve MCP clients on stdio or over HTTP."""

import gc
import sys
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from typing import Any

import anyio
from mcp.server.lowlevel import Server

from calls_mcp.cli.options import add_sandbox
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability import stderr
from calls_mcp.observability.logs import configure_logs
from calls_mcp.server.handlers import build_server
from calls_mcp.server.stdio import serve_stdio
from calls_mcp.service.runtime import Runtime, open_runtime
from calls_mcp.settings import Settings, load_settings

_HTTP_OPTIONS = ("host", "port", "path", "console")
_WAITING = (
    "calls-mcp is an MCP server: it waits for a client on stdin. Run `calls-mcp demo` to see it "
    "work, `calls-mcp --help` for commands, Ctrl-C to stop."
)
_EPILOG = """\
examples:
  calls-mcp serve --sandbox
  calls-mcp serve --env-file calls.env
  calls-mcp serve --transport http --port 8080 --console

An MCP client starts this command by itself; `calls-mcp client-config` prints its configuration.

exit status:
  0  the client disconnected, or a signal stopped the server
  2  usage or setup error
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_sandbox(parser)
    option = parser.add_argument
    option(
        "--transport",
        choices=["stdio", "http"],
        default="stdio",
        help="stdio for one client (default), http for many",
    )
    option("--host", help="http: address to listen on (default: 127.0.0.1)")
    option(
        "--port", type=int, help="http: port to listen on; 0 selects a free port (default: 8080)"
    )
    option("--path", help="http: path of the endpoint (default: /mcp)")
    option(
        "--console",
        nargs="?",
        const="",
        metavar="[HOST:]PORT",
        help="http: serve the operator's console, too (without a value: at 127.0.0.1:8090)",
    )
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Serve until the client disconnects or a signal comes. Return the exit status.

    Raises:
        ConfigurationError: The setup is wrong.
    """
    stderr.never_block()
    settings = load_settings()
    configure_logs(settings.logs.format, settings.logs.level)
    given = [name for name in _HTTP_OPTIONS if getattr(options, name) is not None]
    if given and options.transport != "http":
        raise ConfigurationError(f"--{', --'.join(given)}: only with --transport http.")
    if options.transport == "stdio" and sys.stdin.isatty():
        _show_waiting()
    has_uvloop = find_spec("uvloop") is not None
    gc.disable()  # until the server is built, as in `main`
    try:
        anyio.run(_serve, settings, options, backend_options={"use_uvloop": has_uvloop})
    finally:
        gc.enable()
    return 0


def _show_waiting() -> None:
    from calls_mcp.cli.terminal import warn  # noqa: PLC0415

    warn(_WAITING)


async def _serve(settings: Settings, options: Namespace) -> None:
    async with open_runtime(settings, sandbox=options.sandbox) as runtime:
        server = build_server(runtime)
        gc.freeze()
        gc.enable()
        if options.transport == "http":
            await _serve_http(server, runtime, options)
        else:
            await serve_stdio(server, runtime)


async def _serve_http(server: Server[Any], runtime: Runtime, options: Namespace) -> None:
    from calls_mcp.http.serving import ListenAddress, serve_http  # noqa: PLC0415

    await runtime.warm_up()
    gc.freeze()  # a full garbage collection would search these modules every 400 requests
    gc.set_threshold(5000)  # most of the new objects belong to requests in progress
    chosen = {"host": options.host, "port": options.port, "path": options.path}
    address = ListenAddress(**{name: value for name, value in chosen.items() if value is not None})
    if options.console is None:
        await serve_http(server, runtime, address)
        return
    from calls_mcp.cli.console import open_in_server  # noqa: PLC0415

    await serve_http(server, runtime, address, open_in_server(runtime, options.console))

"""`calls-mcp console`: the operator's pages, until a signal comes."""

import getpass
import signal
import webbrowser
from argparse import Namespace
from contextlib import suppress

import anyio
import anyio.to_thread

from calls_mcp.errors import ConfigurationError
from calls_mcp.logs import configure_logs
from calls_mcp.settings import Settings, load_settings
from calls_mcp.terminal import say


def run(options: Namespace) -> int:
    """Serve the console; the exit status.

    Raises:
        ConfigurationError: The set-up is wrong, the extra `console` is not installed, or it would
            not be safe to serve there.
    """
    settings = load_settings()
    configure_logs(settings.calls_mcp_log_format, settings.calls_mcp_log_level)
    with suppress(KeyboardInterrupt):
        anyio.run(_serve, settings, options)
    return 0


async def _serve(settings: Settings, options: Namespace) -> None:
    try:
        from calls_mcp.console import Place, open_console  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if missing.name not in ("jinja2", "leather", "markupsafe"):
            raise
        raise ConfigurationError(
            "The console needs libraries that are not installed: pip install 'calls-mcp[console]'"
        ) from missing

    place = Place(options.host, options.port, options.url or "")
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_console(settings, place) as console:
            link = console.link(getpass.getuser())
            say(f"The console is at {console.url}. This link lets one browser in:\n\n  {link}\n")
            if options.open:
                await anyio.to_thread.run_sync(webbrowser.open, link)
            await anext(signals)

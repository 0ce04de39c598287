"""The command line. Each command imports what it needs, and no other does."""

import argparse
import gc
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from calls_mcp import __version__
from calls_mcp.cli.parser import add_commands
from calls_mcp.errors import CallsError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp.server.lowlevel import Server

    from calls_mcp.service.runtime import Runtime
    from calls_mcp.settings import Settings

_LONGEST = 3650  # days that a token can last
_WRONG_SETUP = 2  # exit status
_OPTION = re.compile(r"--[A-Za-z][A-Za-z_-]*|-.")  # without what it is given


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; `calls-mcp` alone serves on stdio. Returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    try:
        options = _options(words)
        status: int | None = options.run(options)
    except _WrongUsage as wrong:
        _complain(words, "wrong_usage", str(wrong), wrong.told)
        sys.exit(_WRONG_SETUP)
    except CallsError as error:
        _complain(words, "wrong_setup", str(error), f"calls-mcp: {error}")
        return _WRONG_SETUP
    return status or 0


class _WrongUsage(Exception):
    """The command line is wrong; `told` says so as a shell's user expects it."""

    def __init__(self, message: str, told: str) -> None:
        super().__init__(message)
        self.told = told


class _Parser(argparse.ArgumentParser):
    """One that leaves it to others to say what is wrong."""

    def error(self, message: str) -> NoReturn:
        raise _WrongUsage(message, f"{self.format_usage()}{self.prog}: error: {message}")


def _complain(words: Sequence[str], kind: str, message: str, told: str) -> None:
    """Tell people on stderr, and on stdout a script that has asked for JSON."""
    from calls_mcp.cli.terminal import show_json, warn  # noqa: PLC0415

    if "--json" in words:
        show_json({"status": _WRONG_SETUP, "error": {"kind": kind, "message": message}})
    warn(told)


def _options(words: Sequence[str]) -> argparse.Namespace:
    """What `words` ask for. No complaint repeats a value, which may be a secret."""
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    if unknown := [found[0] for word in rest if (found := _OPTION.match(word))]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest and "arguments" not in options:
        parser.error(f"too many arguments, by {len(rest)}")
    if rest:  # argparse looks for them on one side of the options alone
        options.arguments += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="calls-mcp", description="An MCP server for Twilio's Calls API.")
    parser.add_argument("--version", action="version", version=f"calls-mcp {__version__}")
    parser.set_defaults(run=_serve, sandbox=False, transport="stdio")
    add_parser = parser.add_subparsers(title="commands", metavar="COMMAND").add_parser
    _add_serve(add_parser("serve", help="serve one MCP client on stdin and stdout (default)"))
    _add_emulator(add_parser("emulator", help="run a stand-in for the Calls API"))
    _add_audit(add_parser("audit", help="export or check the audit log"))
    _add_policy(add_parser("policy", help="examine the operator's rules"))
    _add_token(add_parser("token", help="make tokens for clients that come over HTTP"))
    add_commands(add_parser)
    demo = add_parser("demo", help="watch an agent use the tools, on the emulator")
    demo.set_defaults(run=_demo)
    return parser


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--sandbox", action="store_true", help="on an emulator inside: no credentials, no telephone"
    )
    serve.add_argument(
        "--transport",
        choices=["stdio", "http"],
        default="stdio",
        help="http: any number of clients",
    )
    serve.add_argument("--host", help="http: address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, help="http: port to listen on (8080; 0: any)")
    serve.add_argument("--path", help="http: the endpoint's path (/mcp)")
    serve.add_argument(
        "--console",
        nargs="?",
        const="",
        metavar="[HOST:]PORT",
        help="http: serve the operator's console, too (127.0.0.1:8090)",
    )
    serve.set_defaults(run=_serve)


def _add_emulator(emulator: argparse.ArgumentParser) -> None:
    option = emulator.add_argument
    option("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    option("--port", type=int, default=4010, help="port to listen on, 0 for any (%(default)s)")
    option("--db", default=":memory:", metavar="FILE", help="keep the calls in FILE (in memory)")
    option("--speed", type=float, default=1.0, help="times as fast as real time (%(default)s)")
    option("--seed", type=int, help="which history to begin with (none)")
    option("--calls", type=int, help="how many past calls to begin with (250 if --seed is given)")
    option("--scenario", metavar="FILE", help="what the numbers do, in TOML")
    option("--cps", type=float, default=1.0, help="calls dialled per second (%(default)s)")
    option("--callbacks-anywhere", action="store_true", help="send them to other machines, too")
    emulator.set_defaults(run=_emulate)


def _add_audit(audit: argparse.ArgumentParser) -> None:
    audits = audit.add_subparsers(title="commands", metavar="COMMAND", required=True)
    export = audits.add_parser("export", help="write the records to stdout as JSON lines")
    export.add_argument(
        "--follow", action="store_true", help="go on with new records, until Ctrl+C"
    )
    export.add_argument(
        "--since",
        type=_time,
        metavar="TIME",
        help="from then on: ISO 8601, such as 2026-01-31 or 2026-01-31T09:00Z",
    )
    export.set_defaults(run=_export_audit)
    verify = audits.add_parser("verify", help="find records that were edited, removed or inserted")
    verify.add_argument(
        "file", type=Path, nargs="?", help="a database or exported lines (default: the log in use)"
    )
    verify.add_argument("--expect", metavar="HASH", help="a hash that must be in it")
    verify.set_defaults(run=_verify_audit)
    for command in (export, verify):
        command.add_argument("--sandbox", action="store_true", help="the sandbox's log")


def _add_policy(policy: argparse.ArgumentParser) -> None:
    policies = policy.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = policies.add_parser("check", help="tell what a policy means, or what is wrong with it")
    check.add_argument("file", type=Path, nargs="?", help="by default the one in use")
    check.set_defaults(run=_check_policy)


def _add_token(token: argparse.ArgumentParser) -> None:
    tokens = token.add_subparsers(title="commands", metavar="COMMAND", required=True)
    new = tokens.add_parser("new", help="make a token, and show it once")
    new.add_argument("name", help="whom it stands for")
    new.add_argument(
        "--scope",
        action="append",
        required=True,
        help="what it allows: calls:read, calls:place, calls:change, calls:delete; may be "
        "repeated; or, alone, calls:approve: an operator's way into the console",
    )
    new.add_argument("--expires", type=_days, default=90, metavar="DAYS", help="default: 90")
    new.set_defaults(run=_make_token)
    listing = tokens.add_parser("list", help="tell whose tokens there are, and until when")
    listing.set_defaults(run=_list_tokens)
    revoking = tokens.add_parser("revoke", help="take tokens out of the file: good no more")
    revoking.add_argument("which", help="a principal, or the beginning of a hash as `list` has it")
    revoking.set_defaults(run=_revoke_tokens)
    for command in (new, listing, revoking):
        command.add_argument(
            "--file", type=Path, help="file of principals; by default CALLS_MCP_PRINCIPALS"
        )


def _days(text: str) -> int:
    days = int(text)
    if not 1 <= days <= _LONGEST:
        raise argparse.ArgumentTypeError(f"must be 1 to {_LONGEST} days")
    return days


def _time(text: str) -> str:
    """An ISO 8601 time as the audit log has it, in UTC; one without a zone is in UTC already."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be ISO 8601, such as 2026-01-31T09:00Z") from None
    return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC).isoformat()[:19]


def _serve(options: argparse.Namespace) -> None:
    gc.disable()  # until all is loaded: there is no garbage yet, and looking for it takes a tenth
    try:
        _serve_as(options)
    finally:
        gc.enable()


def _serve_as(options: argparse.Namespace) -> None:
    import anyio  # noqa: PLC0415

    from calls_mcp.observability.logs import configure_logs  # noqa: PLC0415
    from calls_mcp.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    configure_logs(settings.logs.format, settings.logs.level)
    chosen = ((name, getattr(options, name, None)) for name in ("host", "port", "path", "console"))
    given = {name: value for name, value in chosen if value is not None}
    if given and options.transport != "http":
        raise ConfigurationError(f"--{next(iter(given))} goes with --transport http.")
    console: str | None = given.pop("console", None)
    serve = partial(_over_http, given, console) if options.transport == "http" else _over_stdio
    # Where the platform has it, the quicker loop.
    loop = {"use_uvloop": find_spec("uvloop") is not None}
    anyio.run(_serve_until_ended, settings, options.sandbox, serve, backend_options=loop)


async def _serve_until_ended(
    settings: "Settings",
    sandbox: bool,  # noqa: FBT001
    serve: "Callable[[Server[Any], Runtime], Awaitable[None]]",
) -> None:
    from calls_mcp.server.handlers import build_server  # noqa: PLC0415
    from calls_mcp.service.runtime import Runtime  # noqa: PLC0415

    if sandbox:
        from calls_mcp.service.sandbox import open_sandbox  # noqa: PLC0415

        opened = open_sandbox(settings)
    else:
        opened = Runtime(settings, settings.twilio.access())
    async with opened as runtime:
        server = build_server(runtime)
        gc.freeze()
        gc.enable()
        await serve(server, runtime)


async def _over_stdio(server: "Server[Any]", runtime: "Runtime") -> None:
    from calls_mcp.server.stdio import serve_stdio  # noqa: PLC0415

    await serve_stdio(server, runtime)


async def _over_http(
    given: dict[str, Any], console: str | None, server: "Server[Any]", runtime: "Runtime"
) -> None:
    from calls_mcp.http.endpoint import Endpoint  # noqa: PLC0415
    from calls_mcp.http.serving import serve_http  # noqa: PLC0415

    beside = None
    if console is not None:
        from calls_mcp.cli.console import open_beside  # noqa: PLC0415

        beside = open_beside(runtime, console)
    await serve_http(server, runtime, Endpoint(**given), beside)


def _emulate(options: argparse.Namespace) -> None:
    from calls_mcp.emulator import Options, StartError, run  # noqa: PLC0415

    chosen = Options(
        host=options.host,
        port=options.port,
        database=options.db,
        speed=options.speed,
        seed=options.seed,
        calls=options.calls,
        scenario=options.scenario,
        calls_per_second=options.cps,
        callbacks_anywhere=options.callbacks_anywhere,
    )
    try:
        run(chosen)
    except StartError as error:
        raise ConfigurationError(str(error)) from error


def _export_audit(options: argparse.Namespace) -> int:
    from calls_mcp.cli.audit import run_export  # noqa: PLC0415

    return run_export(options)


def _verify_audit(options: argparse.Namespace) -> int:
    from calls_mcp.cli.audit import run_verify  # noqa: PLC0415

    return run_verify(options)


def _check_policy(options: argparse.Namespace) -> None:
    from calls_mcp.cli.terminal import say  # noqa: PLC0415
    from calls_mcp.guard.policy import explain, load_policy  # noqa: PLC0415
    from calls_mcp.settings import load_settings  # noqa: PLC0415

    policy = load_policy(options.file or load_settings().guard.policy)
    say("\n".join(explain(policy)))


def _make_token(options: argparse.Namespace) -> None:
    from calls_mcp.cli.terminal import say, warn  # noqa: PLC0415
    from calls_mcp.cli.token import make_token  # noqa: PLC0415
    from calls_mcp.settings import load_settings  # noqa: PLC0415

    file: Path | None = options.file or load_settings().auth.principals
    token, entry = make_token(file, options.name, options.scope, options.expires)
    say(token)
    told = f"Its entry was added to {file}." if file else f"Its entry:\n\n{entry}"
    warn(f"This token is not shown again. {told}")


def _list_tokens(options: argparse.Namespace) -> None:
    from calls_mcp.cli.terminal import say  # noqa: PLC0415
    from calls_mcp.cli.token import listed  # noqa: PLC0415

    for line in listed(_principals(options)):
        say(line)


def _revoke_tokens(options: argparse.Namespace) -> None:
    from calls_mcp.cli.terminal import say  # noqa: PLC0415
    from calls_mcp.cli.token import revoke  # noqa: PLC0415

    for line in revoke(_principals(options), options.which):
        say(f"revoked: {line}")


def _principals(options: argparse.Namespace) -> Path:
    from calls_mcp.settings import load_settings  # noqa: PLC0415

    file: Path | None = options.file or load_settings().auth.principals
    if file is None:
        raise ConfigurationError("Which file? Set CALLS_MCP_PRINCIPALS, or give --file.")
    return file


def _demo(_options: argparse.Namespace) -> None:
    import anyio  # noqa: PLC0415

    from calls_mcp.cli.demo import run_demo  # noqa: PLC0415

    anyio.run(run_demo)

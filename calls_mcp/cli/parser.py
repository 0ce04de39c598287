"""What a person does with this server before, or without, an agent: look, ask, try.

Each command is a module of its own, and is imported only when it is used.
"""

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


_AddParser = Callable[..., "ArgumentParser"]

_CLIENTS = ("claude-desktop", "claude-code", "cursor", "vscode", "windsurf", "zed", "inspector")

_DOCTOR = """\
exit status:
  0  all is well
  1  something is wrong, though the server starts
  2  the server can't start like this

It reads a list of one call from the API, and changes nothing anywhere.
"""
_CALL = """\
examples:
  calls-mcp call list_calls status=completed limit=5
  calls-mcp call fetch_call sid=CA00000000000000000000000000000000
  calls-mcp call create_call to=+15005550205 from=+15005550006 twiml='<Response/>' --sandbox

A value is JSON where its parameter is a number, a boolean or a list, and text as it is elsewhere;
a list can also be given by repeating the argument. What should not be seen in the list of processes
(sip_auth_password) belongs into --input.

A change is confirmed by typing yes on the terminal. Where there is none, nothing is done, unless
--yes says so beforehand: that counts as a token does, so what the policy wants a human for
(require_human) waits for the operator.

exit status:
  0    done
  1    an error: the result tells which
  2    wrong usage, or the server can't start
  3    declined, or the confirmation has lapsed: nothing was done
  4    confirmation required: nothing was done
  130  interrupted
"""


_APPROVALS = """\
It needs the settings of the servers whose approvals these are: none by default, or else their
CALLS_MCP_STATE_URL, and their CALLS_MCP_AUDIT_DATABASE for the record of the decision.

exit status:
  0  it was shown, or the decision stands
  1  it was decided before, or has lapsed
  2  wrong usage, or there is no such approval
"""


_CONSOLE = """\
It needs the settings of the servers that it is beside, if they have any: CALLS_MCP_STATE_URL for
what waits, CALLS_MCP_AUDIT_DATABASE for the audit log, CALLS_MCP_POLICY for the rules, and the
account's credentials for the calls. The way in is a link that is printed here. It works once.

Where other machines reach --host, a proxy must speak https for it: --url says at which address.
"""


def add_commands(add_parser: _AddParser) -> None:
    """Put these commands beside the others."""
    _add_doctor(add_parser)
    _add_client_config(add_parser)
    _add_tools(add_parser)
    _add_call(add_parser)
    _add_approvals(add_parser)
    _add_console(add_parser)


def _add_doctor(add_parser: _AddParser) -> None:
    doctor = _command(add_parser, "doctor", "find out what is wrong with the set-up", _DOCTOR)
    _add_sandbox(doctor)
    _add_json(doctor, "the findings")


def _add_client_config(add_parser: _AddParser) -> None:
    config = _command(add_parser, "client-config", "print or write an MCP client's configuration")
    config.add_argument("client", choices=_CLIENTS, help="whose: " + ", ".join(_CLIENTS))
    config.add_argument("--write", action="store_true", help="put it into the client's file")
    config.add_argument("--file", type=Path, help="that file, if it is not in its usual place")
    config.add_argument("--name", default="calls", help="the server's name there (%(default)s)")
    _add_sandbox(config)
    _add_json(config, "what was done")


def _add_tools(add_parser: _AddParser) -> None:
    tools = _command(add_parser, "tools", "list the tools as a model sees them, and their cost")
    tools.add_argument("tool", nargs="*", help="only these")
    _add_json(tools, "the definitions")


def _add_call(add_parser: _AddParser) -> None:
    call = _command(add_parser, "call", "run one tool, as a client does", _CALL)
    call.add_argument("tool", help="its name; see: calls-mcp tools")
    # The default keeps argparse from calling it required.
    call.add_argument(
        "arguments", nargs="*", default=[], metavar="key=value", help="arguments for it"
    )
    call.add_argument("--input", metavar="FILE", help="more of them, a JSON object; - for stdin")
    call.add_argument("--yes", action="store_true", help="confirm it without being asked")
    _add_sandbox(call)
    _add_json(call, "the result's structured content")


def _add_approvals(add_parser: _AddParser) -> None:
    approvals = _command(add_parser, "approvals", "decide what waits for the operator", _APPROVALS)
    approvals.add_argument(
        "action", nargs="?", choices=("list", "show", "approve", "deny"), default="list"
    )
    approvals.add_argument("id", nargs="?", help="which one; not for list")
    approvals.add_argument(
        "--all", action="store_true", help="list: also what is decided or lapsed"
    )
    approvals.add_argument("--watch", action="store_true", help="list: again, whenever it changes")
    approvals.add_argument("--reason", help="why; the agent is told it after a denial")
    approvals.add_argument("--by", help="who decides (the name of this user)")
    _add_beside_sandbox(approvals)
    _add_json(approvals, "what is shown")


def _add_console(add_parser: _AddParser) -> None:
    console = _command(add_parser, "console", "open the operator's pages", _CONSOLE)
    console.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    console.add_argument(
        "--port", type=int, default=8090, help="port to listen on, 0 for any (%(default)s)"
    )
    console.add_argument("--url", help="the https address by which browsers know it")
    console.add_argument("--open", action="store_true", help="open the link in the browser")
    _add_beside_sandbox(console)


def _command(add_parser: _AddParser, name: str, purpose: str, more: str = "") -> "ArgumentParser":
    described = f"{purpose[0].upper()}{purpose[1:]}."
    command = add_parser(
        name,
        help=purpose,
        description=described,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=partial(_run, name.replace("-", "_")))
    return command


def _add_sandbox(command: "ArgumentParser") -> None:
    command.add_argument(
        "--sandbox", action="store_true", help="on an emulator inside: no credentials, no telephone"
    )


def _add_beside_sandbox(command: "ArgumentParser") -> None:
    command.add_argument(
        "--sandbox", action="store_true", help="for servers that were started with --sandbox"
    )


def _add_json(command: "ArgumentParser", what: str) -> None:
    command.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def _run(module: str, options: "Namespace") -> int:
    run = cast("Callable[[Namespace], int]", import_module(f"calls_mcp.cli.{module}").run)
    return run(options)

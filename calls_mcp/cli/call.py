"""`calls-mcp call`: call one tool from the shell, as an MCP client does."""

import json
import os
import re
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn, cast

import anyio
import anyio.to_thread
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolResult,
    ElicitRequestFormParams,
    ElicitRequestParams,
    ElicitResult,
    Implementation,
    TextContent,
)

from calls_mcp import __version__
from calls_mcp.cli.options import add_json, add_sandbox
from calls_mcp.cli.terminal import painted, say, show_json, warn
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability import stderr
from calls_mcp.observability.logs import configure_logs
from calls_mcp.observability.redaction import quoted
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime, open_runtime
from calls_mcp.service.signals import handled_by
from calls_mcp.settings import Settings, load_settings
from calls_mcp.tools.catalog import Json, Operation, load_operations
from calls_mcp.tools.outcome import Outcome, OutcomeName
from calls_mcp.tools.suggestions import suggested_name

_EPILOG = """\
examples:
  calls-mcp call list_calls status=completed limit=5
  calls-mcp call fetch_call sid=CA00000000000000000000000000000000
  calls-mcp call create_call to=+15005550205 from=+15005550006 say='Hello' --sandbox

Write numbers, booleans and lists as JSON, and everything else as plain text. For a list, you can
also repeat KEY=VALUE. Other users of this machine can see the command line, so pass secrets
(sip_auth_password) with --input. With --sandbox, each command has its own calls.

To confirm a change, type yes. Without a terminal nothing is done unless you pass --yes. If the
policy says require_human or operator, --yes is not enough, and the change waits for the operator.

exit status:
  0    done
  1    the tool returned an error
  2    usage or setup error
  3    declined, denied, expired or withdrawn: nothing was done
  4    confirmation required, or awaiting the operator: nothing was done yet
  130  interrupted
"""

STATUS: Mapping[OutcomeName, int] = {
    "done": 0,
    "error": 1,
    "declined": 3,
    "expired": 3,
    "confirmation_required": 4,
    "awaiting_operator": 4,
}
"""The exit status for each outcome."""

_Invoke = Callable[[Runtime], Awaitable[CallToolResult | MCPError]]

_NAME = re.compile(r"[\w-]+")
_JSON_TYPES: Mapping[object, type] = {"integer": int, "boolean": bool, "array": list}
_INTERRUPTED = 130
_SELF = Implementation(name="calls-mcp call", version=__version__)
_YES = "yes"
_INTERRUPTION = "\nInterrupted."
_LOOK_FIRST = " Before you try again, check what happened: calls-mcp call list_calls"
_LONGEST_QUESTION = 86_400  # seconds
_LAST_LINES = 0.2  # seconds for what is still to be written after an interruption


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    option = parser.add_argument
    option("tool", metavar="TOOL", help="name of the tool, as `calls-mcp tools` lists it")
    # The default keeps argparse from calling it required.
    option("arguments", nargs="*", default=[], metavar="KEY=VALUE", help="arguments of the tool")
    option(
        "--input",
        metavar="FILE",
        help="read more arguments from a file with a JSON object (-: stdin)",
    )
    option("--yes", action="store_true", help="confirm the change without asking")
    add_sandbox(parser)
    add_json(parser, "the structured result")
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Call the tool and show its result. Return the exit status.

    Raises:
        ConfigurationError: The command or the setup is wrong.
    """
    operation = _operation(options.tool)
    given = _read(options.input) if options.input else {}
    arguments = {**given, **assigned(options.arguments, operation)}
    settings = load_settings()
    configure_logs(settings.logs.format, settings.logs.level)
    invoke = partial(_invoke, operation.name, arguments, says_yes=options.yes)
    with handled_by(_exit_at_once):  # unless another handler is installed later
        result = anyio.run(_serving, settings, options.sandbox, invoke)
    if result is None:
        _end_interrupted(may_have_changed=not (operation.read_only or options.sandbox))
    if isinstance(result, MCPError):
        raise ConfigurationError(result.error.message)
    return _show(result, as_json=options.json, can_be_asked=_is_interactive())


def _operation(name: str) -> Operation:
    operations = load_operations()
    if name not in operations:
        known = ", ".join(operations)
        shown = re.split("[=:]", name)[0]  # a secret may follow if TOOL was left out
        raise ConfigurationError(f"Unknown tool {quoted(shown, 64)}. The tools are {known}.")
    return operations[name]


def assigned(pairs: Iterable[str], operation: Operation) -> dict[str, Json]:
    """Return the arguments that `KEY=VALUE` pairs give to `operation`.

    A value is JSON if the parameter's type is number, boolean or list, and plain text otherwise. A
    misspelled name counts as the one that is probably meant. Wrong values are passed on, because
    the tool reports them. A list may be given by repeating the pair.

    Raises:
        ConfigurationError: A pair is not `KEY=VALUE`, or repeats a parameter that is not a list.
            The message names all such pairs, by position, because the text may be a secret.
    """
    arguments: dict[str, Json] = {}
    wrong: list[str] = []
    for number, pair in enumerate(pairs, 1):
        name, equals, text = pair.partition("=")
        if not (equals and _NAME.fullmatch(name)):
            wrong.append(f"Argument {number} must be KEY=VALUE, such as limit=5.")
            continue
        wanted = _wanted(operation, name)
        value = _value(text, wanted)
        if wanted is list:
            items = value if isinstance(value, list) else [value]
            before = arguments.get(name)
            arguments[name] = [*(before if isinstance(before, list) else []), *items]
        elif name in arguments:
            wrong.append(f"{name}: pass it only once.")
        else:
            arguments[name] = value
    if wrong:
        raise ConfigurationError(" ".join(wrong))
    return arguments


def _wanted(operation: Operation, name: str) -> type:
    known = operation.parameters
    parameter = known.get(name) or known.get(suggested_name(operation, name))
    return _JSON_TYPES.get(parameter.schema["type"], str) if parameter else str


def _value(text: str, wanted: type) -> Json:
    if wanted is str:
        return text
    try:
        value: Json = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if type(value) is wanted else text


def _read(source: str) -> dict[str, Json]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
        value: object = json.loads(text.removeprefix("\ufeff"))
    except OSError as failure:
        raise ConfigurationError(f"--input {source}: {failure.strerror}.") from failure
    except UnicodeDecodeError:
        raise ConfigurationError(f"--input {source}: must be UTF-8.") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"--input {source}: must be a JSON object.") from None
    if not isinstance(value, dict):
        raise ConfigurationError(f"--input {source}: must be a JSON object.")
    return cast("dict[str, Json]", value)


async def _serving(
    settings: Settings,
    sandbox: bool,  # noqa: FBT001
    invoke: "_Invoke",
) -> CallToolResult | MCPError | None:
    """Return the result of the call; None if a signal came first."""
    async with (
        open_runtime(settings, sandbox=sandbox) as runtime,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_cancel_on_signal, tasks.cancel_scope)
        result = await invoke(runtime)
        tasks.cancel_scope.cancel()
        return result
    return None


async def _cancel_on_signal(scope: anyio.CancelScope) -> None:
    """Cancel the call on a signal. A change that was already sent is finished first."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def _invoke(
    tool: str, arguments: Mapping[str, Json], runtime: Runtime, *, says_yes: bool
) -> CallToolResult | MCPError:
    ask = _ask if _is_interactive() and not says_yes else None
    report = _report if _is_interactive() and "wait_until" in arguments else None
    server = build_server(runtime)
    async with Client(server, elicitation_callback=ask, client_info=_SELF, cache=None) as client:
        try:
            result = await client.call_tool(tool, {**arguments}, progress_callback=report)
            confirmation = _outcome(result).confirmation
            if confirmation is None or confirmation.token is None or not says_yes:
                return result
            warn(confirmation.preview)
            token = {"confirmation_token": confirmation.token}
            return await client.call_tool(tool, {**arguments, **token})
        except MCPError as refused:
            return refused


async def _report(progress: float, total: float | None, message: str | None) -> None:
    """Show the status of the call, so that the command does not look stuck."""
    del progress, total
    if message:
        warn(f"{message}…")


async def _ask(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    del context
    if not isinstance(params, ElicitRequestFormParams):
        return ElicitResult(action="cancel")
    question = painted(params.message, "yellow", sys.stderr)
    answer = await anyio.to_thread.run_sync(_answer, question, abandon_on_cancel=True)
    if answer is None:
        return ElicitResult(action="cancel")
    if answer != _YES:
        return ElicitResult(action="decline")
    needed = cast("list[str]", params.requested_schema.get("required", []))
    return ElicitResult(action="accept", content=dict.fromkeys(needed, True))


def _answer(question: str) -> str | None:
    """Ask on the terminal. Return the line that was typed; None at the end of input.

    It runs in the thread that writes the logs, so that no log line interrupts the question.
    """
    lines: list[str] = []

    def ask() -> None:
        warn(question)
        sys.stderr.write(f"Type {_YES} to confirm, anything else to decline: ")
        sys.stderr.flush()
        lines.append(sys.stdin.readline())

    stderr.run_in_writer(ask, _LONGEST_QUESTION)
    return lines[0].strip() if lines[0] else None


def _is_interactive() -> bool:
    """Return whether a person can see a question and answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _outcome(result: CallToolResult) -> Outcome:
    return Outcome.model_validate(result.structured_content)


def _show(result: CallToolResult, *, as_json: bool, can_be_asked: bool) -> int:
    outcome = _outcome(result)
    if as_json:
        show_json(result.structured_content)
    else:
        text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
        say(painted(text, "red") if result.is_error else text)
    if outcome.outcome == "confirmation_required" and not can_be_asked:
        warn("Nothing was done. Without a terminal, pass --yes to confirm.")
    return STATUS[outcome.outcome]


def _exit_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


def _end_interrupted(*, may_have_changed: bool) -> NoReturn:
    """End at once, because a thread that waits for input can't be stopped."""
    warn(_INTERRUPTION + (_LOOK_FIRST if may_have_changed else ""))
    stderr.flush(_LAST_LINES)
    os._exit(_INTERRUPTED)

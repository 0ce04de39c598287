"""`calls-mcp call`: call one tool from the shell, as an MCP client does."""

import json
import os
import re
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
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
from calls_mcp.service.runtime import Runtime
from calls_mcp.service.sandbox import open_runtime
from calls_mcp.settings import Settings, load_settings
from calls_mcp.tools.catalog import Json, Operation, load_operations
from calls_mcp.tools.outcome import Outcome, OutcomeName

_EPILOG = """\
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
_LOOK_FIRST = "\nInterrupted. Before you repeat it, look with: calls-mcp call list_calls"


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    option = parser.add_argument
    option("tool", help="its name; see: calls-mcp tools")
    # The default keeps argparse from calling it required.
    option("arguments", nargs="*", default=[], metavar="key=value", help="arguments for it")
    option("--input", metavar="FILE", help="more of them, a JSON object; - for stdin")
    option("--yes", action="store_true", help="confirm it without being asked")
    add_sandbox(parser)
    add_json(parser, "the result's structured content")
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
    with _interruptible():
        result = anyio.run(_serving, settings, options.sandbox, invoke)
    if result is None:
        _end_interrupted(operation)
    if isinstance(result, MCPError):
        raise ConfigurationError(result.error.message)
    return _show(result, as_json=options.json, can_be_asked=_is_interactive())


def _operation(name: str) -> Operation:
    operations = load_operations()
    if name not in operations:
        known = ", ".join(operations)
        shown = re.split("[=:]", name)[0]  # behind it may be a secret, if the tool was left out
        raise ConfigurationError(f"There is no tool {quoted(shown, 64)}; there are: {known}.")
    return operations[name]


def assigned(pairs: Iterable[str], operation: Operation) -> dict[str, Json]:
    """Return the arguments that `key=value` pairs give to `operation`.

    A value is JSON if the parameter's schema wants a number, a boolean or a list, and otherwise the
    text itself: quotation marks may be meant. The tool reports wrong values. A list may be given by
    repeating the pair.

    Raises:
        ConfigurationError: A pair is not `key=value`, or repeats what is not a list. The message
            gives its position, because its text may be a secret.
    """
    arguments: dict[str, Json] = {}
    for number, pair in enumerate(pairs, 1):
        name, equals, text = pair.partition("=")
        if not (equals and _NAME.fullmatch(name)):
            raise ConfigurationError(f"Argument {number} is not key=value.")
        wanted = _wanted(operation, name)
        value = _value(text, wanted)
        if wanted is list:
            items = value if isinstance(value, list) else [value]
            before = arguments.get(name)
            arguments[name] = [*(before if isinstance(before, list) else []), *items]
        elif name in arguments:
            raise ConfigurationError(f"{name} is given twice.")
        else:
            arguments[name] = value
    return arguments


def _wanted(operation: Operation, name: str) -> type:
    parameter = operation.parameters.get(name)
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
        value: object = json.loads(text)
    except OSError as failure:
        raise ConfigurationError(f"--input {source}: {failure.strerror}.") from failure
    except (ValueError, RecursionError):
        raise ConfigurationError(f"--input {source}: is not JSON.") from None
    if not isinstance(value, dict):
        raise ConfigurationError(f"--input {source}: must be a JSON object of arguments.")
    return cast("dict[str, Json]", value)


async def _serving(
    settings: Settings,
    sandbox: bool,  # noqa: FBT001
    invoke: "_Invoke",
) -> CallToolResult | MCPError | None:
    """Return the result of the invocation; None if a signal came first."""
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
    """Cancel what has not been sent. What has been sent is finished."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def _invoke(
    tool: str, arguments: Mapping[str, Json], runtime: Runtime, *, says_yes: bool
) -> CallToolResult | MCPError:
    ask = _ask if _is_interactive() and not says_yes else None
    server = build_server(runtime)
    async with Client(server, elicitation_callback=ask, client_info=_SELF, cache=None) as client:
        try:
            result = await client.call_tool(tool, {**arguments})
            confirmation = _outcome(result).confirmation
            if confirmation is None or confirmation.token is None or not says_yes:
                return result
            warn(confirmation.preview)
            token = {"confirmation_token": confirmation.token}
            return await client.call_tool(tool, {**arguments, **token})
        except MCPError as refused:
            return refused


async def _ask(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    del context
    if not isinstance(params, ElicitRequestFormParams):
        return ElicitResult(action="cancel")
    warn(painted(params.message, "yellow", sys.stderr))
    answer = await anyio.to_thread.run_sync(_answer, abandon_on_cancel=True)
    if answer is None:
        return ElicitResult(action="cancel")
    if answer != _YES:
        return ElicitResult(action="decline")
    needed = cast("list[str]", params.requested_schema.get("required", []))
    return ElicitResult(action="accept", content=dict.fromkeys(needed, True))


def _answer() -> str | None:
    """Return the line that is typed; None at the end of input."""
    sys.stderr.write(f"Type {_YES} to do this, anything else to leave it: ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    return line.strip() if line else None


def _is_interactive() -> bool:
    """Return whether a person can see the question and answer it."""
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
        warn("Nothing was done: there is no terminal to confirm it on; --yes confirms it.")
    return STATUS[outcome.outcome]


@contextmanager
def _interruptible() -> Generator[None]:
    """Let a signal end the program with status 130, unless another handler is installed."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, _exit_at_once) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _exit_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


def _end_interrupted(operation: Operation) -> NoReturn:
    """End at once: a thread that waits for an answer can't be stopped."""
    warn("" if operation.read_only else _LOOK_FIRST)
    stderr.flush()
    os._exit(_INTERRUPTED)

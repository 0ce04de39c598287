"""`calls-mcp approvals`: list approval requests and decide them on a terminal."""

import getpass
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import anyio

from calls_mcp.cli.options import add_json, add_sandbox_of_servers
from calls_mcp.cli.terminal import painted, say, show_json
from calls_mcp.errors import AuditUnavailable, ConfigurationError, StoreUnavailable
from calls_mcp.guard.operator import Approvals, Decided, count_in_other_default, open_approvals
from calls_mcp.observability.logs import silenced
from calls_mcp.observability.redaction import quoted
from calls_mcp.settings import Settings, load_settings
from calls_mcp.storage import ApprovalRequest
from calls_mcp.tools.outcome import iso_time

_EPILOG = """\
It needs the settings of the servers whose approvals these are: none by default, or else their
CALLS_MCP_STATE_URL, and their CALLS_MCP_AUDIT_DATABASE for the record of the decision.

exit status:
  0  it was shown, or the decision stands
  1  it was decided before, or has lapsed
  2  wrong usage, or there is no such approval
"""
_POLL_INTERVAL = 1  # second
_FAILED = 1  # exit status


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    option = parser.add_argument
    option("action", nargs="?", choices=("list", "show", "approve", "deny"), default="list")
    option("id", nargs="?", help="which one; not for list")
    option("--all", action="store_true", help="list: also what is decided or lapsed")
    option("--watch", action="store_true", help="list: again, whenever it changes")
    option("--reason", help="why; the agent is told it after a denial")
    option("--by", help="who decides (the name of this user)")
    add_sandbox_of_servers(parser)
    add_json(parser, "what is shown")
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """List, show or decide approval requests. Return the exit status.

    Raises:
        ConfigurationError: Servers and operators share no store, or the store or the audit log
            can't be used. Nothing was decided.
    """
    try:
        with silenced(), suppress(KeyboardInterrupt):  # the end of watching
            return anyio.run(_run, load_settings(), options)
    except (StoreUnavailable, AuditUnavailable) as unavailable:
        raise ConfigurationError(unavailable.for_operator) from unavailable
    return 0


async def _run(settings: Settings, options: Namespace) -> int:
    async with open_approvals(settings, sandbox=options.sandbox) as approvals:
        if options.action == "list":
            await _list(approvals, settings, options)
            return 0
        if options.id is None:
            raise ConfigurationError(f"Say which: calls-mcp approvals {options.action} ID")
        request = await approvals.find(options.id)
        if request is None:
            unknown = quoted(options.id, 40)
            raise ConfigurationError(
                f"There is no approval {unknown}; see: calls-mcp approvals list"
            )
        if options.action == "show":
            _show(request, approvals.clock(), as_json=options.json)
            return 0
        return await _decide(approvals, request, options)


async def _list(approvals: Approvals, settings: Settings, options: Namespace) -> None:
    shown: object = None
    while True:
        requests = await (approvals.requests() if options.all else approvals.pending())
        now = approvals.clock()
        listed = [(each.identifier, each.decision, each.has_expired(now)) for each in requests]
        if listed != shown:
            shown = listed
            _show_all(requests, now, as_json=options.json)
            if not (requests or options.json):
                await _show_where(approvals, settings, sandbox=options.sandbox)
        if not options.watch:
            return
        await anyio.sleep(_POLL_INTERVAL)


def _show_all(requests: Sequence[ApprovalRequest], now: float, *, as_json: bool) -> None:
    if as_json:
        show_json([_report(request, now) for request in requests])
        return
    for request in requests:
        say("\n".join([*_lines(request, now), ""]))
    if requests:
        say(f"{len(requests)} shown")


async def _show_where(approvals: Approvals, settings: Settings, *, sandbox: bool) -> None:
    say(f"Nothing is pending in {approvals.where}")
    if count := await count_in_other_default(settings, sandbox=sandbox):
        pending = "1 request is" if count == 1 else f"{count} requests are"
        whose = "of the servers without --sandbox" if sandbox else "of the sandbox"
        command = f"calls-mcp approvals{'' if sandbox else ' --sandbox'}"
        say(f"{pending} pending in the database {whose}: {command}")


async def _decide(approvals: Approvals, request: ApprovalRequest, options: Namespace) -> int:
    by = options.by or getpass.getuser()
    approve = options.action == "approve"
    decided = await approvals.decide(request, approve=approve, by=by, reason=options.reason or "")
    now = approvals.clock()
    if options.json:
        made = replace(request, decision=decided.decision) if decided else request
        show_json(_report(made, now))
    elif decided is None:
        say("It has lapsed: nobody decided in time. Nothing was done.")
    else:
        say(_result(decided))
    return 0 if decided and decided.ours else _FAILED


def _result(decided: Decided) -> str:
    decision = decided.decision
    if not decided.ours:
        return f"It was {decision.word} before, by {decision.by}. That stands."
    then = "it is carried out" if decision.is_approval else "the agent is told"
    return f"{decision.word.capitalize()}: {then} once the same is called again."


def _show(request: ApprovalRequest, now: float, *, as_json: bool) -> None:
    if as_json:
        show_json(_report(request, now))
    else:
        say("\n".join(_lines(request, now)))


def _lines(request: ApprovalRequest, now: float) -> Iterator[str]:
    asked_for = max(0, round(now - request.asked_at))
    yield f"{painted(request.identifier, 'bold')}  {_state(request, now)}"
    yield f"  {request.binding.principal} asks, by {request.client or 'a client without a name'}"
    yield f"  {request.binding.tool}, {request.rule}, {asked_for} s ago"
    yield from (f"  {line}" for line in request.preview.splitlines())


def _state(request: ApprovalRequest, now: float) -> str:
    if made := request.decision:
        return f"{made.word} by {made.by}{f': {made.reason}' if made.reason else ''}"
    if request.has_expired(now):
        return "lapsed"
    return painted(f"waits, {round(request.expires_at - now)} s left", "yellow")


def _report(request: ApprovalRequest, now: float) -> dict[str, object]:
    made = request.decision
    decided = (
        {
            "decision": made.word,
            "decided_by": made.by,
            "decided_at": iso_time(made.at),
            "reason": made.reason,
        }
        if made
        else {}
    )
    return {
        "id": request.identifier,
        "state": "decided" if made else "lapsed" if request.has_expired(now) else "waiting",
        "tool": request.binding.tool,
        "action": request.action,
        "principal": request.binding.principal,
        "client": request.client,
        "rule": request.rule,
        "preview": request.preview,
        "asked_at": iso_time(request.asked_at),
        "lapses_at": iso_time(request.expires_at),
        **{name: value for name, value in decided.items() if value},
    }

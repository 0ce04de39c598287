"""`calls-mcp approvals`: list, show, approve and deny approval requests on a terminal."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace

import anyio

from calls_mcp.cli.options import add_json, add_sandbox_of_servers, user_name
from calls_mcp.cli.terminal import Color, painted, say, show_json, show_table
from calls_mcp.errors import AuditUnavailable, ConfigurationError, StoreUnavailable
from calls_mcp.guard.operator_decisions import (
    Approvals,
    Decided,
    Progress,
    count_in_other_default,
    open_approvals,
)
from calls_mcp.observability.logs import silenced
from calls_mcp.observability.redaction import one_line, quoted
from calls_mcp.settings import Settings, load_settings
from calls_mcp.storage.records import ApprovalRequest
from calls_mcp.tools.humanize import iso_time

_USAGE = """\
calls-mcp approvals [list] [--all] [--watch] [--sandbox] [--json]
       calls-mcp approvals show ID [--sandbox] [--json]
       calls-mcp approvals approve ID [--by NAME] [--reason TEXT] [--sandbox] [--json]
       calls-mcp approvals deny ID [--by NAME] [--reason TEXT] [--sandbox] [--json]"""
_EPILOG = """\
examples:
  calls-mcp approvals
  calls-mcp approvals approve 0123456789abcdef
  calls-mcp approvals deny 0123456789abcdef --reason "not before 9 am"

Use the servers' CALLS_MCP_STATE_URL and CALLS_MCP_AUDIT_DATABASE. If the servers
don't set them, leave them unset.

exit status:
  0  success
  1  the request was already decided, or has expired
  2  usage or setup error, or there is no such request
"""
_POLL_INTERVAL = 1  # second
_LONGEST_RUN = 10  # seconds to wait for the outcome of an approved change
_FAILED = 1  # exit status
_MINUTE, _HOUR = 60, 3600  # seconds
_COLORS: dict[str, Color] = {"pending": "yellow", "approved": "green", "denied": "red"}


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    option = parser.add_argument
    option(
        "action",
        nargs="?",
        metavar="ACTION",
        choices=("list", "show", "approve", "deny"),
        default="list",
        help="list (default), show, approve or deny",
    )
    option("id", nargs="?", metavar="ID", help="the request to show, approve or deny")
    option("--all", action="store_true", help="list decided and expired requests, too")
    option("--watch", action="store_true", help="list again after each change, until Ctrl-C")
    option(
        "--reason",
        metavar="TEXT",
        help="reason for the decision; the agent sees the reason for a denial",
    )
    option(
        "--by",
        metavar="NAME",
        help="operator's name for the audit log (default: your user name)",
    )
    add_sandbox_of_servers(parser)
    add_json(parser, "the requests")
    parser.usage = _USAGE
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """List, show or decide approval requests. Return the exit status.

    Raises:
        ConfigurationError: The options are wrong, the servers' state is not shared, or the store or
            the audit log can't be used. Nothing was decided.
    """
    _check(options)
    try:
        with silenced(), suppress(KeyboardInterrupt):  # Ctrl-C ends --watch
            return anyio.run(_run, load_settings(), options)
    except (StoreUnavailable, AuditUnavailable) as unavailable:
        raise ConfigurationError(unavailable.for_operator) from unavailable
    return 0


def _check(options: Namespace) -> None:
    is_list = options.action == "list"
    if is_list and options.id is not None:
        raise ConfigurationError("list takes no ID. For one request: calls-mcp approvals show ID")
    if not is_list and options.id is None:
        raise ConfigurationError(f"ID is missing: calls-mcp approvals {options.action} ID")
    if not is_list and (options.all or options.watch):
        name = "--all" if options.all else "--watch"
        raise ConfigurationError(f"{name} can be used with list only.")
    if options.action in ("list", "show") and (options.reason or options.by):
        name = "--reason" if options.reason else "--by"
        raise ConfigurationError(f"{name} can be used with approve and deny only.")


async def _run(settings: Settings, options: Namespace) -> int:
    async with open_approvals(settings, sandbox=options.sandbox) as approvals:
        if options.action == "list":
            await _list(approvals, settings, options)
            return 0
        request = await approvals.find(options.id)
        if request is None:
            unknown, flag = quoted(options.id, 40), _flag(options)
            raise ConfigurationError(
                f"There is no approval request {unknown}. List them: calls-mcp approvals{flag}"
            )
        if options.action == "show":
            _show(request, await approvals.progress(request), await approvals.now(), options)
            return 0
        return await _decide(approvals, request, options)


async def _list(approvals: Approvals, settings: Settings, options: Namespace) -> None:
    shown: object = None
    while True:
        requests = await (approvals.requests() if options.all else approvals.pending())
        now = await approvals.now()
        listed = [(each.identifier, each.decision, each.has_expired(now)) for each in requests]
        if listed != shown:
            shown = listed
            _show_all(requests, now, options)
            if not (requests or options.json):
                await _show_where(approvals, settings, sandbox=options.sandbox)
        if not options.watch:
            return
        await anyio.sleep(_POLL_INTERVAL)


def _show_all(requests: Sequence[ApprovalRequest], now: float, options: Namespace) -> None:
    if options.json:
        show_json([_report(request, now) for request in requests])
    elif requests:
        columns = ("id", "state", "requested by", "summary")
        show_table(columns, [_row(request, now) for request in requests])
        say(f"\nFor the whole preview: calls-mcp approvals show ID{_flag(options)}")


def _flag(options: Namespace) -> str:
    return " --sandbox" if options.sandbox else ""


def _row(request: ApprovalRequest, now: float) -> Sequence[str]:
    state = _word(request, now)
    if state == "pending":
        state = f"pending, {_duration(request.expires_at - now)} left"
    painted_state = painted(state, _COLORS.get(_word(request, now), "dim"))
    requester = quoted(request.binding.principal)
    return request.identifier, painted_state, requester, request.preview.headline


async def _show_where(approvals: Approvals, settings: Settings, *, sandbox: bool) -> None:
    say(f"No pending approval requests in {approvals.where}")
    if count := await count_in_other_default(settings, sandbox=sandbox):
        pending = "1 request is" if count == 1 else f"{count} requests are"
        whose = "of servers without --sandbox" if sandbox else "of the sandbox"
        command = f"calls-mcp approvals{'' if sandbox else ' --sandbox'}"
        say(f"{pending} pending in the database {whose}: {command}")


async def _decide(approvals: Approvals, request: ApprovalRequest, options: Namespace) -> int:
    by = options.by or user_name()
    approve = options.action == "approve"
    decided = await approvals.decide(request, approve=approve, by=by, reason=options.reason or "")
    if decided is None:
        progress = Progress("")
        if not options.json:
            say("The request has expired. Nothing was done.")
    else:
        request = replace(request, decision=decided.decision)
        progress = await approvals.progress(request)
        if not options.json:
            say(_result(decided, progress))
        if progress.is_running:
            progress = await approvals.result(request, _LONGEST_RUN)
            if not (options.json or progress.is_running):
                say(progress.text)
    if options.json:
        show_json(_report(request, await approvals.now(), progress))
    return 0 if decided and decided.ours else _FAILED


def _result(decided: Decided, progress: Progress) -> str:
    decision = decided.decision
    if not decided.ours:
        then = one_line(decision.reason) if decision.is_withdrawal else "That decision stands."
        return f"Already {decision.word} by {one_line(decision.by)}. {then}"
    return f"{decision.word.capitalize()}. {progress.text}"


def _show(request: ApprovalRequest, progress: Progress, now: float, options: Namespace) -> None:
    if options.json:
        show_json(_report(request, now, progress))
    else:
        say("\n".join(_lines(request, progress, now)))


def _lines(request: ApprovalRequest, progress: Progress, now: float) -> Iterator[str]:
    yield f"{painted(request.identifier, 'bold')}  {_state(request, now)}"
    if progress.text:
        yield f"  {progress.text}"
    yield f"  Requested {_duration(now - request.asked_at)} ago by {_requester(request)}"
    yield f"  Tool {request.binding.tool}, rule {request.rule}"
    yield from (f"  {line}" for line in request.preview.text.splitlines())


def _state(request: ApprovalRequest, now: float) -> str:
    word = _word(request, now)
    text = painted(word, _COLORS.get(word, "dim"))
    if made := request.decision:
        reason = f": {one_line(made.reason)}" if made.reason else ""
        return f"{text} by {one_line(made.by)}{reason}"
    if request.has_expired(now):
        return text
    return f"{text}, expires in {_duration(request.expires_at - now)}"


def _word(request: ApprovalRequest, now: float) -> str:
    if request.decision:
        return request.decision.word
    return "expired" if request.has_expired(now) else "pending"


def _requester(request: ApprovalRequest) -> str:
    client = quoted(request.client) if request.client else "unnamed client"
    return f"{quoted(request.binding.principal)} ({client})"


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    return f"{whole // _MINUTE} min" if whole < _HOUR else f"{whole // _HOUR} h"


def _report(
    request: ApprovalRequest, now: float, progress: Progress | None = None
) -> dict[str, object]:
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
        "state": "decided" if made else _word(request, now),
        "tool": request.binding.tool,
        "action": request.action,
        "principal": request.binding.principal,
        "client": request.client,
        "rule": request.rule,
        "preview": {**asdict(request.preview), "text": request.preview.text},
        "requested_at": iso_time(request.asked_at),
        "expires_at": iso_time(request.expires_at),
        **{name: value for name, value in decided.items() if value},
        **({"progress": progress.text} if progress and progress.text else {}),
        **({"outcome": progress.outcome.content()} if progress and progress.outcome else {}),
    }

"""`calls-mcp approvals`: what waits for the operator, and their decision, on a terminal."""

import getpass
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import anyio

from calls_mcp.errors import ConfigurationError
from calls_mcp.office import Decided, Office, open_office
from calls_mcp.outcome import moment
from calls_mcp.redaction import quoted
from calls_mcp.settings import load_settings
from calls_mcp.store import Filed
from calls_mcp.terminal import painted, say, show_json

_LOOK_EVERY = 1  # second
_FAILED = 1  # exit status


def run(options: Namespace) -> int:
    """Do what the options say; the exit status.

    Raises:
        ConfigurationError: There is no place that servers and operators share.
        StoreUnavailable: That place can't be reached.
        AuditUnavailable: A decision can't be recorded, so it was not taken.
    """
    with suppress(KeyboardInterrupt):  # the end of watching
        return anyio.run(_run, options)
    return 0


async def _run(options: Namespace) -> int:
    async with open_office(load_settings()) as office:
        if options.action == "list":
            await _list(office, options)
            return 0
        if options.id is None:
            raise ConfigurationError(f"Say which: calls-mcp approvals {options.action} ID")
        filed = await office.find(options.id)
        if filed is None:
            unknown = quoted(options.id, 40)
            raise ConfigurationError(
                f"There is no approval {unknown}; see: calls-mcp approvals list"
            )
        if options.action == "show":
            _show(filed, office.clock(), as_json=options.json)
            return 0
        return await _decide(office, filed, options)


async def _list(office: Office, options: Namespace) -> None:
    shown: object = None
    while True:
        cases = await (office.cases() if options.all else office.waiting())
        now = office.clock()
        listed = [(each.case.identifier, each.ruling, each.has_lapsed(now)) for each in cases]
        if listed != shown:
            shown = listed
            _tell(cases, now, as_json=options.json)
        if not options.watch:
            return
        await anyio.sleep(_LOOK_EVERY)


def _tell(cases: Sequence[Filed], now: float, *, as_json: bool) -> None:
    if as_json:
        show_json([_report(filed, now) for filed in cases])
        return
    for filed in cases:
        say("\n".join([*_lines(filed, now), ""]))
    say(f"{len(cases)} shown" if cases else "Nothing waits.")


async def _decide(office: Office, filed: Filed, options: Namespace) -> int:
    by = options.by or getpass.getuser()
    approve = options.action == "approve"
    decided = await office.decide(filed, approve=approve, by=by, reason=options.reason or "")
    now = office.clock()
    if options.json:
        show_json(_report(replace(filed, ruling=decided.ruling) if decided else filed, now))
    elif decided is None:
        say("It has lapsed: nobody decided in time. Nothing was done.")
    else:
        say(_said(decided))
    return 0 if decided and decided.ours else _FAILED


def _said(decided: Decided) -> str:
    ruling = decided.ruling
    if not decided.ours:
        return f"It was {ruling.word} before, by {ruling.by}. That stands."
    then = "it is carried out" if ruling.is_approval else "the agent is told"
    return f"{ruling.word.capitalize()}: {then} once the same is called again."


def _show(filed: Filed, now: float, *, as_json: bool) -> None:
    if as_json:
        show_json(_report(filed, now))
    else:
        say("\n".join(_lines(filed, now)))


def _lines(filed: Filed, now: float) -> Iterator[str]:
    case = filed.case
    yield f"{painted(case.identifier, 'bold')}  {_state(filed, now)}"
    yield f"  {case.binding.principal} asks, by {case.client or 'a client without a name'}"
    yield f"  {case.binding.tool}, {case.rule}, {max(0, round(now - case.asked_at))} s ago"
    yield from (f"  {line}" for line in case.preview.splitlines())


def _state(filed: Filed, now: float) -> str:
    if ruling := filed.ruling:
        return f"{ruling.word} by {ruling.by}{f': {ruling.reason}' if ruling.reason else ''}"
    if filed.has_lapsed(now):
        return "lapsed"
    return painted(f"waits, {round(filed.case.lapses_at - now)} s left", "yellow")


def _report(filed: Filed, now: float) -> dict[str, object]:
    case, ruling = filed.case, filed.ruling
    decided = (
        {
            "decision": ruling.word,
            "decided_by": ruling.by,
            "decided_at": moment(ruling.at),
            "reason": ruling.reason,
        }
        if ruling
        else {}
    )
    return {
        "id": case.identifier,
        "state": "decided" if ruling else "lapsed" if filed.has_lapsed(now) else "waiting",
        "tool": case.binding.tool,
        "action": case.action,
        "principal": case.binding.principal,
        "client": case.client,
        "rule": case.rule,
        "preview": case.preview,
        "asked_at": moment(case.asked_at),
        "lapses_at": moment(case.lapses_at),
        **{name: value for name, value in decided.items() if value},
    }

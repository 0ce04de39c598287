"""`calls-mcp policy`: explain the operator's policy."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from calls_mcp.cli.options import add_commands
from calls_mcp.cli.terminal import say
from calls_mcp.guard.policy.explanation import explain
from calls_mcp.guard.policy.rules import load_policy
from calls_mcp.settings import load_guard

_EPILOG = """\
example:
  calls-mcp policy check policy.toml
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    (check,) = add_commands(parser, ("check", "explain a policy, or list its errors", _EPILOG))
    check.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="policy file (default: what a server applies)",
    )
    check.set_defaults(run=_check)


def _check(options: Namespace) -> int:
    if options.file:
        policy = load_policy(options.file)
    else:
        guard = load_guard()
        policy = load_policy(guard.policy).under(guard.confirm)
    say("\n".join(explain(policy)))
    return 0

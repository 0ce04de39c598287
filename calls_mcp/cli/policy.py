"""`calls-mcp policy`: explain the operator's rules."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from calls_mcp.cli.terminal import say
from calls_mcp.guard.policy import explain, load_policy
from calls_mcp.settings import load_settings


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="tell what a policy means, or what is wrong with it")
    check.add_argument("file", type=Path, nargs="?", help="by default the one in use")
    check.set_defaults(run=_check)


def _check(options: Namespace) -> int:
    policy = load_policy(options.file or load_settings().guard.policy)
    say("\n".join(explain(policy)))
    return 0

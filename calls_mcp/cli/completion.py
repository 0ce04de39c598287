"""`calls-mcp completion`: print a completion script for a shell."""

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import cast

import shtab

from calls_mcp.cli.main import complete_parser
from calls_mcp.cli.terminal import say
from calls_mcp.tools.catalog import load_operations

_EPILOG = """\
examples:
  bash:  calls-mcp completion bash > ~/.local/share/bash-completion/completions/calls-mcp
  zsh:   calls-mcp completion zsh > DIR/_calls-mcp, where DIR is a directory of your $fpath
  fish:  calls-mcp completion fish > ~/.config/fish/completions/calls-mcp.fish

Then start a new shell.
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="your shell")
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Print the script. Return the exit status."""
    parser = complete_parser()
    for action in _actions(parser):
        if action.metavar == "FILE":
            vars(action)["complete"] = shtab.FILE
        elif action.metavar == "TOOL":
            action.choices = [*load_operations()]
    say(shtab.complete(parser, options.shell))
    return 0


def _actions(parser: ArgumentParser) -> Iterator[Action]:
    """Yield the arguments of a parser and of its subparsers."""
    actions = parser._actions  # noqa: SLF001  # argparse has no public way
    for action in actions:
        yield action
        if isinstance(action.choices, dict):
            for choice in cast("Mapping[str, object]", action.choices).values():
                if isinstance(choice, ArgumentParser):
                    yield from _actions(choice)

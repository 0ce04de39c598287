"""The messages in the source of the product. … replaces variable parts."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mcp.server

from tests.docs.pages import ROOT

PACKAGE = ROOT / "calls_mcp"
AT_START = {"ConfigurationError", "StartError"}
REFUSALS = (*sorted((PACKAGE / "http").glob("*.py")),)
WORDING = {"RequestRejected": 1, "retry_later": 1}
"""The functions that refuse an HTTP request, and the position of the message in their arguments."""


@cache
def everything() -> tuple[str, ...]:
    """Return every string in the package and in the SDK's HTTP server."""
    files = (*PACKAGE.rglob("*.py"), *Path(mcp.server.__file__).parent.glob("*streamable_http*.py"))
    return tuple(text for file in files for node in _nodes(file) if (text := template(node)))


def errors_at_start() -> Iterator[str]:
    """Yield the message of every error that keeps a command from running."""
    for file in PACKAGE.rglob("*.py"):
        for node in _nodes(file):
            match node:
                case ast.Raise(exc=ast.Call(func=ast.Name(id=name), args=[said])) if (
                    name in AT_START and len(template(said).replace("…", "")) > len(": ")
                ):
                    yield template(said)
                case _:
                    pass


def refusals() -> Iterator[str]:
    """Yield the message of every response that refuses an HTTP request."""
    for file in REFUSALS:
        for node in _nodes(file):
            match node:
                case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments):
                    where = WORDING.get(name, len(arguments))
                    if where < len(arguments) and template(arguments[where]).strip("…: "):
                        yield template(arguments[where])
                case ast.Assign(targets=[ast.Name(id="reason")], value=said):
                    yield template(said)
                case _:
                    pass


def findings() -> Iterator[str]:
    """Yield the message of every note, problem and fatal finding of `calls-mcp doctor`."""
    for file in (PACKAGE / "cli" / "doctor_checks").glob("*.py"):
        for node in _nodes(file):
            match node:
                case (
                    ast.Call(
                        func=ast.Name(id="Finding"),
                        args=[_, ast.Constant(value="note" | "problem" | "fatal"), said, *_],
                    )
                    | ast.Assign(targets=[ast.Name(id="message")], value=said)
                ):
                    if template(said).strip("…: "):
                        yield template(said)
                case _:
                    pass


def template(node: ast.AST) -> str:
    """Return the text of a string literal or a sum of them, "" for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(template(value) or "…" for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{template(left) or '…'}{template(right) or '…'}"
        case ast.IfExp(body=body):
            return template(body)
        case _:
            return ""


@cache
def _nodes(file: Path) -> tuple[ast.AST, ...]:
    return (*ast.walk(ast.parse(file.read_text("utf-8"))),)

"""Run the code blocks of a page in order, in an empty directory.

- `sh`: commands that must all succeed; later blocks see their variables and files
- `sh serves`: a command that runs until the end of the page and must then exit with status 0
- `console`: commands after `$`, each followed by its output; … matches anything
- `python NAME`, `toml NAME`, `json NAME`, `xml NAME`: a file of that name, used by later commands
- `json` with `mcpServers` or `servers`: each server is started and must list the five tools

The shell is that of a new user: its PATH has no command of this project until the page installs it,
and a virtual environment only has what the page installs. The runner replaces ports by free ones,
`/path/to` by the directory, and `python3 -m venv` by `virtualenv.py`.
"""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from calls_mcp.emulator import DEFAULT_ACCOUNT
from tests.docs.pages import Block
from tests.docs.virtualenv import INSTEAD

TOOLS = {"create_call", "delete_call", "fetch_call", "list_calls", "update_call"}
PUBLIC_URL = "https://mcp.example.com/mcp"
KEYS = ("mcpServers", "servers", "context_servers")
PORTS = ("4010", "8080", "8090", "9464")
SERVING = re.compile(r"http://[0-9.]+:[0-9]+")
SHELL = "set -euo pipefail\n[ -f {state} ] && . {state}\n{text}\nexport -p > {state}\n"
MARK = "---and-then---"

MAKING = "python3 -m venv .venv"

ELSEWHERE = {
    f"{MAKING} && .venv/bin/pip install -q -e ": "`.ci/run` runs this line of the README",
    "claude mcp add ": "Claude Code needs an account",
    "docker compose ": "needs a Docker engine; tests/http/test_deploy.py checks the file",
    "kubectl ": "needs a cluster; tests/http/test_deploy.py checks the file",
    "pip install -q -e '.[dev]' && python -m release": "tests/release/test_install.py runs it",
    "uvx ": "tests/release/test_install.py runs this line of the page",
    "pipx ": "tests/release/test_install.py runs this line of the page",
    "npx @modelcontextprotocol/inspector": "tests/clients runs the Inspector",
}
"""The beginnings of commands that are not run here, and why."""


@dataclass
class PageRunner:
    """A reader who does what a page says, in `folder`."""

    folder: Path
    servers: list["subprocess.Popen[str]"] = field(default_factory=list["subprocess.Popen[str]"])
    ports: dict[str, str] = field(default_factory=lambda: {port: _free_port() for port in PORTS})

    def install(self) -> None:
        """Install as the quickstart does."""
        self.follow(Block("sh", "", f"{MAKING} && .venv/bin/pip install -q .", "quickstart.md"))

    def follow(self, block: Block) -> None:
        """Run a block.

        Raises:
            AssertionError: The result differs from the page, or the kind of block is unknown.
        """
        match block.language, block.name:
            case "sh", "":
                self._succeed(block)
            case "sh", "serves":
                self._serve(block)
            case "console", "":
                self._compare(block)
            case "json", _ if is_configuration(block.text):
                self._connect(json.loads(self._local(block.text)))
            case "python" | "toml" | "json" | "xml", name if name:
                file = self.folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(self._local(block.text), "utf-8")
            case _:
                raise AssertionError(f"{block.place}: unknown kind of block")

    def end(self) -> None:
        """Stop the servers, which must exit with status 0."""
        for server in self.servers:
            server.send_signal(signal.SIGINT)
        for server in self.servers:
            told = server.communicate(timeout=60)[0]
            assert server.returncode == 0, told
        self.servers.clear()

    def _succeed(self, block: Block) -> None:
        text = "\n".join(here(block.text))
        if text:
            run = self._run(self._script(text))
            assert run.returncode == 0, f"{block.place}\n{run.stdout}"

    def _serve(self, block: Block) -> None:
        process = subprocess.Popen(  # noqa: S603
            ["/bin/bash", "-c", self._script(f"exec {block.text}")],
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.servers.append(process)
        assert process.stdout
        told = ""
        for line in process.stdout:
            told += line
            if SERVING.search(line):
                return
        raise AssertionError(f"{block.place}\n{told}")

    def _compare(self, block: Block) -> None:
        """Check the output of each command. A command may only fail with an error message."""
        commands = re.findall(r"(?m)^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text)
        assert commands, f"{block.place}: no command"
        parts = (
            f"{command} && status=0 || status=$?\necho {MARK} $status" for command, _ in commands
        )
        printed = self._run(self._script("\n".join(parts))).stdout
        found = re.findall(rf"(?s)(.*?){MARK} ([0-9]+)\n", printed)
        assert len(found) == len(commands), f"{block.place}\n{printed}"
        for (command, expected), (got, status) in zip(commands, found, strict=True):
            shown = self._local(expected).rstrip("\n")
            pattern = re.escape(shown).replace("…", ".*")
            assert re.fullmatch(f"(?s){pattern}\n*", self._local(got)), (
                f"{block.place}: {command}\n{got}"
            )
            may_fail = shown.splitlines()[-1:] and shown.splitlines()[-1].startswith("calls-mcp: ")
            assert status == "0" or may_fail, f"{block.place}: {command}: {status}"

    def _connect(self, configuration: dict[str, Any]) -> None:
        """Start each server, or connect to it over HTTP, as its client would."""
        if PUBLIC_URL not in json.dumps(configuration):
            _start_each(configuration, self._environment())
            return
        token = self._run(self._script('printf %s "$TOKEN"')).stdout
        inputs = {each["id"] for each in configuration.get("inputs", ())}
        for server in _servers(configuration).values():
            header = _header(server)
            reference = re.fullmatch(
                r"Bearer (\$\{(?:env:)?TOKEN\}|\$\{input:(.+)\}|put your TOKEN here)", header
            )
            assert reference, header
            assert reference[2] is None or reference[2] in inputs
            url = f"http://127.0.0.1:{self.ports['8080']}/mcp"
            tools = anyio.run(_tools_at, url, f"Bearer {token}")
            assert tools
            assert tools < TOOLS  # those that the token allows

    def _script(self, text: str) -> str:
        return SHELL.format(state=self.folder.parent / "variables", text=self._local(text))

    def _run(self, script: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(  # noqa: S603
            ["/bin/bash", "-c", script],
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            timeout=100,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        folders = os.environ["PATH"].split(os.pathsep)
        others = [each for each in folders if not (Path(each) / "calls-mcp").exists()]
        return {
            "PATH": os.pathsep.join(others),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "COLUMNS": "100",
            "PYTHONUNBUFFERED": "1",  # keeps both streams in order
        }

    def _local(self, text: str) -> str:
        text = text.replace("/path/to/", f"{self.folder}/").replace("python3 -m venv", INSTEAD)
        for port, own in self.ports.items():
            text = re.sub(rf"\b{port}\b", own, text)
        return text


def here(text: str) -> Iterator[str]:
    """Yield the commands in a text that are not in ELSEWHERE."""
    for line in re.split(r"(?<!\\)\n", text.strip()):
        if not line.startswith(tuple(ELSEWHERE)):
            yield line


def is_configuration(text: str) -> bool:
    """Whether it is a client's configuration of servers."""
    return not {*KEYS}.isdisjoint(json.loads(text))


def _servers(configuration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return next(configuration[key] for key in KEYS if key in configuration)


def _header(server: dict[str, Any]) -> str:
    """Return the Authorization header of a server's entry; that of mcp-remote is in a variable."""
    url = server.get("url") or server.get("serverUrl")
    if url:
        assert url == PUBLIC_URL
        return str(server["headers"]["Authorization"])
    assert server["args"] == [
        *("-y", "mcp-remote", PUBLIC_URL, "--header", "Authorization:${AUTHORIZATION}")
    ]
    return str(server["env"]["AUTHORIZATION"])


async def _tools_at(url: str, authorization: str) -> set[str]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": authorization}) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        return {tool.name for tool in (await client.list_tools()).tools}


def _start_each(configuration: dict[str, Any], environment: dict[str, str]) -> None:
    inputs = {each["id"] for each in configuration.get("inputs", ())}
    for server in _servers(configuration).values():
        assert Path(server["command"]).name == "calls-mcp"
        variables = cast("dict[str, str]", server.get("env", {}))
        given = {name: _value(name, value, inputs) for name, value in variables.items()}
        parameters = StdioServerParameters(
            command=server["command"], args=server.get("args", []), env=environment | given
        )
        assert anyio.run(_tools, parameters) == TOOLS


def _value(variable: str, value: str, inputs: set[str]) -> str:
    """Return a value for a variable that the client asks its user for."""
    asked = re.fullmatch(r"\$\{input:(.+)\}", value)
    if asked is None:
        return value
    assert asked[1] in inputs
    return {"TWILIO_ACCOUNT_SID": DEFAULT_ACCOUNT.sid, "TWILIO_API_KEY": f"SK{0:032}"}.get(
        variable, "a secret"
    )


async def _tools(parameters: StdioServerParameters) -> set[str]:
    async with Client(parameters) as client:
        return {tool.name for tool in (await client.list_tools()).tools}


def _free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])

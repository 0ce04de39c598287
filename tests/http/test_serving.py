"""`calls-mcp serve --transport http`: the command and its process."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

import pytest

from calls_mcp.cli.main import main
from tests.http.replica import replica
from tests.process import environment, modules_loaded_by

pytestmark = pytest.mark.anyio

NOWHERE = environment("http://127.0.0.1:9")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every process use an API that does not exist."""
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)


@pytest.mark.process
async def test_start_and_shutdown_are_logged_with_one_line_each() -> None:
    async with replica({}, "--sandbox", "--path", "/calls") as server:
        assert server.url.endswith("/calls")
        async with server.connect() as agent:
            outcome = await agent.call("list_calls", limit=1)
        assert outcome["sandbox"] is True
        server.terminate()
        assert await server.process.wait() == 0
    lines = "".join(server.stderr).splitlines()
    assert lines == [f"calls-mcp: serving at {server.url}", "calls-mcp: shutting down within 25 s"]


@pytest.mark.process
async def test_sigint_shuts_the_server_down() -> None:
    async with replica({}) as server:
        server.process.send_signal(signal.SIGINT)
        assert await server.process.wait() == 0


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.process
@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
async def test_an_ipv6_server_accepts_its_own_host() -> None:
    async with replica({}, "--host", "::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert (await server.ask("tools/list")).status_code == 200


@pytest.mark.parametrize(
    ("options", "variables", "complaint"),
    [
        (["--port", "1", "--path", "/"], {}, "--port, --path: only with --transport http"),
        (["--transport", "http", "--port", "70000"], {}, "A port must be 0 to 65535"),
        (["--transport", "http", "--path", "mcp"], {}, "--path must begin with /"),
        (["--transport", "http", "--path", ""], {}, "--path must begin with /"),
        (["--transport", "http", "--path", "/readyz"], {}, "--path"),
        (["--transport", "http", "--host", "no.such.host.invalid"], {}, "CALLS_MCP_AUTH"),
        (["--transport", "http"], {"CALLS_MCP_ALLOWED_HOSTS": "a/b"}, "CALLS_MCP_ALLOWED_HOSTS"),
        (["--transport", "http"], {"CALLS_MCP_HTTP_RATE": "0"}, "CALLS_MCP_HTTP_RATE"),
    ],
)
def test_a_wrong_serve_option_is_reported_in_one_line(
    options: list[str],
    variables: Mapping[str, str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["serve", *options]) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_a_port_in_use_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--transport", "http", "--port", port]) == 2
    assert capsys.readouterr().err == (
        f"calls-mcp: Cannot listen on 127.0.0.1:{port}: Address already in use. "
        "Use another --host or --port.\n"
    )


@pytest.mark.process
def test_json_logs_have_only_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLS_MCP_LOG_FORMAT", "json")
    command = [sys.executable, "-m", "calls_mcp", "serve", "--transport", "http", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as process:  # noqa: S603
        assert process.stderr
        first = json.loads(process.stderr.readline())
        process.terminate()
        (last,) = map(json.loads, process.stderr)
    assert first["message"].startswith("serving at http://127.0.0.1:")
    assert (process.returncode, last["message"]) == (0, "shutting down within 25 s")


@pytest.mark.process
def test_a_stdio_server_does_not_load_http() -> None:
    loaded = modules_loaded_by()
    assert "calls_mcp.server.stdio" in loaded
    assert loaded.isdisjoint({"calls_mcp.http", "h11", "jwt", "redis", "httpx"})

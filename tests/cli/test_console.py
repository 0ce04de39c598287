"""`calls-mcp console` from the shell."""

import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from calls_mcp.cli.main import main

CONSOLE = (sys.executable, "-m", "calls_mcp", "console", "--port", "0")


@pytest.mark.process
def test_the_printed_link_signs_in_one_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS_MCP_STATE_URL", f"sqlite:///{tmp_path}/state.db")
    with subprocess.Popen(CONSOLE, stdout=subprocess.PIPE, encoding="utf-8") as console:  # noqa: S603
        assert console.stdout
        try:
            lines = (console.stdout.readline() for _ in range(3))
            link = re.search(r"(http://127\.0\.0\.1:[0-9]+)/sign-in\?link=(\S+)", "".join(lines))
            assert link
            url, secret = link.groups()
            with httpx.Client(trust_env=False, follow_redirects=True) as browser:
                data, headers = {"link": secret}, {"Origin": url}
                inside = browser.post(f"{url}/sign-in", data=data, headers=headers)
                assert "Signed in as" in inside.text
                assert "No pending approval requests." in browser.get(f"{url}/approvals").text
                again = browser.post(f"{url}/sign-in", data=data, headers=headers)
                assert again.status_code == 401
            watched = f"It shows the approval requests in {tmp_path}/state.db\n"
            assert [console.stdout.readline() for _ in range(2)] == ["\n", watched]
            console.send_signal(signal.SIGTERM)
            assert console.wait(60) == 0
        finally:
            console.kill()


def test_an_address_that_other_machines_reach_needs_a_proxy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["console", "--host", "0.0.0.0", "--port", "0"]) == 2  # noqa: S104
    assert "CALLS_MCP_CONSOLE_URL" in capsys.readouterr().err


def test_an_address_that_is_not_available_is_named_and_not_the_proxy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        command = ["console", "--port", str(port), "--url", "https://console.example.com"]
        assert main(command) == 2
    reason = f"Cannot listen on http://127.0.0.1:{port}: Address already in use."
    assert capsys.readouterr().err == f"calls-mcp: {reason}\n"


@pytest.mark.parametrize(
    "command", ["console --port 0", "serve --sandbox --transport http --port 0 --console 0"]
)
def test_missing_libraries_are_named(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("calls_mcp.console")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(command.split()) == 2
    assert "pip install '.[console]'" in capsys.readouterr().err

"""`calls-mcp tools`: the tools as a model sees them, and their cost in tokens."""

import json
from importlib.util import find_spec

import pytest

from calls_mcp.cli.main import main
from tests.benchmarks.tokens import count
from tests.generate import definitions


def test_json_has_the_definitions_as_a_client_gets_them_and_their_cost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["tools", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    published = definitions()
    assert [tool["name"] for tool in report["tools"]] == [*published]
    for tool in report["tools"]:
        seen = published[tool["name"]]
        assert tool["description"] == seen["description"]
        assert tool["inputSchema"] == seen["inputSchema"]
    assert report["tokens"] == sum(tool["tokens"] for tool in report["tools"])


@pytest.mark.skipif(find_spec("rs_bpe") is None, reason="no rs-bpe: pip install rs-bpe")
def test_the_cost_is_estimated_within_ten_percent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tools", "--json"]) == 0
    for tool in json.loads(capsys.readouterr().out)["tools"]:
        estimate = tool.pop("tokens")
        counted = count(json.dumps(tool, ensure_ascii=False, separators=(",", ":")))
        assert abs(estimate - counted) < counted * 0.1


def test_one_tool_is_described_with_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tools", "fetch_call"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("fetch_call  ")
    assert "sid           string · required · SID of the call" in out
    assert "update_call" not in out
    assert "\x1b" not in out


def test_a_read_only_server_offers_two_tools(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLS_MCP_READ_ONLY", "1")
    assert main(["tools", "--json"]) == 0
    names = [tool["name"] for tool in json.loads(capsys.readouterr().out)["tools"]]
    assert names == ["fetch_call", "list_calls"]
    assert main(["tools", "create_call"]) == 2
    assert "create_call" in capsys.readouterr().err


def test_all_tools_are_listed_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tools"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["TOOL", "TOKENS", "DESCRIPTION"]
    assert [row.split()[0] for row in rows[: len(definitions())]] == [*definitions()]

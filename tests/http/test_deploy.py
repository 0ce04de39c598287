"""The files under config/deploy/ hold together, and fit the program that they start."""

import json
import re
import shlex
from typing import Any, cast

import pytest
import yaml

from calls_mcp.cli import main
from calls_mcp.settings import Settings
from tests.http.balancer import DEPLOY, HAPROXY, NGINX

ROOT = DEPLOY.parents[1]
FILES = sorted(file for file in DEPLOY.iterdir() if file.is_file())
PROBES = {"/healthz", "/readyz"}


def test_every_file_names_only_settings_that_there_are() -> None:
    known = Settings.variables().keys()
    named = {
        name
        for file in FILES
        for name in re.findall(r"\b(?:CALLS_MCP|TWILIO)_[A-Z_]+", file.read_text("utf-8"))
    }
    assert "CALLS_MCP_STATE_URL" in named
    assert named <= known


@pytest.mark.parametrize("number", range(3))
def test_every_command_is_one_that_the_program_takes(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS_MCP_LOG_LEVEL", "WARNING")
    command = [_image()["ENTRYPOINT"][1:] + _image()["CMD"], _unit_command()[1:], _pod()["args"]]
    assert main(command[number]) == 2
    assert "TWILIO_ACCOUNT_SID" in capsys.readouterr().err  # all that is wrong with it


def test_the_image_runs_as_nobody_and_tells_its_health() -> None:
    image = _image()
    assert image["USER"] == "10001:10001"
    assert "/healthz" in image["HEALTHCHECK"]
    assert image["ENTRYPOINT"] == ["calls-mcp"]
    assert f"EXPOSE {image['CMD'][-1]}\n" in _text("Dockerfile")


def test_the_image_is_built_of_files_that_there_are() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", _text("Dockerfile"), re.MULTILINE)
    assert copied
    for line in copied:
        for name in line.split():
            assert (ROOT / name).exists(), name


def test_nginx_is_the_one_that_was_tested_and_knows_the_replicas() -> None:
    services = _compose()["services"]
    mounted, _, _ = services["nginx"]["volumes"][0].partition(":")
    assert (DEPLOY / mounted).resolve() == NGINX
    for file in (NGINX, HAPROXY):
        replicas = re.findall(r"(calls-mcp-[0-9]):([0-9]+)", file.read_text("utf-8"))
        assert [name for name, _ in replicas] == [n for n in services if n.startswith("calls-mcp")]
        assert {port for _, port in replicas} == {_image()["CMD"][-1]}


def test_nginx_never_repeats_what_it_has_sent_unless_it_is_told_that_nothing_was_done() -> None:
    rules = re.findall(r"^\s*proxy_next_upstream (.+);", _text("nginx.conf"), re.MULTILINE)
    assert rules == ["error timeout http_503", "http_503 non_idempotent"]


def test_what_is_secret_or_recorded_beside_the_files_goes_into_no_commit_image_or_package() -> None:
    folders = {volume.partition(":")[0] for volume in _replica()["volumes"]}
    assert folders == {"./secrets", "./audit"}
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert {f"/config/deploy/{folder[2:]}/" for folder in folders} <= {*ignored}
    image = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert image[1] == "*"
    assert "config/deploy/*" in image


def test_compose_has_replicas_that_share_a_store_and_write_nothing() -> None:
    for name in ("calls-mcp-1", "calls-mcp-2"):
        replica = _compose()["services"][name]
        assert replica["read_only"] is True
        assert replica["cap_drop"] == ["ALL"]
        environment = replica["environment"]
        assert environment["CALLS_MCP_STATE_URL"] == "redis://redis:6379/0"
        assert environment["CALLS_MCP_HTTP_STATELESS"] == "1"
        assert _seconds(replica["stop_grace_period"]) > int(environment["CALLS_MCP_HTTP_GRACE"])


def test_the_unit_gives_time_to_drain_and_little_else() -> None:
    unit = _unit()
    (grace,) = re.findall(r"CALLS_MCP_HTTP_GRACE=([0-9]+)", _text("calls-mcp.service"))
    assert int(unit["TimeoutStopSec"]) > int(grace)
    for name in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "PrivateDevices"):
        assert unit[name] == "yes"
    assert unit["ProtectSystem"] == "strict"
    assert unit["User"] == "calls-mcp"


def test_a_pod_has_time_to_drain_and_may_do_little() -> None:
    pod, spec = _pod(), _deployment()["spec"]["template"]["spec"]
    grace = {each["name"]: each["value"] for each in pod["env"]}["CALLS_MCP_HTTP_GRACE"]
    pause = pod["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= int(grace) + pause + 5
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["allowPrivilegeEscalation"] is False
    probes = [
        pod[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")
    ]
    assert {*probes} == PROBES
    assert probes[1] == "/healthz"  # or reads would end with Redis


def test_no_file_has_a_secret() -> None:
    for file in FILES:
        text = re.sub(r"sha256:[0-9a-f]{64}", "", file.read_text("utf-8"))
        assert not re.search(r"\b(?:AC|SK)[0-9a-f]{32}\b|[0-9a-f]{32}", text), file.name


def _text(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


def _image() -> dict[str, Any]:
    """The instructions of the Dockerfile's last stage; those in JSON decoded."""
    stage = _text("Dockerfile").replace("\\\n", "").rpartition("\nFROM ")[2]
    lines = (line.partition(" ") for line in stage.splitlines()[1:] if not line.startswith("#"))
    return {name: json.loads(rest) if rest.startswith("[") else rest for name, _, rest in lines}


def _compose() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load(_text("compose.yaml")))


def _replica() -> dict[str, Any]:
    return cast("dict[str, Any]", _compose()["services"]["calls-mcp-1"])


def _deployment() -> dict[str, Any]:
    documents = cast("list[dict[str, Any]]", [*yaml.safe_load_all(_text("kubernetes.yaml"))])
    assert [document["kind"] for document in documents] == [
        "StatefulSet",
        "Service",
        "PodDisruptionBudget",
    ]
    return documents[0]


def _pod() -> dict[str, Any]:
    (container,) = _deployment()["spec"]["template"]["spec"]["containers"]
    return cast("dict[str, Any]", container)


def _unit() -> dict[str, str]:
    """The unit's directives; of those that are repeated, the last."""
    lines = (line.partition("=") for line in _text("calls-mcp.service").splitlines())
    return {name: value for name, equals, value in lines if equals and not name.startswith("#")}


def _unit_command() -> list[str]:
    return shlex.split(_unit()["ExecStart"])


def _seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))

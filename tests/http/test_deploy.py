"""The files under config/deploy/ are consistent with each other and the program."""

import json
import re
import shlex
from typing import Any

import pytest
import yaml

from calls_mcp.cli.main import main
from calls_mcp.settings import Settings
from tests.http.load_balancer import DEPLOY, HAPROXY, NGINX

ROOT = DEPLOY.parents[1]
FILES = sorted(file for file in DEPLOY.iterdir() if file.is_file())
TEXTS = {file.name: file.read_text("utf-8") for file in FILES}
KINDS = ("startup", "readiness", "liveness")
PROBES = {"/healthz", "/readyz"}
SERVICES: dict[str, Any] = yaml.safe_load(TEXTS["compose.yaml"])["services"]
REPLICAS = {name: SERVICES[name] for name in SERVICES if name.startswith("calls-mcp")}
DEPLOYED: list[dict[str, Any]] = [*yaml.safe_load_all(TEXTS["kubernetes.yaml"])]
SPEC: dict[str, Any] = DEPLOYED[0]["spec"]["template"]["spec"]
POD: dict[str, Any] = SPEC["containers"][0]
UNIT = dict(re.findall("^([A-Za-z]+)=(.*)$", TEXTS["calls-mcp.service"], re.MULTILINE))
"""The unit's directives; the last of repeated ones."""


def _image() -> dict[str, Any]:
    """Return the instructions of the Dockerfile's last stage, with JSON decoded."""
    stage = TEXTS["Dockerfile"].replace("\\\n", "").rpartition("\nFROM ")[2]
    lines = (line.partition(" ") for line in stage.splitlines()[1:] if not line.startswith("#"))
    return {name: json.loads(rest) if rest.startswith("[") else rest for name, _, rest in lines}


IMAGE = _image()
COMMANDS = [IMAGE["ENTRYPOINT"][1:] + IMAGE["CMD"], shlex.split(UNIT["ExecStart"])[1:], POD["args"]]


def test_deployment_files_name_only_existing_settings() -> None:
    known = Settings.variables().keys()
    named = {*re.findall(r"\b(?:CALLS_MCP|TWILIO)_[A-Z_]+", " ".join(TEXTS.values()))}
    assert "CALLS_MCP_STATE_URL" in named
    assert named <= known


@pytest.mark.parametrize("command", COMMANDS, ids=["image", "unit", "pod"])
def test_deployment_commands_are_valid(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS_MCP_LOG_LEVEL", "WARNING")
    assert main(command) == 2
    assert "TWILIO_ACCOUNT_SID" in capsys.readouterr().err  # the only fault


def test_the_image_runs_without_root_and_has_a_health_check() -> None:
    assert IMAGE["USER"] == "10001:10001"
    assert "/healthz" in IMAGE["HEALTHCHECK"]
    assert IMAGE["ENTRYPOINT"] == ["calls-mcp"]
    assert f"EXPOSE {IMAGE['CMD'][-1]}\n" in TEXTS["Dockerfile"]


def test_the_image_copies_only_existing_files() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", TEXTS["Dockerfile"], re.MULTILINE)
    assert copied
    for line in copied:
        for name in line.split():
            assert (ROOT / name).exists(), name


def test_compose_mounts_the_tested_nginx_configuration_with_all_replicas() -> None:
    mounted, _, _ = SERVICES["nginx"]["volumes"][0].partition(":")
    assert (DEPLOY / mounted).resolve() == NGINX
    for file in (NGINX, HAPROXY):
        replicas = re.findall(r"(calls-mcp-[0-9]):([0-9]+)", file.read_text("utf-8"))
        assert [name for name, _ in replicas] == [*REPLICAS]
        assert {port for _, port in replicas} == {IMAGE["CMD"][-1]}


def test_nginx_retries_a_sent_request_only_after_a_503() -> None:
    rules = re.findall(r"^\s*proxy_next_upstream (.+);", TEXTS["nginx.conf"], re.MULTILINE)
    assert rules == ["error timeout http_503", "http_503 non_idempotent"]


def test_secrets_and_audit_logs_are_ignored_by_git_and_docker() -> None:
    folders = {volume.partition(":")[0] for volume in REPLICAS["calls-mcp-1"]["volumes"]}
    assert folders == {"./secrets", "./audit"}
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert {f"/config/deploy/{folder[2:]}/" for folder in folders} <= {*ignored}
    image = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert image[1] == "*"
    assert "config/deploy/*" in image


def test_compose_replicas_share_redis_and_are_read_only() -> None:
    for replica in REPLICAS.values():
        assert replica["read_only"] is True
        assert replica["cap_drop"] == ["ALL"]
        environment = replica["environment"]
        assert environment["CALLS_MCP_STATE_URL"] == "redis://redis:6379/0"
        assert environment["CALLS_MCP_HTTP_STATELESS"] == "1"
        assert int(replica["stop_grace_period"].removesuffix("s")) > int(
            environment["CALLS_MCP_HTTP_GRACE"]
        )


def test_the_systemd_unit_has_time_to_drain_and_few_rights() -> None:
    (grace,) = re.findall(r"CALLS_MCP_HTTP_GRACE=([0-9]+)", TEXTS["calls-mcp.service"])
    assert int(UNIT["TimeoutStopSec"]) > int(grace)
    limits = ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "PrivateDevices")
    bound = dict.fromkeys(limits, "yes") | {"ProtectSystem": "strict", "User": "calls-mcp"}
    assert bound.items() <= UNIT.items()


def test_the_pod_has_time_to_drain_and_few_rights() -> None:
    kinds = [document["kind"] for document in DEPLOYED]
    assert kinds == ["StatefulSet", "Service", "PodDisruptionBudget"]
    grace = {each["name"]: each["value"] for each in POD["env"]}["CALLS_MCP_HTTP_GRACE"]
    pause = POD["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert SPEC["terminationGracePeriodSeconds"] >= int(grace) + pause + 5
    assert SPEC["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["readOnlyRootFilesystem"] is True
    assert POD["securityContext"]["allowPrivilegeEscalation"] is False
    probes = {name: POD[f"{name}Probe"]["httpGet"]["path"] for name in KINDS}
    assert {*probes.values()} == PROBES
    assert probes["readiness"] == "/healthz"  # so that reads work without Redis


def test_deployment_files_have_no_secrets() -> None:
    for name, text in TEXTS.items():
        rest = re.sub(r"sha256:[0-9a-f]{64}", "", text)
        assert not re.search(r"\b(?:AC|SK)[0-9a-f]{32}\b|[0-9a-f]{32}", rest), name

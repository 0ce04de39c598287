"""The files under config/deploy/ hold together, and fit the program that they start."""

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
"""The unit's directives; of those that are repeated, the last."""


def _image() -> dict[str, Any]:
    """The instructions of the Dockerfile's last stage; those in JSON decoded."""
    stage = TEXTS["Dockerfile"].replace("\\\n", "").rpartition("\nFROM ")[2]
    lines = (line.partition(" ") for line in stage.splitlines()[1:] if not line.startswith("#"))
    return {name: json.loads(rest) if rest.startswith("[") else rest for name, _, rest in lines}


IMAGE = _image()
COMMANDS = [IMAGE["ENTRYPOINT"][1:] + IMAGE["CMD"], shlex.split(UNIT["ExecStart"])[1:], POD["args"]]


def test_every_file_names_only_settings_that_there_are() -> None:
    known = Settings.variables().keys()
    named = {*re.findall(r"\b(?:CALLS_MCP|TWILIO)_[A-Z_]+", " ".join(TEXTS.values()))}
    assert "CALLS_MCP_STATE_URL" in named
    assert named <= known


@pytest.mark.parametrize("command", COMMANDS, ids=["image", "unit", "pod"])
def test_every_command_is_one_that_the_program_takes(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS_MCP_LOG_LEVEL", "WARNING")
    assert main(command) == 2
    assert "TWILIO_ACCOUNT_SID" in capsys.readouterr().err  # all that is wrong with it


def test_the_image_runs_as_nobody_and_tells_its_health() -> None:
    assert IMAGE["USER"] == "10001:10001"
    assert "/healthz" in IMAGE["HEALTHCHECK"]
    assert IMAGE["ENTRYPOINT"] == ["calls-mcp"]
    assert f"EXPOSE {IMAGE['CMD'][-1]}\n" in TEXTS["Dockerfile"]


def test_the_image_is_built_of_files_that_there_are() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", TEXTS["Dockerfile"], re.MULTILINE)
    assert copied
    for line in copied:
        for name in line.split():
            assert (ROOT / name).exists(), name


def test_nginx_is_the_one_that_was_tested_and_knows_the_replicas() -> None:
    mounted, _, _ = SERVICES["nginx"]["volumes"][0].partition(":")
    assert (DEPLOY / mounted).resolve() == NGINX
    for file in (NGINX, HAPROXY):
        replicas = re.findall(r"(calls-mcp-[0-9]):([0-9]+)", file.read_text("utf-8"))
        assert [name for name, _ in replicas] == [*REPLICAS]
        assert {port for _, port in replicas} == {IMAGE["CMD"][-1]}


def test_nginx_never_repeats_what_it_has_sent_unless_it_is_told_that_nothing_was_done() -> None:
    rules = re.findall(r"^\s*proxy_next_upstream (.+);", TEXTS["nginx.conf"], re.MULTILINE)
    assert rules == ["error timeout http_503", "http_503 non_idempotent"]


def test_what_is_secret_or_recorded_beside_the_files_goes_into_no_commit_image_or_package() -> None:
    folders = {volume.partition(":")[0] for volume in REPLICAS["calls-mcp-1"]["volumes"]}
    assert folders == {"./secrets", "./audit"}
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert {f"/config/deploy/{folder[2:]}/" for folder in folders} <= {*ignored}
    image = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert image[1] == "*"
    assert "config/deploy/*" in image


def test_compose_has_replicas_that_share_a_store_and_write_nothing() -> None:
    for replica in REPLICAS.values():
        assert replica["read_only"] is True
        assert replica["cap_drop"] == ["ALL"]
        environment = replica["environment"]
        assert environment["CALLS_MCP_STATE_URL"] == "redis://redis:6379/0"
        assert environment["CALLS_MCP_HTTP_STATELESS"] == "1"
        assert int(replica["stop_grace_period"].removesuffix("s")) > int(
            environment["CALLS_MCP_HTTP_GRACE"]
        )


def test_the_unit_gives_time_to_drain_and_little_else() -> None:
    (grace,) = re.findall(r"CALLS_MCP_HTTP_GRACE=([0-9]+)", TEXTS["calls-mcp.service"])
    assert int(UNIT["TimeoutStopSec"]) > int(grace)
    limits = ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "PrivateDevices")
    bound = dict.fromkeys(limits, "yes") | {"ProtectSystem": "strict", "User": "calls-mcp"}
    assert bound.items() <= UNIT.items()


def test_a_pod_has_time_to_drain_and_may_do_little() -> None:
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
    assert probes["readiness"] == "/healthz"  # or reads would end with Redis


def test_no_file_has_a_secret() -> None:
    for name, text in TEXTS.items():
        told = re.sub(r"sha256:[0-9a-f]{64}", "", text)
        assert not re.search(r"\b(?:AC|SK)[0-9a-f]{32}\b|[0-9a-f]{32}", told), name

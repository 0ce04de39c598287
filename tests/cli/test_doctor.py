"""`calls-mcp doctor` finds problems, suggests fixes and changes nothing."""

import asyncio
import json
import os
import re
import sqlite3
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.cli.doctor_checks.variables import mask_url
from calls_mcp.emulator.testing import RunningEmulator
from calls_mcp.observability.redaction import MASK
from tests.cli.test_main import run
from tests.guard.test_policy import policy
from tests.harness import ACCOUNT
from tests.http.service import entry, write
from tests.storage.redis_server import RedisServer
from tests.twilio.test_transport import certify
from tests.upstream import SECRET, Step, Upstream, answer, drop, page, redirect, refusing

OWN = {"TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_AUTH_TOKEN": SECRET}
REMEDY = re.compile(
    r"(export|unset) [A-Z]+_[A-Z_]+|calls-mcp [a-z]|CALLS_MCP_PRINCIPALS|pip install '\.\["
    r"|timedatectl|redis-cli [A-Z]+"
)
"""A command or a variable."""


def examined(*arguments: str, **variables: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit status, and the worst finding of each check."""
    ended = run("doctor", "--json", *arguments, **variables)
    report = json.loads(ended.stdout)
    assert report["status"] == ended.returncode
    ranks = ["ok", "note", "problem", "fatal"]
    findings = sorted(report["findings"], key=lambda found: ranks.index(found["level"]))
    assert all(REMEDY.search(f["remedy"]) for f in findings if f["level"] != "ok")
    assert not any(MASK in f["remedy"] for f in findings)
    return ended.returncode, {found["check"]: found for found in findings}


@contextmanager
def api(*steps: Step) -> Generator[Upstream]:
    """Run a scripted API."""
    with start_blocking_portal() as portal:
        upstream = Upstream(*steps)
        with portal.wrap_async_context_manager(upstream):
            yield upstream


def at(base_url: str) -> dict[str, str]:
    """Return the variables for the API at this URL, with its own secret."""
    return OWN | {"CALLS_MCP_API_BASE_URL": base_url}


@contextmanager
def tls(folder: Path) -> Generator[str]:
    """Yield the URL of a server with a self-signed certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certify(folder))

    @asynccontextmanager
    async def serve() -> AsyncGenerator[str]:
        async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(close, "127.0.0.1", 0, ssl=context) as server:
            yield f"https://localhost:{server.sockets[0].getsockname()[1]}"

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serve()) as url:
        yield url


def printed(*arguments: str, **variables: str) -> tuple[int, str]:
    """Return the exit status and everything that was printed; JSON without its escapes."""
    ended = run("doctor", *arguments, **variables)
    text = ended.stdout
    if "--json" in arguments:
        text = json.dumps(json.loads(text), ensure_ascii=False).replace('\\"', '"')
    return ended.returncode, ended.stderr + text


SIGNS = st.sampled_from("@:/?#[]%\\\"'+&=é0aZ .,;{}")
SECRETS = st.text(SIGNS | st.characters(codec="utf-8", exclude_characters="\0")).map(
    "Zq{}Zq".format
)
REDIS = ("redis://:{}@127.0.0.1:1/0", "rediss://{}:x@127.0.0.1:1", "redis://u:{}@[", "x://{}@h")
PROXIES = (
    *("u:{}@127.0.0.1:1", "{}@127.0.0.1:1", "http://u:{}@127.0.0.1:1", "HTTP://{}:x@127.0.0.1:1"),
    *("http://[{}@127.0.0.1:1", "http://u:{}@[bad:80", "socks5://u:{}@127.0.0.1:1", "://{}@"),
)


@given(SECRETS, st.sampled_from((*REDIS, *PROXIES)))
def test_the_password_in_a_url_is_masked_even_if_the_url_is_malformed(
    secret: str, url: str
) -> None:
    shown = mask_url(url.format(secret))
    assert "Zq" not in shown
    assert MASK in shown


@pytest.mark.parametrize("number", range(len(PROXIES)))
def test_the_command_masks_the_password_in_malformed_urls(number: int) -> None:
    secret = "Zq@:/?#[]% \\\"'+&=é0.1:80Zq"
    state, proxy = REDIS[number % len(REDIS)].format(secret), PROXIES[number].format(secret)
    variables = OWN | {"CALLS_MCP_STATE_URL": state, "NO_PROXY": f"u:{secret}@h"}
    for name in ("HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        variables[name] = proxy
    status, text = printed(*["--json"][: number % 2], **variables)
    assert status in (1, 2)
    assert "Zq" not in text
    assert MASK in text


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HTTPS_PROXY", "bob:s3cretpw@127.0.0.1:1", "********@127.0.0.1:1"),
        ("HTTPS_PROXY", "http://bob:s3cr#etpw@127.0.0.1:1", "http://********@127.0.0.1:1"),
        ("HTTPS_PROXY", "http://bob:s3cretpw@[bad:80", "http://********@********"),
        ("HTTPS_PROXY", "http://bob:s3cretpw", "http://********"),
        ("HTTPS_PROXY", "http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("HTTPS_PROXY", "127.0.0.1:1", "127.0.0.1:1"),
        ("CALLS_MCP_STATE_URL", "redis://:p/s3cretpw@127.0.0.1:1/0", "redis://********@127.0.0.1"),
        ("CALLS_MCP_STATE_URL", "redis://[:s3cretpw@127.0.0.1:1/0", "redis://********@127.0.0.1"),
        ("CALLS_MCP_STATE_URL", "redis://127.0.0.1:1/0?password=s3cretpw", "redis://127.0.0.1:1/0"),
        ("CALLS_MCP_STATE_URL", "s3cretpw", "********"),
        (
            "CALLS_MCP_STATE_URL",
            "sqlite:////srv/me@work/calls.db",
            "sqlite:////srv/me@work/calls.db",
        ),
        ("CALLS_MCP_STATE_URL", "sqlite://calls.db", "sqlite://calls.db"),
        ("SSL_CERT_FILE", "https://bob:s3cretpw@127.0.0.1", "https://********@127.0.0.1"),
    ],
)
def test_the_public_parts_of_a_url_are_shown(name: str, value: str, shown: str) -> None:
    _, text = printed(**OWN | {"TWILIO_AUTH_TOKEN": "s3cretpw@127.0.0.1:1", name: value})
    assert f"{name} = {shown}" in text
    assert "TWILIO_AUTH_TOKEN = ********\n" in text
    assert "s3cr" not in text


def dated(seconds: float | None) -> dict[str, str]:
    if seconds is None:
        return {"Date": "today"}
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return {"Date": format_datetime(moment, usegmt=True)}


def test_the_remedy_for_a_missing_setting_is_to_export_it() -> None:
    status, found = examined(**OWN, CALLS_MCP_AUTH="tokens")
    assert status == 2
    assert found["settings"]["remedy"] == "export CALLS_MCP_PRINCIPALS=…"


def test_a_valid_setup_has_no_problems_and_costs_one_read(account: RunningEmulator) -> None:
    status, found = examined()
    assert status == 0
    assert {found[check]["level"] for check in ("settings", "policy", "api", "credentials")} == {
        "ok"
    }
    assert found["clock"]["level"] == "ok"
    (entry,) = account.requests
    assert (entry.method, entry.query) == ("GET", "PageSize=1")


def test_the_report_is_plain_text_without_color_outside_a_terminal(
    account: RunningEmulator,
) -> None:
    status, out = printed()
    assert status == 0
    assert out.endswith("\nNo problems found.\n")
    assert f"TWILIO_ACCOUNT_SID = {ACCOUNT}" in out
    assert "TWILIO_AUTH_TOKEN = ********\n" in out
    assert account.auth_token not in out
    assert "Confirmed by the user: place, redirect" in out
    assert "\x1b" not in out


def test_the_sandbox_needs_no_credentials() -> None:
    status, found = examined("--sandbox")
    assert (status, found["credentials"]["level"]) == (0, "ok")


def test_missing_credentials_are_fatal() -> None:
    status, found = examined()
    assert (status, found["credentials"]["level"]) == (2, "fatal")
    assert "TWILIO_ACCOUNT_SID" in found["credentials"]["message"]


def test_each_wrong_setting_is_named_with_a_fix() -> None:
    wrong = {"CALLS_MCP_CONFIRMS": "all", "CALLS_MCP_TIMEOUT": "soon", "TWILIO_REGION": "A B"}
    ended = run("doctor", **wrong)
    assert (ended.returncode, ended.stderr) == (2, "")
    assert "did you mean CALLS_MCP_CONFIRM?" in ended.stdout
    assert "unset CALLS_MCP_CONFIRMS" in ended.stdout
    assert ended.stdout.endswith("\n3 problems. The server can't start.\n")


@pytest.mark.usefixtures("account")
def test_an_empty_setting_is_noted() -> None:
    status, out = printed(TWILIO_EDGE="")
    assert status == 0
    assert "TWILIO_EDGE is empty, so it counts as not set" in out


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("TWILIO_AUTH_TOKEN", "${env:TWILIO_AUTH_TOKEN}", "problem"),
        ("TWILIO_AUTH_TOKEN", "put your TWILIO_AUTH_TOKEN here", "problem"),
        ("TWILIO_AUTH_TOKEN", "your_auth_token", "problem"),
        ("TWILIO_AUTH_TOKEN", "your-auth-token", "problem"),
        ("TWILIO_AUTH_TOKEN", "their-api-secret", "problem"),
        ("TWILIO_AUTH_TOKEN", "<auth token>", "problem"),
        ("TWILIO_AUTH_TOKEN", "…", "fatal"),
        ("TWILIO_ACCOUNT_SID", "ACxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "fatal"),
        ("CALLS_MCP_POLICY", "/path/to/policy.toml", "fatal"),
        ("CALLS_MCP_ALLOWED_HOSTS", "mcp.example.com 127.0.0.1", "problem"),
        ("CALLS_MCP_CONSOLE_URL", "https://calls.example.com", "problem"),
    ],
)
def test_a_placeholder_causes_one_finding(name: str, value: str, level: str) -> None:
    report = json.loads(run("doctor", "--json", **{name: value}).stdout)
    (found,) = (each for each in report["findings"] if each["level"] in ("problem", "fatal"))
    assert (found["check"], found["level"]) == ("placeholders", level)
    assert found["message"] == f"{name}: replace the placeholder with your own value"
    assert found["remedy"] == f"export {name}=…"


def test_the_account_sid_of_the_examples_is_a_placeholder_except_for_the_emulator() -> None:
    sid = "AC" + "0" * 32
    example = {"TWILIO_ACCOUNT_SID": sid, "TWILIO_AUTH_TOKEN": SECRET}
    with refusing() as url:
        assert "placeholders" not in examined(**example, CALLS_MCP_API_BASE_URL=url)[1]
        _, found = examined(**example, HTTPS_PROXY=url)
    assert found["placeholders"]["message"].startswith("TWILIO_ACCOUNT_SID: ")


def test_the_sandbox_ignores_placeholders_of_credentials() -> None:
    assert examined("--sandbox", TWILIO_AUTH_TOKEN="your_auth_token")[0] == 0


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ".env"
    file.write_text("# mine\nexport TWILIO_ACCOUNT_SID=\n", "utf-8")
    return file


USE_ENV_FILE = "use the .env file of this directory: calls-mcp doctor --env-file .env"


@pytest.mark.usefixtures("env_file")
def test_missing_credentials_and_an_unused_env_file_are_one_finding() -> None:
    status, found = examined()
    assert (status, found["credentials"]["remedy"]) == (2, USE_ENV_FILE)
    assert [check for check, each in found.items() if each["level"] != "ok"] == ["credentials"]


@pytest.mark.usefixtures("account")
def test_an_unused_env_file_is_noted_only_if_it_has_our_settings(env_file: Path) -> None:
    status, found = examined()
    assert (status, found["settings"]["level"]) == (0, "note")
    assert found["settings"]["remedy"] == USE_ENV_FILE
    env_file.write_text("DATABASE_URL=x\n", "utf-8")
    assert examined()[1]["settings"]["level"] == "ok"


def test_a_remedy_names_the_env_file_that_is_used(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    env_file.write_text("CALLS_MCP_READ_ONLY=1\n", "utf-8")
    found = examined("--sandbox", "--env-file", str(env_file))[1]
    assert found["policy"]["remedy"] == f"unset CALLS_MCP_READ_ONLY (or change {env_file})"


@pytest.mark.parametrize(
    ("step", "check", "expected"),
    [
        (answer(401, {"code": 20003, "message": f"no {SECRET}"}), "credentials", "returned 401"),
        (answer(403, {"code": 20008}), "credentials", "returned 403"),
        (answer(404, {"code": 20404}), "credentials", "TWILIO_ACCOUNT_SID"),
        (answer(200, "<html>"), "credentials", "is not the Calls API"),
        (answer(429, {"code": 20429}), "credentials", "not checked, because the API is busy"),
        (redirect("https://example.com/"), "api", "redirects elsewhere (status 302)"),
        (answer(503), "api", "answered 503"),
        (drop, "api", "the server disconnected"),
    ],
)
def test_each_failure_of_the_api_is_one_finding(step: Step, check: str, expected: str) -> None:
    with api(step) as upstream:
        status, found = examined(**at(upstream.base_url))
    is_busy = "busy" in expected
    assert (status, found[check]["level"]) == ((0, "note") if is_busy else (1, "problem"))
    assert expected in found[check]["message"] + found[check]["remedy"]
    others = found.keys() - {check, "clock"}  # a scripted response has no date
    assert all(found[other]["level"] == "ok" for other in others)
    assert SECRET not in json.dumps(found)
    assert upstream.methods == ["GET"]


def test_an_unreachable_api_is_named() -> None:
    with refusing() as url:
        status, found = examined(**at(url))
    assert (status, found["api"]["level"]) == (1, "problem")
    assert found["api"]["message"] == f"can't reach {url}: connection refused"


@pytest.mark.parametrize(
    ("base_url", "proxy", "remedy"),
    [
        ("http://127.0.0.1:1", "", "start a server there, such as: calls-mcp emulator"),
        ("https://calls.invalid", "", "check the host name: export CALLS_MCP_API_BASE_URL=URL"),
        ("https://calls.invalid", "http://127.0.0.1:1", "check HTTPS_PROXY: export HTTPS_PROXY="),
    ],
)
def test_the_remedy_fits_the_cause_of_a_failed_connection(
    base_url: str, proxy: str, remedy: str
) -> None:
    _, found = examined(**at(base_url), HTTPS_PROXY=proxy)
    assert proxy.removeprefix("http://") in found["api"]["message"]
    assert found["api"]["remedy"].startswith(remedy)


def test_the_remedy_for_an_untrusted_certificate_is_that_of_its_issuer(tmp_path: Path) -> None:
    with tls(tmp_path) as base_url:
        _, found = examined(**at(base_url))
    assert "certificate can't be verified" in found["api"]["message"]
    assert found["api"]["remedy"].startswith("export SSL_CERT_FILE=FILE")


def test_an_unusable_certificate_file_is_named(tmp_path: Path) -> None:
    status, found = examined(**OWN, SSL_CERT_FILE=str(tmp_path / "none.pem"))
    assert (status, found["api"]["level"]) == (2, "fatal")
    assert "SSL_CERT_FILE" in found["api"]["message"]


@pytest.mark.parametrize(
    ("seconds", "level", "which"),
    [
        (0, "ok", "in sync with the API"),
        (-90, "problem", "ahead of"),
        (90, "problem", "behind"),
        (None, "note", "not checked"),
    ],
)
def test_the_clock_is_compared_with_the_api(seconds: float | None, level: str, which: str) -> None:
    with api(answer(200, page(), headers=dated(seconds))) as upstream:
        _, found = examined(**at(upstream.base_url))
    assert found["clock"]["level"] == level
    assert which in found["clock"]["message"]


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("name", "value", "remedy", "expected"),
    [
        ("CALLS_MCP_READ_ONLY", "1", "unset CALLS_MCP_READ_ONLY", 0),
        ("CALLS_MCP_CONFIRM", "none", "unset CALLS_MCP_CONFIRM", 0),
        ("CALLS_MCP_CONFIRM", "operator", "unset CALLS_MCP_STATE_URL", 1),
    ],
)
def test_settings_that_change_the_policy_are_noted_with_a_remedy(
    name: str, value: str, remedy: str, expected: int
) -> None:
    status, found = examined(**{"CALLS_MCP_STATE_URL": "memory:", name: value})
    assert (status, found["policy"]["remedy"]) == (expected, remedy)


@pytest.mark.usefixtures("account")
def test_a_wrong_policy_is_fatal_and_named_with_its_line(tmp_path: Path) -> None:
    file = policy(tmp_path, "[confirm]\nplase = 'deny'\n")
    status, found = examined(CALLS_MCP_POLICY=str(file))
    assert (status, found["policy"]["level"]) == (2, "fatal")
    assert f"{file}:2" in found["policy"]["message"]


def files_in(folder: Path) -> dict[str, str]:
    """Return the variables for a store and an audit log in this folder."""
    return {
        "CALLS_MCP_STATE_URL": f"sqlite:///{folder}/state.db",
        "CALLS_MCP_AUDIT_DATABASE": str(folder / "audit.db"),
    }


@pytest.mark.usefixtures("account")
def test_missing_databases_are_not_created(tmp_path: Path) -> None:
    status, found = examined(**files_in(tmp_path))
    assert (status, found["state store"]["level"], found["audit log"]["level"]) == (0, "ok", "ok")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.usefixtures("account")
def test_existing_databases_are_checked_without_changes(tmp_path: Path) -> None:
    place = ("create_call", "to=+15005550205", "from=+15005550006", "twiml=<Response/>")
    assert run("call", *place, "--yes", **files_in(tmp_path)).returncode == 0
    before = {file: file.read_bytes() for file in tmp_path.glob("*.db")}
    assert len(before) == 2
    assert examined(**files_in(tmp_path))[0] == 0
    assert before == {file: file.read_bytes() for file in before}


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("name", ["AUDIT_DATABASE", "STATE_URL"])
@pytest.mark.parametrize("kind", ["no folder", "another file"])
def test_an_unusable_database_is_named(name: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "none" / "file" if kind == "no folder" else tmp_path / "file"
    if kind == "another file":
        file.write_text("Milk and eggs, and nothing else.\n" * 50, "utf-8")
    is_state = name == "STATE_URL"  # it is opened at start
    place = f"sqlite:///{file}" if is_state else str(file)
    status, found = examined(**{f"CALLS_MCP_{name}": place})
    assert status == (2 if is_state else 1)
    assert str(file) in found["state store" if is_state else "audit log"]["message"]


@pytest.mark.usefixtures("account")
def test_a_locked_database_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "audit.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("CREATE TABLE t (x)")
        holder.execute("BEGIN IMMEDIATE")
        status, found = examined(CALLS_MCP_AUDIT_DATABASE=str(file))
    assert (status, found["audit log"]["level"]) == (1, "problem")
    assert "locked" in found["audit log"]["message"]


@pytest.mark.usefixtures("account")
def test_a_redis_that_may_lose_records_is_a_problem(own_redis: RedisServer) -> None:
    elsewhere = {"CALLS_MCP_AUDIT_DATABASE": "stderr:"}
    own_redis.set(**{"maxmemory-policy": "allkeys-lru"})
    status, out = printed(CALLS_MCP_STATE_URL=own_redis.url, **elsewhere)
    assert status == 1
    assert "call counts: set appendonly yes, maxmemory-policy noeviction" in out
    assert "→ redis-cli CONFIG SET appendonly yes maxmemory-policy noeviction, and set" in out
    own_redis.set(**{"maxmemory-policy": "noeviction"})
    _, found = examined(CALLS_MCP_STATE_URL=own_redis.url, **elsewhere)
    assert found["state store"]["message"].endswith("set appendonly yes")


@pytest.mark.usefixtures("account")
def test_a_redis_that_does_not_allow_info_is_a_problem(own_redis: RedisServer) -> None:
    elsewhere = {"CALLS_MCP_AUDIT_DATABASE": "stderr:"}
    own_redis.run("ACL", "SETUSER", "ann", "on", f">{SECRET}", "~*", "+@all", "-info")
    place = own_redis.url.removeprefix("redis://")
    status, found = examined(CALLS_MCP_STATE_URL=f"redis://ann:{SECRET}@{place}", **elsewhere)
    assert status == 1
    assert "can't detect that Redis was restored" in found["state store"]["message"]


@pytest.mark.usefixtures("account")
def test_redis_is_checked_and_its_password_is_masked(own_redis: RedisServer) -> None:
    elsewhere = {"CALLS_MCP_AUDIT_DATABASE": "stderr:"}
    own_redis.set(appendonly="yes")
    status, found = examined(CALLS_MCP_STATE_URL=own_redis.url, **elsewhere)
    assert (status, found["state store"]["level"]) == (0, "ok")
    place = own_redis.url.removeprefix("redis://")
    status, out = printed(CALLS_MCP_STATE_URL=f"redis://user:{SECRET}@{place}", **elsewhere)
    assert status == 1
    host = place.partition("/")[0]
    assert f"state store: Redis at {host} can't be used, so changes are refused: it rejects" in out
    assert (
        "→ correct the user and the password: export CALLS_MCP_STATE_URL=redis://USER:…@HOST\n"
        in out
    )
    assert f"redis://********@{place}" in out
    assert SECRET not in out


@pytest.mark.usefixtures("account")
def test_missing_libraries_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert examined(CALLS_MCP_TELEMETRY="otlp")[1]["telemetry"]["level"] == "note"
    absent: dict[str, object] = {}
    monkeypatch.setattr("calls_mcp.cli.doctor_checks.variables.find_spec", absent.get)
    status, found = examined(CALLS_MCP_TELEMETRY="otlp")
    assert status == 2
    assert found["telemetry"]["remedy"] == (
        "in the checkout of calls-mcp, run: pip install '.[otel]'"
    )


def test_the_remedy_for_a_removed_setting_is_to_unset_it() -> None:
    _, found = examined(CALLS_MCP_AUDIT_FILE="audit.jsonl")
    assert found["settings"]["remedy"] == "unset CALLS_MCP_AUDIT_FILE"


@pytest.mark.parametrize("token", ["emulator", "7443", "a", "1"])
def test_a_secret_that_is_a_common_word_does_not_garble_the_report(token: str) -> None:
    with refusing() as url:
        status, out = printed(**at(url) | {"TWILIO_AUTH_TOKEN": token})
    assert status == 1
    assert f"calls-mcp emulator --port {url.rpartition(':')[2]}" in out
    assert "TWILIO_AUTH_TOKEN = ********\n" in out
    assert f"CALLS_MCP_API_BASE_URL = {url}" in out
    assert out.count("********") == 1


def test_standard_variables_are_counted_separately(tmp_path: Path) -> None:
    message = examined("--sandbox", SSL_CERT_FILE=str(tmp_path))[1]["settings"]["message"]
    assert re.fullmatch("0 set, .*; proxy and certificate variables in use: [1-9]", message)


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("kind", "reason", "remedy"),
    [
        ("newer", "written by a newer version", "upgrade calls-mcp, or use another file: export"),
        ("foreign", "another program's database", "use another file: export"),
        ("text", "not a database", "use another file: export"),
    ],
)
def test_a_file_of_another_kind_is_not_reported_as_a_lack_of_permission(
    kind: str, reason: str, remedy: str, tmp_path: Path
) -> None:
    file = tmp_path / "calls.db"
    if kind == "text":
        file.write_text("Milk and eggs, and nothing else.\n" * 50, "utf-8")
    else:
        with closing(sqlite3.connect(file)) as made:
            made.execute(f"PRAGMA user_version = {9999 if kind == 'newer' else 0}")
            made.execute("CREATE TABLE t (x)")
    for check, name, place in (
        ("state store", "STATE_URL", f"sqlite:///{file}"),
        ("audit log", "AUDIT_DATABASE", str(file)),
    ):
        _, found = examined(**{f"CALLS_MCP_{name}": place})
        assert reason in found[check]["message"]
        assert found[check]["remedy"].startswith(remedy)


def tokens(file: Path, days: int, more: str = "") -> dict[str, str]:
    """Return the variables for a file with a token that expires in `days`."""
    write(file, entry("token", "agent", "calls:read", lasts=timedelta(days=days)), more)
    return {"CALLS_MCP_AUTH": "tokens", "CALLS_MCP_PRINCIPALS": str(file)}


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("days", "level", "status"), [(90, "ok", 0), (3, "note", 0), (-1, "problem", 1)]
)
def test_tokens_are_checked_for_expiry(days: int, level: str, status: int, tmp_path: Path) -> None:
    found_status, found = examined(**tokens(tmp_path / "principals.toml", days))
    assert (found_status, found["principals"]["level"]) == (status, level)
    assert "CALLS_MCP_ALLOWED_HOSTS" in found["http"]["remedy"]


@pytest.mark.usefixtures("account")
def test_a_file_without_tokens_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "principals.toml"
    file.write_text("", "utf-8")
    file.chmod(0o600)
    status, found = examined(CALLS_MCP_AUTH="tokens", CALLS_MCP_PRINCIPALS=str(file))
    assert (status, found["principals"]["level"]) == (1, "problem")
    assert "has no token" in found["principals"]["message"]
    assert found["principals"]["remedy"] == "calls-mcp token new NAME --scope SCOPE"


def test_the_account_of_a_principal_is_checked(account: RunningEmulator, tmp_path: Path) -> None:
    theirs = f'[principals.agent]\naccount_sid = "{account.account_sid}"\n'
    variables = tokens(tmp_path / "p.toml", 90, f'{theirs}auth_token_env = "THEIRS"\n')
    status, found = examined(**variables, THEIRS=SECRET)
    assert (status, found["credentials of agent"]["level"]) == (1, "problem")
    assert found["credentials"]["level"] == "ok"
    assert found["credentials of agent"]["remedy"].startswith("correct [principals.agent]")
    assert SECRET not in json.dumps(found)


@pytest.mark.usefixtures("account")
def test_an_unreachable_issuer_is_named() -> None:
    with refusing() as url:
        status, found = examined(
            CALLS_MCP_AUTH="oauth",
            CALLS_MCP_OAUTH_ISSUER=url,
            CALLS_MCP_RESOURCE_URL="https://calls.invalid/mcp",
        )
    assert (status, found["issuer"]["level"]) == (1, "problem")
    assert url in found["issuer"]["message"]


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("step", "level", "message"),
    [
        (answer(200), "ok", "127.0.0.1 can be reached"),
        (answer(405), "ok", "127.0.0.1 can be reached"),
        (answer(404), "note", "127.0.0.1 answered 404 to a HEAD request"),
        (redirect("https://example.com/"), "note", "127.0.0.1 answered 302 to a HEAD request"),
        (answer(503), "problem", "127.0.0.1 answered 503"),
        (drop, "problem", "127.0.0.1 can't be notified of approval requests: "),
    ],
    ids=["ok", "not allowed", "not found", "redirect", "failing", "dropped"],
)
def test_the_approvals_webhook_is_checked_without_a_notification(
    step: Step, level: str, message: str
) -> None:
    with api(step) as upstream:
        url = f"{upstream.base_url}/services/{SECRET}"
        status, found = examined(CALLS_MCP_APPROVALS_WEBHOOK=url)
    assert found["approvals webhook"]["level"] == level
    assert found["approvals webhook"]["message"].startswith(message)
    assert (status == 1) == (level == "problem")
    assert {request.method for request in upstream.requests} == {"HEAD"}
    assert SECRET not in json.dumps(found)


@pytest.mark.usefixtures("account")
def test_an_unreachable_approvals_webhook_is_named() -> None:
    with refusing() as url:
        status, found = examined(CALLS_MCP_APPROVALS_WEBHOOK=url)
    message = "127.0.0.1 can't be notified of approval requests: connection refused"
    assert (status, found["approvals webhook"]["message"]) == (1, message)


def test_an_auth_token_in_the_wrong_setting_is_masked() -> None:
    token = "0123456789abcdef" * 2
    proxy = f"http://user:{SECRET}@127.0.0.1:1"
    out = run("doctor", "--sandbox", TWILIO_EDGE=token, HTTPS_PROXY=proxy).stdout
    assert token not in out
    assert SECRET not in out


def test_a_directory_named_like_an_auth_token_is_shown(tmp_path: Path) -> None:
    file = tmp_path / ("0123456789abcdef" * 2) / "calls.db"
    file.parent.mkdir()
    out = run("doctor", "--sandbox", CALLS_MCP_STATE_URL=f"sqlite:///{file}").stdout
    assert f"CALLS_MCP_STATE_URL = sqlite:///{file}\n" in out
    assert f"state store: {file} will be created when needed" in out


@pytest.mark.usefixtures("account")
def test_a_database_for_both_state_and_audit_log_is_one_finding_if_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    status, found = examined()
    assert status == 1
    assert [check for check, each in found.items() if each["level"] != "ok"] == ["state store"]


@pytest.mark.usefixtures("account")
def test_an_unreachable_redis_is_named() -> None:
    with refusing() as url:
        host = url.removeprefix("http://")
        _, found = examined(CALLS_MCP_STATE_URL=f"redis://user:{SECRET}@{host}/0")
    assert found["state store"]["message"] == (
        f"Redis at {host} can't be used, so changes are refused: connection refused"
    )


def test_an_unreachable_api_is_reported_once_for_all_principals(tmp_path: Path) -> None:
    theirs = f'[principals.agent]\naccount_sid = "{ACCOUNT}"\nauth_token_env = "THEIRS"\n'
    with refusing() as url:
        variables = at(url) | tokens(tmp_path / "p.toml", 90, theirs)
        report = json.loads(run("doctor", "--json", **variables, THEIRS=SECRET).stdout)
    assert [f["check"] for f in report["findings"] if f["level"] == "problem"] == ["api"]

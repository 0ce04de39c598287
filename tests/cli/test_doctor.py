"""`calls-mcp doctor`: it finds what is wrong, says what mends it, and touches nothing."""

import asyncio
import json
import re
import sqlite3
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import given, settings
from hypothesis import strategies as st

from calls_mcp.emulator.testing import RunningEmulator
from tests.cli.test_main import run
from tests.guard.test_policy import policy
from tests.harness import ACCOUNT
from tests.http.service import entry, write
from tests.storage.redis_server import RedisServer
from tests.twilio.test_transport import certify
from tests.upstream import SECRET, Step, Upstream, answer, drop, page, redirect, refusing

OWN = {"TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_AUTH_TOKEN": SECRET}
MENDS = re.compile(
    r"(export|unset) ([A-Z]+_[A-Z_]+|those)|calls-mcp [a-z]|CALLS_MCP_PRINCIPALS|pip install "
    r"|timedatectl"
)
"""A command or a variable."""


def examined(*arguments: str, **variables: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and the worst finding of each check."""
    ended = run("doctor", "--json", *arguments, **variables)
    report = json.loads(ended.stdout)
    assert report["status"] == ended.returncode
    ranks = ["ok", "note", "problem", "fatal"]
    findings = sorted(report["findings"], key=lambda found: ranks.index(found["level"]))
    assert all(MENDS.search(f["remedy"]) for f in findings if f["level"] != "ok")
    return ended.returncode, {found["check"]: found for found in findings}


@contextmanager
def api(*steps: Step) -> Generator[Upstream]:
    """A scripted API."""
    with start_blocking_portal() as portal:
        upstream = Upstream(*steps)
        with portal.wrap_async_context_manager(upstream):
            yield upstream


def at(base_url: str) -> dict[str, str]:
    """The variables that lead to an API, with a secret of its own."""
    return OWN | {"CALLS_MCP_API_BASE_URL": base_url}


@contextmanager
def tls(folder: Path) -> Generator[str]:
    """The URL of a server whose certificate is signed by itself."""
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


def inside(value: object) -> str:
    """All texts in what JSON told, as they are."""
    if isinstance(value, dict):
        value = [*cast("dict[str, object]", value).values()]
    if isinstance(value, list):
        return "\n".join(map(inside, cast("list[object]", value)))
    return str(value)


def told(*arguments: str, **variables: str) -> tuple[int, str]:
    """The exit status, and all that was written."""
    ended = run("doctor", *arguments, **variables)
    written = inside(json.loads(ended.stdout)) if arguments else ended.stdout
    return ended.returncode, ended.stderr + written


SIGNS = st.sampled_from("@:/?#[]%\\\"'+&=é0aZ .,;{}")
SECRETS = st.text(SIGNS | st.characters(codec="utf-8", exclude_characters="\0")).map(
    "Zq{}Zq".format
)
REDIS = ("redis://:{}@127.0.0.1:1/0", "rediss://{}:x@127.0.0.1:1", "redis://u:{}@[", "x://{}@h")
PROXIES = (
    *("u:{}@127.0.0.1:1", "{}@127.0.0.1:1", "http://u:{}@127.0.0.1:1", "HTTP://{}:x@127.0.0.1:1"),
    *("http://[{}@127.0.0.1:1", "http://u:{}@[bad:80", "socks5://u:{}@127.0.0.1:1", "://{}@"),
)


@settings(max_examples=60, deadline=None)
@given(SECRETS, st.sampled_from(REDIS), st.sampled_from(PROXIES))
def test_no_secret_in_a_url_is_told_however_malformed_that_is(
    secret: str, state: str, proxy: str
) -> None:
    variables = OWN | {"CALLS_MCP_STATE_URL": state.format(secret), "NO_PROXY": f"u:{secret}@h"}
    for name in ("HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        variables[name] = proxy.format(secret)
    for arguments in ([], ["--json"]):
        status, text = told(*arguments, **variables)
        assert status in (1, 2)
        assert "Zq" not in text
        assert "********" in text


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
        ("SSL_CERT_FILE", "https://bob:s3cretpw@127.0.0.1", "https://********@127.0.0.1"),
    ],
)
def test_what_is_no_secret_of_a_url_is_shown(name: str, value: str, shown: str) -> None:
    _, text = told(**OWN | {"TWILIO_AUTH_TOKEN": "s3cretpw@127.0.0.1:1", name: value})
    assert f"{name} = {shown}" in text
    assert "TWILIO_AUTH_TOKEN = ********  (" in text
    assert "s3cr" not in text


def dated(seconds: float | None) -> dict[str, str]:
    if seconds is None:
        return {"Date": "today"}
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return {"Date": format_datetime(moment, usegmt=True)}


def test_all_is_well_after_one_cheap_read(account: RunningEmulator) -> None:
    status, found = examined()
    assert status == 0
    assert {found[check]["level"] for check in ("settings", "policy", "api", "credentials")} == {
        "ok"
    }
    assert found["clock"]["level"] == "ok"
    (entry,) = account.requests
    assert (entry.method, entry.query) == ("GET", "PageSize=1")


def test_it_says_so_in_words_and_without_colour(account: RunningEmulator) -> None:
    status, out = told()
    assert status == 0
    assert out.endswith("\nAll is well.\n")
    assert f"TWILIO_ACCOUNT_SID = {ACCOUNT}  (environment)" in out
    assert "TWILIO_AUTH_TOKEN = ********  (environment)" in out
    assert account.auth_token not in out
    assert "Confirmed by the user first: place, redirect" in out
    assert "\x1b" not in out


def test_the_sandbox_needs_no_credentials() -> None:
    status, found = examined("--sandbox")
    assert (status, found["credentials"]["level"]) == (0, "ok")


def test_without_credentials_it_cannot_start() -> None:
    status, found = examined()
    assert (status, found["credentials"]["level"]) == (2, "fatal")
    assert "TWILIO_ACCOUNT_SID" in found["credentials"]["message"]


def test_wrong_settings_are_each_named_with_what_mends_them() -> None:
    wrong = {"CALLS_MCP_CONFIRMS": "all", "CALLS_MCP_TIMEOUT": "soon", "TWILIO_REGION": "A B"}
    told = run("doctor", **wrong)
    assert (told.returncode, told.stderr) == (2, "")
    assert "did you mean CALLS_MCP_CONFIRM?" in told.stdout
    assert "unset CALLS_MCP_CONFIRMS" in told.stdout
    assert told.stdout.endswith("The server can't start like this.\n")


@pytest.mark.usefixtures("account")
def test_values_that_nobody_replaced_and_empty_ones_are_noticed() -> None:
    status, out = told(TWILIO_AUTH_TOKEN="${env:TWILIO_AUTH_TOKEN}", TWILIO_EDGE="")
    assert status == 1
    assert "TWILIO_AUTH_TOKEN has a placeholder in it" in out
    assert "TWILIO_EDGE is set to nothing" in out


@pytest.mark.parametrize(
    ("step", "check", "told"),
    [
        (answer(401, {"code": 20003, "message": f"no {SECRET}"}), "credentials", "answered 401"),
        (answer(403, {"code": 20008}), "credentials", "answered 403"),
        (answer(404, {"code": 20404}), "credentials", "TWILIO_ACCOUNT_SID"),
        (answer(200, "<html>"), "credentials", "is not the Calls API"),
        (answer(429, {"code": 20429}), "credentials", "could not be tried"),
        (redirect("https://example.com/"), "api", "answered 302"),
        (answer(503), "api", "answered 503"),
        (drop, "api", "the connection failed"),
    ],
)
def test_what_the_api_says_is_told_and_what_mends_it(step: Step, check: str, told: str) -> None:
    with api(step) as upstream:
        status, found = examined(**at(upstream.base_url))
    is_busy = "could not be tried" in told
    assert (status, found[check]["level"]) == ((0, "note") if is_busy else (1, "problem"))
    assert told in found[check]["message"] + found[check]["remedy"]
    assert SECRET not in json.dumps(found)
    assert upstream.methods == ["GET"]


def test_an_api_that_nobody_answers_at_is_named() -> None:
    with refusing() as url:
        status, found = examined(**at(url))
    assert (status, found["api"]["level"]) == (1, "problem")
    assert url in found["api"]["message"]


@pytest.mark.parametrize(
    ("base_url", "proxy", "remedy"),
    [
        ("http://127.0.0.1:1", "", "start what should listen there, such as: calls-mcp emulator"),
        ("https://calls.invalid", "", "check the host name: export CALLS_MCP_API_BASE_URL=URL"),
        ("https://calls.invalid", "http://127.0.0.1:1", "check HTTPS_PROXY: export HTTPS_PROXY="),
    ],
)
def test_the_advice_fits_why_there_is_no_connection(base_url: str, proxy: str, remedy: str) -> None:
    _, found = examined(**at(base_url), HTTPS_PROXY=proxy)
    assert found["api"]["remedy"].startswith(remedy)


def test_a_certificate_that_nobody_trusts_asks_for_the_one_who_issued_it(tmp_path: Path) -> None:
    with tls(tmp_path) as base_url:
        _, found = examined(**at(base_url))
    assert "certificate can't be verified" in found["api"]["message"]
    assert found["api"]["remedy"].startswith("export SSL_CERT_FILE=FILE")


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    status, found = examined(**OWN, SSL_CERT_FILE=str(tmp_path / "none.pem"))
    assert (status, found["api"]["level"]) == (2, "fatal")
    assert "SSL_CERT_FILE" in found["api"]["message"]


@pytest.mark.parametrize(
    ("seconds", "level", "which"),
    [
        (0, "ok", "as the API's"),
        (-90, "problem", "ahead of"),
        (90, "problem", "behind"),
        (None, "note", "not compared"),
    ],
)
def test_the_clock_is_compared_with_the_apis(seconds: float | None, level: str, which: str) -> None:
    with api(answer(200, page(), headers=dated(seconds))) as upstream:
        _, found = examined(**at(upstream.base_url))
    assert found["clock"]["level"] == level
    assert which in found["clock"]["message"]


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("name", "value", "mends", "ends_with"),
    [
        ("CALLS_MCP_READ_ONLY", "1", "unset CALLS_MCP_READ_ONLY", 0),
        ("CALLS_MCP_CONFIRM", "none", "unset CALLS_MCP_CONFIRM", 0),
        ("CALLS_MCP_CONFIRM", "operator", "unset CALLS_MCP_STATE_URL", 1),
    ],
)
def test_what_is_lax_or_strict_is_noted_with_what_changes_it(
    name: str, value: str, mends: str, ends_with: int
) -> None:
    status, found = examined(**{"CALLS_MCP_STATE_URL": "memory:", name: value})
    assert (status, found["policy"]["remedy"]) == (ends_with, mends)


@pytest.mark.usefixtures("account")
def test_a_wrong_policy_is_fatal_and_told_by_line(tmp_path: Path) -> None:
    file = policy(tmp_path, "[confirm]\nplase = 'deny'\n")
    status, found = examined(CALLS_MCP_POLICY=str(file))
    assert (status, found["policy"]["level"]) == (2, "fatal")
    assert f"{file}:2" in found["policy"]["message"]


def files_in(folder: Path) -> dict[str, str]:
    """The variables for a store and an audit log there."""
    return {
        "CALLS_MCP_STATE_URL": f"sqlite:///{folder}/state.db",
        "CALLS_MCP_AUDIT_DATABASE": str(folder / "audit.db"),
    }


@pytest.mark.usefixtures("account")
def test_nothing_is_made_or_written_where_the_state_and_the_record_will_be(tmp_path: Path) -> None:
    status, found = examined(**files_in(tmp_path))
    assert (status, found["state store"]["level"], found["audit log"]["level"]) == (0, "ok", "ok")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.usefixtures("account")
def test_what_is_there_is_tried_and_left_as_it_is(tmp_path: Path) -> None:
    place = ("create_call", "to=+15005550205", "from=+15005550006", "twiml=<Response/>")
    assert run("call", *place, "--yes", **files_in(tmp_path)).returncode == 0
    before = {file: file.read_bytes() for file in tmp_path.glob("*.db")}
    assert len(before) == 2
    assert examined(**files_in(tmp_path))[0] == 0
    assert before == {file: file.read_bytes() for file in before}


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("name", ["AUDIT_DATABASE", "STATE_URL"])
@pytest.mark.parametrize("kind", ["no folder", "another file"])
def test_a_place_that_cannot_be_written_to_is_told(name: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "none" / "file" if kind == "no folder" else tmp_path / "file"
    if kind == "another file":
        file.write_text("Milk and eggs, and nothing else.\n" * 50, "utf-8")
    is_state = name == "STATE_URL"  # without which it does not even start
    place = f"sqlite:///{file}" if is_state else str(file)
    status, found = examined(**{f"CALLS_MCP_{name}": place})
    assert status == (2 if is_state else 1)
    assert str(file) in found["state store" if is_state else "audit log"]["message"]


@pytest.mark.usefixtures("account")
def test_a_database_that_another_holds_is_told(tmp_path: Path) -> None:
    file = tmp_path / "audit.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("CREATE TABLE t (x)")
        holder.execute("BEGIN IMMEDIATE")
        status, found = examined(CALLS_MCP_AUDIT_DATABASE=str(file))
    assert (status, found["audit log"]["level"]) == (1, "problem")
    assert "locked" in found["audit log"]["message"]


@pytest.mark.usefixtures("account")
def test_redis_is_tried_and_its_password_never_told(own_redis: RedisServer) -> None:
    elsewhere = {"CALLS_MCP_AUDIT_DATABASE": "stderr:"}
    status, found = examined(CALLS_MCP_STATE_URL=own_redis.url, **elsewhere)
    assert (status, found["state store"]["level"]) == (0, "ok")
    place = own_redis.url.removeprefix("redis://")
    status, out = told(CALLS_MCP_STATE_URL=f"redis://user:{SECRET}@{place}", **elsewhere)
    assert status == 1
    assert "state store: can't be used" in out
    assert "→ correct the user and the password: export CALLS_MCP_STATE_URL=redis://" in out
    assert f"redis://********@{place}" in out
    assert SECRET not in out


@pytest.mark.usefixtures("account")
def test_extras_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert examined(CALLS_MCP_TELEMETRY="otlp")[1]["telemetry"]["level"] == "note"
    absent: dict[str, object] = {}
    monkeypatch.setattr("calls_mcp.cli.doctor_checks.files.find_spec", absent.get)
    status, found = examined(CALLS_MCP_TELEMETRY="otlp")
    assert status == 2
    assert found["telemetry"]["remedy"] == (
        "pip install 'calls-mcp[otel]', or in a checkout: pip install '.[otel]'"
    )


def test_a_setting_that_was_removed_can_only_be_unset() -> None:
    _, found = examined(CALLS_MCP_AUDIT_FILE="audit.jsonl")
    assert found["settings"]["remedy"] == "unset CALLS_MCP_AUDIT_FILE"


@pytest.mark.parametrize("token", ["emulator", "7443", "a", "1"])
def test_a_token_that_is_a_word_garbles_no_advice(token: str) -> None:
    with refusing() as url:
        status, out = told(**at(url) | {"TWILIO_AUTH_TOKEN": token})
    assert status == 1
    assert f"calls-mcp emulator --port {url.rpartition(':')[2]}" in out
    assert "TWILIO_AUTH_TOKEN = ********  (environment)" in out
    assert f"CALLS_MCP_API_BASE_URL = {url}  (environment)" in out
    assert out.count("********") == 1


def test_standard_variables_are_counted_by_themselves(tmp_path: Path) -> None:
    out = told("--json", "--sandbox", SSL_CERT_FILE=str(tmp_path))[1]
    assert re.search("^0 set, .* standard variables in use: [1-9]$", out, re.MULTILINE)


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("kind", "reason", "remedy"),
    [
        ("newer", "written by a newer version", "upgrade calls-mcp, or use another file: export"),
        ("foreign", "another program's database", "use another file: export"),
        ("text", "not a database", "use another file: export"),
    ],
)
def test_a_file_with_something_else_in_it_is_not_said_to_lack_rights(
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
    """The variables for a file with a token of so many days."""
    write(file, entry("token", "agent", "calls:read", lasts=timedelta(days=days)), more)
    return {"CALLS_MCP_AUTH": "tokens", "CALLS_MCP_PRINCIPALS": str(file)}


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("days", "level", "status"), [(90, "ok", 0), (3, "note", 0), (-1, "problem", 1)]
)
def test_who_may_come_in_over_http_is_looked_at(
    days: int, level: str, status: int, tmp_path: Path
) -> None:
    found_status, found = examined(**tokens(tmp_path / "principals.toml", days))
    assert (found_status, found["principals"]["level"]) == (status, level)
    assert "CALLS_MCP_ALLOWED_HOSTS" in found["http"]["remedy"]


@pytest.mark.usefixtures("account")
def test_a_file_without_tokens_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "principals.toml"
    file.write_text("", "utf-8")
    file.chmod(0o600)
    status, found = examined(CALLS_MCP_AUTH="tokens", CALLS_MCP_PRINCIPALS=str(file))
    assert (status, found["principals"]["level"]) == (1, "problem")
    assert "there is no token" in found["principals"]["message"]
    assert found["principals"]["remedy"] == "calls-mcp token new NAME --scope SCOPE"


def test_an_account_of_a_principals_own_is_tried_as_well(
    account: RunningEmulator, tmp_path: Path
) -> None:
    theirs = f'[principals.agent]\naccount_sid = "{account.account_sid}"\n'
    variables = tokens(tmp_path / "p.toml", 90, f'{theirs}auth_token_env = "THEIRS"\n')
    status, found = examined(**variables, THEIRS=SECRET)
    assert (status, found["credentials of agent"]["level"]) == (1, "problem")
    assert found["credentials"]["level"] == "ok"
    assert found["credentials of agent"]["remedy"].startswith("mend [principals.agent]")
    assert SECRET not in json.dumps(found)


@pytest.mark.usefixtures("account")
def test_an_issuer_that_cannot_be_asked_is_named() -> None:
    with refusing() as url:
        status, found = examined(
            CALLS_MCP_AUTH="oauth",
            CALLS_MCP_OAUTH_ISSUER=url,
            CALLS_MCP_RESOURCE_URL="https://calls.example.com/mcp",
        )
    assert (status, found["issuer"]["level"]) == (1, "problem")


def test_a_token_in_the_wrong_place_is_not_shown() -> None:
    token = "0123456789abcdef" * 2
    proxy = f"http://user:{SECRET}@127.0.0.1:1"
    out = run("doctor", "--sandbox", TWILIO_EDGE=token, HTTPS_PROXY=proxy).stdout
    assert token not in out
    assert SECRET not in out

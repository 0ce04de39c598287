"""Principals' own accounts and policies, and faults in the principals file."""

from base64 import b64decode
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from calls_mcp.errors import ConfigurationError
from calls_mcp.http.authentication import open_verifier
from calls_mcp.settings import load_settings
from tests.audit_records import lines_in
from tests.harness import ACCOUNT, open_harness, placing
from tests.http.issuer import AUDIENCE, issuing
from tests.http.service import (
    EVERYTHING,
    StubbedService,
    by_tokens,
    entry,
    message,
    open_service,
    serve_harness,
    stubbed_service,
    write,
)
from tests.until import until
from tests.upstream import SECRET, SID, Exchange, answer, call

pytestmark = pytest.mark.anyio

OWN = "AC" + "7" * 32
KEY = "SK" + "8" * 32
BY_ENV = f'[principals.alice]\naccount_sid = "{OWN}"\nauth_token_env = "ALICES_SECRET"\n'
BY_FILE = f'[principals.alice]\naccount_sid = "{OWN}"\nauth_token_file = "secret"\n'
BOTH = (entry("alices-token", "alice", *EVERYTHING), entry("bobs-token", "bob", *EVERYTHING))


@pytest.fixture(autouse=True)
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a secret; the variable ALICES_SECRET has another."""
    monkeypatch.setenv("ALICES_SECRET", "alices own")
    return write(tmp_path / "secret", "first")


async def placed(exchange: Exchange) -> None:
    """Answer with a call of the requested account."""
    account = exchange.request.target.split("/")[3]
    await answer(200, call(account_sid=account))(exchange)


def upstream_of(file: Path) -> AbstractAsyncContextManager[StubbedService]:
    """Start a service, backed by a stub of the API that accepts every account."""
    return stubbed_service(placed, **by_tokens(file, calls_mcp_confirm="none"))


async def account_used(service: StubbedService, token: str) -> tuple[str, str]:
    """Place a call; return the account and the credentials it was placed with."""
    async with service.of(token).connect() as agent:
        await agent.call("create_call", **placing())
    request = service.upstream.requests[-1]
    credentials = b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
    return request.target.split("/")[3], credentials


async def test_a_principals_own_account_is_used_only_for_that_principal(
    tmp_path: Path,
) -> None:
    async with upstream_of(write(tmp_path / "principals.toml", *BOTH, BY_ENV)) as service:
        for _ in range(2):
            used = await account_used(service, "alices-token")
            assert used == (OWN, f"{OWN}:alices own")
            used = await account_used(service, "bobs-token")
            assert used == (ACCOUNT, f"{ACCOUNT}:{SECRET}")


async def test_a_principals_credentials_can_be_an_api_key_in_a_file(tmp_path: Path) -> None:
    write(tmp_path / "secret", "from a file\n")
    own = (
        f'[principals.alice]\naccount_sid = "{OWN}"\napi_key = "{KEY}"\n'
        'api_secret_file = "secret"\n'
    )
    async with upstream_of(write(tmp_path / "principals.toml", *BOTH, own)) as service:
        used = await account_used(service, "alices-token")
        assert used == (OWN, f"{KEY}:from a file")


async def test_changing_a_principals_account_takes_effect_immediately(tmp_path: Path) -> None:
    another = "AC" + "6" * 32
    file = write(tmp_path / "principals.toml", *BOTH)
    async with upstream_of(file) as service:
        assert (await account_used(service, "alices-token"))[0] == ACCOUNT
        changes = {BY_ENV: OWN, BY_ENV.replace(OWN, another): another, "": ACCOUNT}
        for own, used in changes.items():
            write(file, *BOTH, own)
            assert (await account_used(service, "alices-token"))[0] == used


async def test_changing_a_secret_or_policy_takes_effect_immediately(
    tmp_path: Path, secret: Path
) -> None:
    policy = write(tmp_path / "own.toml", '[confirm]\nplace = "never"\n')
    own = BY_FILE + 'policy = "own.toml"\n'
    async with upstream_of(write(tmp_path / "principals.toml", *BOTH, own)) as service:
        assert (await account_used(service, "alices-token"))[1] == f"{OWN}:first"
        write(secret, "second")
        async with service.of("alices-token").connect() as alice:
            await alice.call("list_calls")
            used = service.upstream.requests[-1].headers["authorization"]
            assert b64decode(used.removeprefix("Basic ")).decode() == f"{OWN}:second"
            policy.write_text('[confirm]\nplace = "deny"\n', "utf-8")
            denied = await alice.call("create_call", **placing())
        assert denied["error"]["kind"] == "policy_denied"


async def test_a_missing_secret_file_takes_effect_once_it_exists(tmp_path: Path) -> None:
    own = BY_FILE.replace('"secret"', '"later"')
    file = write(tmp_path / "principals.toml", *BOTH)
    async with upstream_of(file) as service:
        write(file, BOTH[0], own)
        before = await account_used(service, "bobs-token")
        assert before[0] == ACCOUNT  # the last valid file is in use
        write(tmp_path / "later", "there")
        assert (await service.of("bobs-token").post(message("ping"))).status_code == 401
        assert (await account_used(service, "alices-token"))[1] == f"{OWN}:there"


async def test_a_call_in_progress_finishes_with_its_original_credentials(
    tmp_path: Path, secret: Path
) -> None:
    asked, answered = anyio.Event(), anyio.Event()

    async def wait(exchange: Exchange) -> None:
        asked.set()
        await answered.wait()
        await placed(exchange)

    outcomes: list[str] = []
    settings = by_tokens(write(tmp_path / "principals.toml", *BOTH, BY_FILE))
    async with (
        stubbed_service(wait, calls_mcp_confirm="none", **settings) as service,
        service.of("alices-token").connect() as alice,
        anyio.create_task_group() as tasks,
    ):

        async def place(to: str) -> None:
            outcomes.append((await alice.call("create_call", **placing(to=to)))["outcome"])

        tasks.start_soon(place, "+15005550205")
        await asked.wait()
        write(secret, "second")
        tasks.start_soon(place, "+15005550206")
        await until(lambda: len(service.upstream.requests) >= 2)
        answered.set()
    assert outcomes == ["done", "done"]
    used = {b64decode(r.headers["authorization"][6:]).decode() for r in service.upstream.requests}
    assert used == {f"{OWN}:first", f"{OWN}:second"}


async def test_principals_of_one_account_share_a_circuit_breaker(
    tmp_path: Path,
) -> None:
    write(tmp_path / "own.toml", '[confirm]\nplace = "deny"\n')
    own = '[principals.alice]\npolicy = "own.toml"\n'
    settings = by_tokens(write(tmp_path / "principals.toml", *BOTH, own))
    async with stubbed_service(answer(404), deadline=0.3, **settings) as service:
        service.upstream.leave()
        async with service.of("alices-token").connect() as alice:
            for _ in range(20):  # some may time out before they try to connect
                if "in a row" in await alice.read("fetch_call", sid=SID):
                    break
        async with service.of("bobs-token").connect() as bob:
            error = await bob.read("fetch_call", sid=SID)
        assert "has failed 5 times in a row" in error


async def test_a_principals_own_policy_applies(tmp_path: Path) -> None:
    write(tmp_path / "strict.toml", '[confirm]\nplace = "deny"\n')
    own = '[principals.alice]\npolicy = "strict.toml"\n'
    file = write(tmp_path / "principals.toml", *BOTH, own)
    async with upstream_of(file) as service:
        async with service.of("alices-token").connect() as alice:
            denied = await alice.call("create_call", **placing())
        async with service.of("bobs-token").connect() as bob:
            placed = await bob.call("create_call", **placing())
        assert denied["error"]["kind"] == "policy_denied"
        assert placed["outcome"] == "done"


async def test_caps_are_counted_by_account(tmp_path: Path) -> None:
    write(tmp_path / "one.toml", "[caps]\ncalls_per_day = 1\nsame_number_seconds = 0\n")
    own = BY_ENV + 'policy = "one.toml"\n[principals.bob]\npolicy = "one.toml"\n'
    file = write(tmp_path / "principals.toml", *BOTH, own)
    kinds: list[object] = []
    async with upstream_of(file) as service:
        for token in ("alices-token", "bobs-token", "alices-token", "bobs-token"):
            async with service.of(token).connect() as agent:
                placed = await agent.call("create_call", **placing(to="+15005550206"))
                kinds.append(placed.get("error", {}).get("kind"))
    assert kinds == [None, None, "policy_denied", "policy_denied"]


async def test_with_oauth_the_principals_file_sets_policies(
    tmp_path: Path,
) -> None:
    write(tmp_path / "strict.toml", '[accounts]\nallow = ["AC99999999999999999999999999999999"]\n')
    file = write(tmp_path / "p.toml", '[principals."auth0|alice"]\npolicy = "strict.toml"\n')
    async with issuing() as issuer:
        settings = issuer.settings(calls_mcp_principals=file)
        async with open_service(**settings) as service:
            for name, outcome in (("auth0|alice", "error"), ("bob", "done")):
                async with service.of(issuer.token(claims={"sub": name})).connect() as agent:
                    assert (await agent.call("list_calls"))["outcome"] == outcome


async def test_with_oauth_nobody_gets_the_shared_policy_while_the_principals_file_is_missing(
    tmp_path: Path,
) -> None:
    file = write(tmp_path / "p.toml", "[principals.alice]\n")
    async with (
        issuing() as issuer,
        open_service(**issuer.settings(calls_mcp_principals=file)) as service,
    ):
        alice = service.of(issuer.token(claims={"sub": "alice"}))
        assert (await alice.post(message("ping"))).status_code != 503
        file.rename(tmp_path / "away.toml")
        assert (await alice.post(message("ping"))).status_code == 503


async def test_a_watch_ends_if_the_principals_file_is_missing(tmp_path: Path) -> None:
    file = write(tmp_path / "principals.toml", *BOTH)
    verifier = open_verifier(load_settings(by_tokens(file)))
    assert verifier
    grant = await verifier.verify_token("alices-token")
    assert grant
    assert await grant.renewed()
    file.rename(tmp_path / "away.toml")
    assert await grant.renewed() is None


@pytest.mark.parametrize(
    "name",
    [
        "console: ada",
        "Console:ada",
        "console",
        "\uff43onsole : ada",
        "console\uff1aada",
        " console:x",
    ],
)
async def test_no_oauth_principal_can_have_the_recorded_name_of_an_operator(name: str) -> None:
    async with issuing() as issuer, open_service(**issuer.settings()) as service:
        token = issuer.token(claims={"sub": name})
        assert (await service.of(token).post(message("ping"))).status_code == 401
        token = issuer.token(claims={"sub": f"the {name}"})
        assert (await service.of(token).post(message("ping"))).status_code != 401


async def test_the_sandbox_ignores_principals_own_accounts(tmp_path: Path) -> None:
    settings = by_tokens(write(tmp_path / "principals.toml", *BOTH, BY_FILE))
    async with open_harness(sandbox=True, **settings) as harness, serve_harness(harness) as service:
        async with service.of("alices-token").connect() as alice:
            listed = await alice.call("list_calls")
        assert (listed["outcome"], listed["sandbox"]) == ("done", True)
        assert OWN not in str(service.harness.emulator.requests)


async def test_stdio_and_in_memory_clients_need_no_token(tmp_path: Path) -> None:
    file = write(tmp_path / "principals.toml", *BOTH)
    async with open_harness(**by_tokens(file)) as harness, harness.connect() as agent:
        assert (await agent.call("list_calls"))["outcome"] == "done"
        assert len((await agent.client.list_tools()).tools) == 5


# The principal, not the client's name, is recorded


async def test_audit_log_and_rate_limit_use_the_authenticated_principal(tmp_path: Path) -> None:
    write(tmp_path / "slow.toml", "[caps]\nreads_per_minute = 1\n")
    settings = by_tokens(
        write(tmp_path / "principals.toml", *BOTH),
        calls_mcp_policy=tmp_path / "slow.toml",
        calls_mcp_audit_database=tmp_path / "audit.db",
    )
    async with open_service(**settings) as service:
        outcomes: list[str] = []
        for token in ("alices-token", "alices-token", "bobs-token"):
            async with service.of(token).connect() as agent:
                outcomes.append((await agent.call("list_calls"))["outcome"])
                await agent.call("create_call", **placing())
    assert outcomes == ["done", "error", "done"]
    record = "".join(lines_in(tmp_path / "audit.db"))
    assert '"principal":"alice"' in record
    assert '"principal":"bob"' in record
    assert "tester" not in record


# Faults in the file


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[tokens]", "1: "),
        (
            '[[tokens]]\nprincipal = "a"\n[[tokens]]\nprincipal = "b c"\n',
            "3: tokens.1.sha256: is missing",
        ),
        (
            '\n[[tokens]]\nprincipal = "b c"\n',
            "3: tokens.0.principal: must be ASCII without spaces",
        ),
        ('[[tokens]]\nsha256 = "abc"\n', "2: tokens.0.sha256: must be 64 hex digits"),
        ('[[tokens]]\nscopes = ["calls:all"]\n', "2: tokens.0.scopes.0: "),
        ("[[tokens]]\nscopes = []\n", "2: tokens.0.scopes: must not be empty"),
        (
            '[[tokens]]\nscopes = ["calls:approve", "calls:read"]\n',
            "2: tokens.0.scopes: calls:approve can't be combined",
        ),
        ("[[tokens]]\nexpires = 2030-01-01\n", "2: tokens.0.expires: must be a time with a time"),
        (
            "[[tokens]]\nexpires = 2030-01-01T00:00:00\n",
            "2: tokens.0.expires: must be a time with a time zone",
        ),
        ('[principals.a]\naccount_sid = "AC1"\n', "2: principals.a.account_sid: must be AC and 32"),
        ("[[token]]\n", "1: token: unknown key"),
        (
            f'[principals.a]\naccount_sid = "{OWN}"\n',
            "1: principals.a: account_sid needs exactly one",
        ),
        (
            '[principals.a]\nauth_token_env = "A"\n',
            "1: principals.a: account_sid needs exactly one",
        ),
        (
            f'[principals.a]\naccount_sid = "{OWN}"\napi_secret_env = "A"\n',
            "1: principals.a: api_key must be given with",
        ),
        ('[principals.a]\nauth_token = "s3cret"\n', "2: principals.a.auth_token: unknown key"),
        (
            f'[principals.a]\naccount_sid = "{OWN}"\nauth_token_env = "NOT_SET"\n',
            "1: principals.a: the variable NOT_SET is missing or empty",
        ),
        (
            f'[principals.a]\naccount_sid = "{OWN}"\nauth_token_file = "none"\n',
            "can't be read: No such file",
        ),
        ('[principals.a]\npolicy = "none.toml"\n', "none.toml: can't be read: No such file"),
        ('[principals."b c"]\n', "1: principals.b c: must be ASCII"),
        ('[principals."Console:b"]\n', "1: principals.Console:b: must not be console or begin"),
    ],
)
def test_a_fault_in_the_principals_file_is_reported_with_its_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = write(tmp_path / "principals.toml", text)
    with pytest.raises(ConfigurationError) as error:
        open_verifier(load_settings(by_tokens(file)))
    assert problem in str(error.value)
    assert str(error.value).startswith(f"{file}:")
    assert "s3cret" not in str(error.value)


def test_a_wrong_policy_does_not_hide_a_missing_secret(tmp_path: Path) -> None:
    entry = (
        f'[principals.a]\naccount_sid = "{OWN}"\nauth_token_env = "NOT_SET"\npolicy = "own.toml"\n'
    )
    write(tmp_path / "own.toml", "[caps]\nrecord = 1\n[twiml]\ninline = 1\n")
    file = write(tmp_path / "principals.toml", entry)
    with pytest.raises(ConfigurationError) as error:
        open_verifier(load_settings(by_tokens(file)))
    assert [
        line.removeprefix(f"{file}:1: principals.a: ") for line in str(error.value).split("\n")
    ] == [
        f"{tmp_path / 'own.toml'}:2: caps.record must be true or false",
        f"{tmp_path / 'own.toml'}:4: twiml.inline must be true or false",
        "the variable NOT_SET is missing or empty",
    ]


def test_with_oauth_tokens_in_the_principals_file_are_rejected(tmp_path: Path) -> None:
    settings = load_settings(
        {
            "calls_mcp_auth": "oauth",
            "calls_mcp_oauth_issuer": "https://issuer.example.com",
            "calls_mcp_resource_url": AUDIENCE,
            "calls_mcp_principals": write(tmp_path / "principals.toml", *BOTH),
        }
    )
    with pytest.raises(ConfigurationError, match=r"\[\[tokens\]\] needs CALLS_MCP_AUTH=tokens"):
        open_verifier(settings)

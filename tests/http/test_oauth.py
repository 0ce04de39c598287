"""Access tokens of an authorization server: which are valid, and how its keys are fetched."""

import base64
import gzip
import hashlib
import hmac
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from starlette.responses import JSONResponse, PlainTextResponse, Response

from calls_mcp.emulator import ManualClock
from calls_mcp.http.oauth import IssuerUnavailable, KeySet
from tests.harness import ERAS, Era, open_harness, placing
from tests.http.issuer import (
    AUDIENCE,
    EC_KEY,
    ED_KEY,
    RSA_KEY,
    Issuer,
    PrivateKey,
    elsewhere,
    issuing,
    public,
)
from tests.http.service import LocalService, Service, challenge, serve_harness
from tests.storage.redis_server import free_port

pytestmark = pytest.mark.anyio

METADATA = "https://calls.example.com/.well-known/oauth-protected-resource/mcp"


@dataclass
class Trusting(LocalService):
    """A service that accepts an issuer's tokens."""

    issuer: Issuer = field(kw_only=True)
    clock: ManualClock = field(kw_only=True)

    async def status(self, token: str | None = None) -> int:
        """Return the status for a request with this token, or a valid one. 400 means accepted."""
        shown = self.issuer.token() if token is None else token
        return (await Service(self.url, shown).post(b"not JSON")).status_code


@asynccontextmanager
async def trusting(issuer: Issuer, **settings: object) -> AsyncGenerator[Trusting]:
    clock = ManualClock(0)
    async with open_harness(sandbox=False, **issuer.settings(**settings)) as harness:
        harness.runtime.monotonic = clock
        async with serve_harness(harness) as at:
            yield Trusting(at.url, harness=harness, server=at.server, issuer=issuer, clock=clock)


@pytest.fixture
async def service() -> AsyncGenerator[Trusting]:
    async with issuing() as issuer, trusting(issuer) as service:
        yield service


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA_KEY, "RS256"), (RSA_KEY, "PS512"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")],
)
async def test_every_kind_of_key_is_supported(
    key: PrivateKey, algorithm: str, service: Trusting
) -> None:
    service.issuer.keys = [public(key, "mine", algorithm)]
    assert await service.status(service.issuer.token(key, algorithm, "mine")) == 400


@pytest.mark.requirement("19")
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"aud": "https://another.example.com/mcp"}, id="for another"),
        pytest.param({"aud": None}, id="for nobody"),
        pytest.param({"aud": [AUDIENCE + "/"]}, id="for almost us"),
        pytest.param({"iss": "https://another.example.com"}, id="from another"),
        pytest.param({"iss": None}, id="from nobody"),
        pytest.param({"exp": int(time.time()) - 60}, id="expired"),
        pytest.param({"exp": None}, id="for ever"),
        pytest.param({"nbf": int(time.time()) + 3600}, id="not yet"),
        pytest.param({"iat": int(time.time()) + 3600}, id="from the future"),
        pytest.param({"sub": None}, id="of nobody"),
        pytest.param({"sub": ""}, id="of an empty name"),
        pytest.param({"sub": "a" * 256}, id="of a long name"),
    ],
)
async def test_a_token_with_a_wrong_claim_is_rejected(
    wrong: dict[str, object], service: Trusting
) -> None:
    assert await service.status() == 400
    assert await service.status(service.issuer.token(claims=wrong)) == 401


@pytest.mark.requirement("19")
async def test_a_token_not_signed_by_the_issuer_is_rejected(service: Trusting) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    head, body, signature = service.issuer.token().split(".")
    forged = base64.urlsafe_b64encode(
        json.dumps(issuer_claims(service.issuer) | {"sub": "root"}).encode()
    ).decode()
    for token in (
        service.issuer.token(stranger),
        service.issuer.token(identifier="another"),
        service.issuer.token(identifier=None),
        f"{head}.{forged.rstrip('=')}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}",
        "a.b.c",
        "[" * 9000,
    ):
        assert await service.status(token) == 401


def issuer_claims(issuer: Issuer) -> dict[str, object]:
    return {"iss": issuer.url, "aud": AUDIENCE, "exp": int(time.time()) + 60}


async def test_the_key_determines_the_algorithm(service: Trusting) -> None:
    pem = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    shared = "shared-secret-that-is-long-enough-for-hmac"
    service.issuer.keys += [
        {"kty": "oct", "kid": "shared", "k": as_base64(shared.encode()), "alg": "HS256"},
        public(EC_KEY, "encrypts", "ES256", use="enc"),
    ]
    for token in (
        unsigned(service.issuer, {"alg": "none", "kid": "rsa"}),
        signed_with(service.issuer, pem),
        service.issuer.token(shared, "HS256", "shared"),
        service.issuer.token(shared, "HS256", "rsa"),
        service.issuer.token(RSA_KEY, "PS256"),
        service.issuer.token(RSA_KEY, "RS512"),
        service.issuer.token(EC_KEY, "ES256", "encrypts"),
    ):
        assert await service.status(token) == 401
    assert await service.status() == 400


def as_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unsigned(issuer: Issuer, header: dict[str, str]) -> str:
    claims = issuer_claims(issuer) | {"sub": "alice"}
    return ".".join([*(as_base64(json.dumps(p).encode()) for p in (header, claims)), ""])


def signed_with(issuer: Issuer, public_key: bytes) -> str:
    """Return a token signed with the public key as if it were an HMAC secret."""
    message = unsigned(issuer, {"alg": "HS256", "kid": "rsa"}).rstrip(".")
    return f"{message}.{as_base64(hmac.digest(public_key, message.encode(), hashlib.sha256))}"


# The keys


async def test_a_new_key_is_accepted_and_a_withdrawn_one_rejected(service: Trusting) -> None:
    assert await service.status() == 400
    service.clock.advance(20)
    service.issuer.keys = [public(EC_KEY, "new", "ES256")]
    assert await service.status(service.issuer.token(EC_KEY, "ES256", "new")) == 400
    assert await service.status() == 401
    assert service.issuer.key_fetches == 2


async def test_concurrent_requests_with_a_new_key_share_one_fetch(
    service: Trusting,
) -> None:
    assert await service.status() == 400
    service.clock.advance(20)
    service.issuer.keys.append(public(EC_KEY, "new", "ES256"))
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append(await service.status(service.issuer.token(EC_KEY, "ES256", "new")))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask)
    assert statuses == [400] * 10
    assert service.issuer.key_fetches == 2


async def test_keys_are_refreshed_after_ten_minutes(service: Trusting) -> None:
    assert await service.status() == 400
    service.issuer.keys = []
    service.clock.advance(599)
    assert await service.status() == 400
    service.clock.advance(1)
    service.issuer.keys = [public(EC_KEY, "new", "ES256")]
    assert await service.status() == 401


async def test_unknown_keys_cause_one_fetch_in_ten_seconds(
    service: Trusting,
) -> None:
    for number in range(20):
        assert await service.status(service.issuer.token(identifier=f"made up {number}")) == 401
    assert service.issuer.key_fetches == 1
    service.clock.advance(10)
    for number in range(20):
        assert await service.status(service.issuer.token(identifier=f"made up {number}")) == 401
    assert service.issuer.key_fetches == 2


FAILURES = [
    Response(status_code=500),
    PlainTextResponse("<html>"),
    PlainTextResponse("[" * 100_000),
    PlainTextResponse('"' + "a" * 2**21 + '"'),
    JSONResponse([1]),
    JSONResponse({"keys": 1}),
    Response(gzip.compress(bytes(2**21), mtime=0), headers={"Content-Encoding": "gzip"}),
    elsewhere("/keys"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: f"{f.status_code} {f.body[:6]!r}")
async def test_while_the_issuer_fails_tokens_get_503_and_the_cause_is_logged(
    failure: Response, service: Trusting, caplog: pytest.LogCaptureFixture
) -> None:
    service.issuer.failure = failure
    answer = await service.of(service.issuer.token()).post(b"{}")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert f"signing keys of the OAuth issuer {service.issuer.url}: " in caplog.text
    assert "CALLS_MCP_OAUTH_ISSUER" in caplog.text
    service.issuer.failure = None
    assert await service.status() == 503
    service.clock.advance(10)
    assert await service.status() == 400


async def test_an_unusable_proxy_makes_the_issuer_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    keys = KeySet("https://issuer.example.com", ManualClock(0))
    with pytest.raises(IssuerUnavailable):
        await keys.key("any")


async def test_keys_stay_valid_for_an_hour_while_the_issuer_fails(service: Trusting) -> None:
    assert await service.status() == 400
    service.issuer.failure = Response(status_code=500)
    service.clock.advance(3599)
    assert await service.status() == 400
    assert await service.status(service.issuer.token(identifier="another")) == 401
    service.clock.advance(1)
    assert await service.status() == 503


@pytest.mark.parametrize(
    ("path", "metadata_path"),
    [
        ("", "/.well-known/oauth-authorization-server"),
        ("", "/.well-known/openid-configuration"),
        ("/tenant", "/.well-known/oauth-authorization-server/tenant"),
        ("/tenant", "/.well-known/openid-configuration/tenant"),
        ("/tenant", "/tenant/.well-known/openid-configuration"),
        ("/", "/.well-known/oauth-authorization-server"),
    ],
)
async def test_the_issuers_metadata_is_discovered(path: str, metadata_path: str) -> None:
    async with issuing(path, metadata_path) as issuer, trusting(issuer) as service:
        assert await service.status() == 400


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": "https://another.example.com"},
        {"jwks_uri": None},
        {"jwks_uri": "http://keys.example.com/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https://[bad"},
    ],
    ids=str,
)
async def test_wrong_issuer_metadata_is_not_used(
    changed: dict[str, object], service: Trusting
) -> None:
    service.issuer.changed = changed
    assert await service.status() == 503
    assert service.issuer.key_fetches == 0


# Discovery


async def test_the_401_and_metadata_say_where_to_get_a_token(service: Trusting) -> None:
    answer = await service.post(b"{}")
    assert answer.status_code == 401
    assert challenge(answer) == {"scope": "calls:read", "resource_metadata": METADATA}
    metadata = (await service.get("/.well-known/oauth-protected-resource/mcp")).json()
    assert metadata["resource"] == AUDIENCE
    assert metadata["authorization_servers"] == [service.issuer.url]
    assert metadata["scopes_supported"] == [  # without calls:approve, because clients ask for all
        "calls:read",
        "calls:place",
        "calls:change",
        "calls:delete",
    ]
    assert metadata["bearer_methods_supported"] == ["header"]


async def test_a_read_only_server_advertises_only_the_read_scope() -> None:
    async with issuing() as issuer, trusting(issuer, calls_mcp_read_only=True) as service:
        metadata = (await service.get("/.well-known/oauth-protected-resource/mcp")).json()
    assert metadata["scopes_supported"] == ["calls:read"]


async def test_the_claims_for_scopes_and_principal_are_configurable() -> None:
    settings: dict[str, Any] = {
        "calls_mcp_oauth_scope_claim": "permissions",
        "calls_mcp_oauth_principal_claim": "email",
        "calls_mcp_oauth_audience": "api://calls",
    }
    async with issuing() as issuer, trusting(issuer, **settings) as service:
        scopes = ["calls:read", "calls:place"]
        claims = {"permissions": scopes, "scope": None, "aud": ["api://calls", "another"]}
        token = issuer.token(claims={**claims, "email": "alice@example.com"})
        async with service.of(token).connect() as alice:
            tools = (await alice.client.list_tools()).tools
            assert [tool.name for tool in tools] == ["create_call", "fetch_call", "list_calls"]
        assert await service.status(issuer.token(claims=claims)) == 401


class Tokens:
    """A client's token storage."""

    def __init__(self) -> None:
        self._token: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self._token

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._token = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("mode", ERAS)
async def test_an_sdk_client_discovers_the_issuer_and_steps_up_its_scopes(
    mode: Era,
) -> None:
    port = free_port()
    resource = f"http://127.0.0.1:{port}/mcp"
    async with issuing() as issuer:
        credentials = ClientCredentialsOAuthProvider(
            resource, Tokens(), "agent", "client-secret", issuer=issuer.url
        )
        settings = issuer.settings(calls_mcp_resource_url=resource, calls_mcp_confirm="none")
        async with (
            open_harness(sandbox=False, **settings) as harness,
            serve_harness(harness, port=port) as service,
            service.connect(mode, auth=credentials) as agent,
        ):
            assert (await agent.call("list_calls"))["count"] == 0
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"
            assert (await agent.call("list_calls"))["count"] == 1
    assert issuer.granted == ["calls:read", "calls:read calls:place"]

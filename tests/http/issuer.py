"""A small authorization server: it publishes keys, signs tokens, and fails on demand."""

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from calls_mcp.http.uvicorn_server import open_socket, run_uvicorn

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

NO_CLAIMS: Mapping[str, object] = {}
AUDIENCE = "https://calls.example.com/mcp"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def public(key: PrivateKey, identifier: str, algorithm: str, **more: object) -> dict[str, Any]:
    """Return the public key as a JWK."""
    match key:
        case rsa.RSAPrivateKey():
            jwk = RSAAlgorithm.to_jwk(key.public_key())
        case ec.EllipticCurvePrivateKey():
            jwk = ECAlgorithm.to_jwk(key.public_key())
        case ed25519.Ed25519PrivateKey():
            jwk = OKPAlgorithm.to_jwk(key.public_key())
    return {**json.loads(jwk), "kid": identifier, "alg": algorithm, "use": "sig", **more}


@dataclass
class Issuer:
    """An issuer. Tests can change what it publishes.

    `asked` has the paths of all requests, and `granted` the scopes of the issued tokens.
    """

    url: str = ""
    path: str = ""
    metadata_path: str = "/.well-known/oauth-authorization-server"
    keys: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    changed: dict[str, object] = field(default_factory=dict[str, object])
    failure: Response | None = None
    asked: list[str] = field(default_factory=list[str])
    granted: list[str] = field(default_factory=list[str])

    def token(
        self,
        key: PrivateKey | str = RSA_KEY,
        algorithm: str = "RS256",
        identifier: str | None = "rsa",
        claims: Mapping[str, object] = NO_CLAIMS,
    ) -> str:
        """Return a token for the server. `claims` override the defaults; None removes a claim."""
        now = int(time.time())
        usual: dict[str, object] = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "client_id": "agent",
            "scope": "calls:read",
            "iat": now,
            "exp": now + 300,
        }
        given = {k: v for k, v in {**usual, **claims}.items() if v is not None}
        headers = {} if identifier is None else {"kid": identifier}
        return jwt.encode(given, key, algorithm, headers)

    def settings(self, **more: object) -> dict[str, Any]:
        """Return the settings of a server that accepts the issuer's tokens, and `more`."""
        return {
            "calls_mcp_auth": "oauth",
            "calls_mcp_oauth_issuer": self.url,
            "calls_mcp_resource_url": AUDIENCE,
            **more,
        }

    @property
    def key_fetches(self) -> int:
        """Return how often the keys were fetched."""
        return self.asked.count("/keys")

    async def answer(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        if self.failure is not None:
            return self.failure
        if request.url.path == "/keys":
            return JSONResponse({"keys": self.keys})
        if request.url.path == self.metadata_path:
            return JSONResponse({**self._metadata(), **self.changed})
        if request.url.path == "/token":
            async with request.form() as form:
                granted = {"scope": str(form["scope"]), "aud": str(form["resource"])}
            self.granted.append(granted["scope"])
            token = self.token(claims=granted)
            return JSONResponse({"access_token": token, "token_type": "Bearer", **granted})
        return Response("no such page", 404)

    def _metadata(self) -> dict[str, object]:
        origin = self.url.removesuffix(self.path)
        return {
            "issuer": self.url,
            "jwks_uri": f"{origin}/keys",
            "authorization_endpoint": f"{origin}/authorize",
            "token_endpoint": f"{origin}/token",
            "response_types_supported": ["code"],
            "grant_types_supported": ["client_credentials"],
        }


def elsewhere(url: str) -> Response:
    """Return a redirect."""
    return RedirectResponse(url)


@asynccontextmanager
async def issuing(path: str = "", metadata_path: str | None = None) -> AsyncGenerator[Issuer]:
    """Start an issuer whose URL has this path, and that publishes an RSA key."""
    issuer = Issuer(path=path, keys=[public(RSA_KEY, "rsa", "RS256")])
    if metadata_path is not None:
        issuer.metadata_path = metadata_path
    app = Starlette(routes=[Route("/{path:path}", issuer.answer, methods=["GET", "POST"])])
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)
    with open_socket("127.0.0.1", 0) as socket:
        async with run_uvicorn(uvicorn.Server(config), socket):
            issuer.url = f"http://127.0.0.1:{socket.getsockname()[1]}{path}"
            yield issuer

"""A little authorization server: it publishes keys, signs tokens with them, and fails on demand."""

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
    """The public part of a key, as an issuer publishes it."""
    match key:
        case rsa.RSAPrivateKey():
            told = RSAAlgorithm.to_jwk(key.public_key())
        case ec.EllipticCurvePrivateKey():
            told = ECAlgorithm.to_jwk(key.public_key())
        case ed25519.Ed25519PrivateKey():
            told = OKPAlgorithm.to_jwk(key.public_key())
    return {**json.loads(told), "kid": identifier, "alg": algorithm, "use": "sig", **more}


@dataclass
class Issuer:
    """What it publishes can be changed.

    `asked` has the paths that were asked for, and `granted` the scopes of the tokens it gave out.
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
        """A token for the server, with `claims` instead of the usual; None leaves one out."""
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
        told = {k: v for k, v in {**usual, **claims}.items() if v is not None}
        headers = {} if identifier is None else {"kid": identifier}
        return jwt.encode(told, key, algorithm, headers)

    def settings(self, **more: object) -> dict[str, Any]:
        """The settings of a server that accepts its tokens, and more."""
        return {
            "calls_mcp_auth": "oauth",
            "calls_mcp_oauth_issuer": self.url,
            "calls_mcp_resource_url": AUDIENCE,
            **more,
        }

    @property
    def key_fetches(self) -> int:
        """How often the keys were asked for."""
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
    """A redirection."""
    return RedirectResponse(url)


@asynccontextmanager
async def issuing(path: str = "", metadata_path: str | None = None) -> AsyncGenerator[Issuer]:
    """An issuer whose URL has this path, and which publishes an RSA key."""
    issuer = Issuer(path=path, keys=[public(RSA_KEY, "rsa", "RS256")])
    if metadata_path is not None:
        issuer.metadata_path = metadata_path
    app = Starlette(routes=[Route("/{path:path}", issuer.answer, methods=["GET", "POST"])])
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)
    with open_socket("127.0.0.1", 0) as socket:
        async with run_uvicorn(uvicorn.Server(config), socket):
            issuer.url = f"http://127.0.0.1:{socket.getsockname()[1]}{path}"
            yield issuer

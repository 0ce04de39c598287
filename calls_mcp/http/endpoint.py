"""Where the server listens, and by which names it may be called."""

import re
from dataclasses import dataclass

from mcp.server.transport_security import TransportSecuritySettings

from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import Settings, is_loopback

_LAST_PORT = 65_535
_PATH = re.compile(r"/|(/[A-Za-z0-9._~-]+)+/?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where clients find the server; with port 0 the system chooses one."""

    host: str = "127.0.0.1"
    port: int = 8080
    path: str = "/mcp"

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The endpoint's URL."""
        return f"http://{self.authority}{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)


def require_protected(endpoint: Endpoint, settings: Settings) -> None:
    """See that nobody comes in whom nobody meant to let in.

    Raises:
        ConfigurationError: Other machines reach the endpoint, and callers or hosts are not checked.
    """
    hosts = settings.http.allowed_hosts.split()
    if not 0 <= endpoint.port <= _LAST_PORT:
        raise ConfigurationError(f"--port must be 0 to {_LAST_PORT}.")
    if not _PATH.fullmatch(endpoint.path) or endpoint.path.strip("/") in ("healthz", "readyz"):
        raise ConfigurationError(
            "--path must begin with /, have plain words only, and be none of /healthz and /readyz."
        )
    if settings.auth.mode == "none" and not (endpoint.is_local and _all_local(hosts)):
        raise ConfigurationError(
            "Others than this machine would reach the server, so callers must be authenticated: "
            "set CALLS_MCP_AUTH to tokens or oauth, or keep to 127.0.0.1 and its own names."
        )
    if not endpoint.is_local and not hosts:
        raise ConfigurationError(
            f"Other machines reach {endpoint.host}, so set CALLS_MCP_ALLOWED_HOSTS to the hosts by "
            "which clients know this server, such as mcp.example.com."
        )


def allowed(endpoint: Endpoint, settings: Settings) -> TransportSecuritySettings:
    """The hosts and origins that a request may name; both are checked in any case."""
    hosts = [*_with_any_port(settings.http.allowed_hosts.split())]
    origins = [f"{scheme}://{host}" for host in hosts for scheme in ("https", "http")]
    if endpoint.is_local:
        own = [f"{name}:{endpoint.port}" for name in ("127.0.0.1", "localhost", "[::1]")]
        own.append(endpoint.authority)
        hosts += own
        origins += [f"http://{host}" for host in own]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


def _all_local(hosts: list[str]) -> bool:
    return all(
        is_loopback(host if host.endswith("]") else host.partition(":")[0]) for host in hosts
    )


def _with_any_port(hosts: list[str]) -> list[str]:
    """A host without a port stands for itself with any."""
    bare = [host for host in hosts if host.endswith("]") or ":" not in host]
    return [*hosts, *(f"{host}:*" for host in bare)]

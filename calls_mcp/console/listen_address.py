"""The address of the console, and the host names and origins that it accepts."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import is_loopback

_DEFAULT_PORT, _MAX_PORT = 80, 65_535


@dataclass(frozen=True, slots=True)
class Address:
    """Where the console listens.

    Attributes:
        port: 0 for any free port.
        public: The https URL of a proxy in front of the console, if there is one.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    public: str = ""

    @property
    def url(self) -> str:
        """The URL that browsers open, without a trailing slash."""
        if self.public:
            return self.public.rstrip("/").removesuffix(":443")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self._local(host)

    @property
    def is_secure(self) -> bool:
        """Whether browsers use https."""
        return self.public.startswith("https://")

    @property
    def origins(self) -> frozenset[str]:
        """The origins of the console's own pages."""
        if self.public:
            return frozenset({self.url})
        others = map(self._local, ("127.0.0.1", "localhost", "[::1]"))
        return frozenset({self.url, *others})

    @property
    def hosts(self) -> frozenset[str]:
        """The values that the Host header can have."""
        return frozenset(urlsplit(origin).netloc for origin in self.origins)

    def _local(self, host: str) -> str:
        """Return a URL the way browsers write it, without the default port."""
        return f"http://{host}" if self.port == _DEFAULT_PORT else f"http://{host}:{self.port}"


def require_safe(address: Address) -> None:
    """Check that browsers reach the console over loopback or https.

    Raises:
        ConfigurationError: They would not, so the session cookie could be stolen, or the address
            is invalid.
    """
    if not 0 <= address.port <= _MAX_PORT:
        raise ConfigurationError(f"A port must be 0 to {_MAX_PORT}.")
    if address.public and not _is_https_origin(address.public):
        raise ConfigurationError("--url must be https://HOST or https://HOST:PORT, without a path.")
    if not address.public and not is_loopback(address.host):
        raise ConfigurationError(
            f"At {address.host}, other machines would reach the console without encryption. "
            "Use 127.0.0.1, or put an https proxy in front of the console and set "
            "CALLS_MCP_CONSOLE_URL to its URL."
        )


def _is_https_origin(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    rest = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    is_plain = url.isascii() and url == url.lower() and port != 0
    return parts.scheme == "https" and bool(parts.hostname) and is_plain and not rest

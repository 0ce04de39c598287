"""Where the console is, and by which names browsers may call it."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import is_loopback

_USUAL_PORT, _LAST_PORT = 80, 65_535


@dataclass(frozen=True, slots=True)
class Address:
    """Where the console listens; `public` is the https URL of a proxy before it, if any.

    With port 0 the system chooses one.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    public: str = ""

    @property
    def url(self) -> str:
        """The address that is told to people, without a slash at its end."""
        if self.public:
            return self.public.rstrip("/").removesuffix(":443")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self._local(host)

    @property
    def is_secure(self) -> bool:
        """Whether browsers come by https."""
        return self.public.startswith("https://")

    @property
    def origins(self) -> frozenset[str]:
        """The origins that its own pages have."""
        if self.public:
            return frozenset({self.url})
        others = map(self._local, ("127.0.0.1", "localhost", "[::1]"))
        return frozenset({self.url, *others})

    @property
    def hosts(self) -> frozenset[str]:
        """What a request may name as its host."""
        return frozenset(urlsplit(origin).netloc for origin in self.origins)

    def _local(self, host: str) -> str:
        """As browsers write it: without the port that is meant anyway."""
        return f"http://{host}" if self.port == _USUAL_PORT else f"http://{host}:{self.port}"


def require_safe(address: Address) -> None:
    """See that nobody on the way can read or change what is shown and decided.

    Raises:
        ConfigurationError: Somebody could.
    """
    if not 0 <= address.port <= _LAST_PORT:
        raise ConfigurationError(f"--port must be 0 to {_LAST_PORT}.")
    if address.public and not _is_https_origin(address.public):
        raise ConfigurationError("--url must be https://HOST or https://HOST:PORT, and no more.")
    if not address.public and not is_loopback(address.host):
        raise ConfigurationError(
            f"Other machines reach {address.host}, and what they send could be read on its way: "
            "keep to 127.0.0.1, or put a proxy that speaks https before it and give its URL as "
            "CALLS_MCP_CONSOLE_URL or --url."
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

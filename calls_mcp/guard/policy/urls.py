"""Rules about URLs that the API will request."""

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from calls_mcp.guard.policy.destinations import matches_any
from calls_mcp.guard.policy.rules import Objection, Urls
from calls_mcp.observability.redaction import quoted

_HOST = re.compile(r"[a-z0-9._-]+")
_NUMERIC_LABEL = re.compile(r"0x[0-9a-f]*|[0-9]+")

# Names that no public DNS has: RFC 6761, RFC 6762 (appendix G), RFC 8375, and those of clusters.
_LOCAL_NAMES = frozenset(
    {"arpa", "corp", "home", "internal", "intranet", "lan", "local", "localdomain", "localhost"}
    | {"private", "svc"}
)
_IPV6_UNICAST = ip_network("2000::/3")
# Translated and documentation addresses, and metadata services at public addresses.
_NOT_PUBLIC = tuple(map(ip_network, ("2002::/16", "3fff::/20", "192.0.0.0/24", "168.63.129.16/32")))

_SECURE = {"http": "an https", "ws": "a wss"}
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]*)(:[0-9]*)?")
_PRINTABLE = re.compile(r"[!-~]+")

_HOSTS = "Use a URL on an allowed host, or ask the operator to allow this one."


def object_to_url(
    rules: Urls, name: str, url: str, scheme: Literal["http", "ws"] = "http"
) -> Iterator[Objection]:
    """Yield the objections of `rules` to `url` in the argument `name`.

    The URL must have this `scheme` or its secure variant (https or wss).
    """
    if danger := _danger(url, scheme):
        hint = f"Use {_SECURE[scheme]} URL on a public host. No setting allows this one."
        yield Objection("urls.always", f"{name} is a URL {danger}", hint)
        return
    if rules.https_only and not url.lower().startswith(f"{scheme}s:"):
        hint = f"Use {_SECURE[scheme]} URL, or ask the operator to allow unencrypted ones."
        yield Objection("urls.https_only", f"{name} is not {_SECURE[scheme]} URL", hint)
    if not matches_any(map(str.lower, rules.hosts), host := _host(urlsplit(url))):
        reason = f"{name} is a URL on {quoted(host)}, which is not an allowed host"
        yield Objection("urls.hosts", reason, _HOSTS)


def _danger(url: str, scheme: str) -> str | None:
    """Return why `url` is refused whatever the policy says; None if it is not."""
    if "\\" in url or not _PRINTABLE.fullmatch(url):
        return "with characters that can hide its host"
    if not url.lower().startswith((f"{scheme}://", f"{scheme}s://")):
        return f"that does not begin with {scheme}s://"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "that can't be parsed"
    if "@" in parts.netloc:
        return "with a user name or password"
    if port == 0:
        return "with port 0"
    return _doubt(_host(parts))


def _host(url: SplitResult) -> str:
    """Return the host, empty if `urlsplit` would skip something around the brackets of IPv6."""
    if not _AUTHORITY.fullmatch(url.netloc):
        return ""
    return (url.hostname or "").removesuffix(".")


def _doubt(host: str) -> str | None:
    if ":" not in host and not _HOST.fullmatch(host):
        return "whose host has characters other than ASCII letters, digits, dots and hyphens"
    labels = host.split(".")
    if "" in labels:
        return "whose host has an empty label"
    if ":" in host or _NUMERIC_LABEL.fullmatch(labels[-1]):
        return None if _is_public(host) else "whose host is not a public internet address"
    if len(labels) == 1 or labels[-1] in _LOCAL_NAMES:
        return "whose host is this machine or on a private network"
    return None


def _is_public(host: str) -> bool:
    """Return whether `host` is a public address in its usual spelling (not 127.1)."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if any(address in network for network in _NOT_PUBLIC) or address.is_multicast:
        return False
    return address.is_global and (isinstance(address, IPv4Address) or address in _IPV6_UNICAST)

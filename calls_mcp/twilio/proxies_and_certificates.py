"""The proxy and the certificates that the environment names for a URL."""

import os
import ssl
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import is_loopback


def named_certificates() -> ssl.SSLContext | None:
    """Load the named certificates, if any. An empty variable counts as unset.

    Raises:
        ConfigurationError: They can't be used.
    """
    file, folder = os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None
    if not (file or folder):
        return None
    try:
        return ssl.create_default_context(cafile=file, capath=folder)
    except OSError as unusable:  # includes SSLError
        raise ConfigurationError(
            "SSL_CERT_FILE or SSL_CERT_DIR has no usable certificates: "
            f"{unusable.strerror or 'not in PEM format'}."
        ) from unusable


def named_proxy(url: str) -> str | None:
    """Return the proxy for `url`. httpx would refuse ALL_PROXY=socks5://… even if unused."""
    parts = urlsplit(url)
    if is_loopback(parts.hostname) or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    named = proxies.get(parts.scheme) or proxies.get("all")
    return named if not named or "://" in named else f"http://{named}"

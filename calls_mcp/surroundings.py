"""What of the environment decides how the API is reached: certificates and proxies."""

import os
import re
import ssl
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi

from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import Access

_PROXY = re.compile(
    r"https?://([^\s/?#@[\]]*@)?([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^@]*)?",
    re.IGNORECASE | re.ASCII,
)
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def require_usable(access: Access) -> None:
    """Do nothing if what the environment names can be used.

    Raises:
        ConfigurationError: It can't.
    """
    proxy(access)
    if any(os.environ.get(name) for name in _CERTIFICATES):
        certificates(access)


def certificates(access: Access) -> ssl.SSLContext | bool:
    """What the API's certificate is checked by: what SSL_CERT_FILE or SSL_CERT_DIR name, if set.

    Raises:
        ConfigurationError: They name nothing that can be used.
    """
    if urlsplit(access.base_url).scheme != "https":
        return True
    file, folder = os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None
    bundle = file or (None if folder else certifi.where())
    try:
        return ssl.create_default_context(cafile=bundle, capath=folder)
    except OSError as unusable:  # so are its SSLErrors
        raise ConfigurationError(
            "SSL_CERT_FILE or SSL_CERT_DIR names no certificates that can be used: "
            f"{unusable.strerror or 'not in PEM format'}."
        ) from unusable


def proxy(access: Access) -> str | None:
    """The proxy that the environment names for the API, if any.

    Raises:
        ConfigurationError: It is none that can be used.
    """
    url = urlsplit(access.base_url)
    if access.is_local or proxy_bypass(url.netloc):
        return None
    proxies = getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if not named:
        return None
    whole = named if "://" in named else f"http://{named}"
    if not _is_proxy(whole):
        raise ConfigurationError(
            "HTTPS_PROXY or ALL_PROXY names a proxy that is not http://HOST:PORT; others, such as "
            "SOCKS, are not supported. NO_PROXY=api.twilio.com goes without one."
        )
    return whole


def _is_proxy(url: str) -> bool:
    """Whether it can be read in one way only: what is no sign of a URL must be encoded in it."""
    try:
        has_port = urlsplit(url).port != 0
        unquote(url).encode("latin-1")  # as a proxy gets a name and a password
    except ValueError:  # whose text repeats the URL
        return False
    return has_port and bool(_PROXY.fullmatch(url))

"""HTTP without TLS."""

import ssl

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For a client's `verify`: the default is to load all CA certificates, which takes 20 ms."""

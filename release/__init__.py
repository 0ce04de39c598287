"""A release: a wheel, an sdist, an MCP bundle and an entry for the MCP registry."""

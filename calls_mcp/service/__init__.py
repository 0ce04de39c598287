"""One tool call from end to end: the request path, lists, and the wiring of a server."""

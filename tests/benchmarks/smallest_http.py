"""The same smallest server over HTTP."""

import sys

import uvicorn

from tests.benchmarks.smallest import build_server


def serve(port: int) -> None:
    """Serve at /mcp on this port."""
    uvicorn.run(build_server().streamable_http_app(), port=port, log_level="warning")


if __name__ == "__main__":
    serve(int(sys.argv[1]))

"""A web server in a thread, for what is requested from tests."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qsl


class QuietHandler(BaseHTTPRequestHandler):
    """Logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        del format, args

    def form(self) -> dict[str, str]:
        """Read the form in the body."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        return dict(parse_qsl(body, keep_blank_values=True))


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # as of other web servers, instead of 5


@contextmanager
def listening(handler: Callable[..., BaseHTTPRequestHandler]) -> Generator[str]:
    """Serve while the context is open. Yield the URL, such as `http://127.0.0.1:40123`."""
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()

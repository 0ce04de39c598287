"""A web server that receives status callbacks."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Queue
from urllib.parse import parse_qsl, urlsplit

from twilio.request_validator import RequestValidator

from tests.web_server import QuietHandler, listening

PATIENCE = 30  # seconds


@dataclass(frozen=True)
class Received:
    method: str
    url: str
    form: dict[str, str]
    signature: str
    token: str
    authorization: str | None = None

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query))

    def is_signed_with(self, auth_token: str) -> bool:
        validator = RequestValidator(auth_token)
        return validator.validate(self.url, self.form, self.signature) is True  # pyright: ignore[reportUnknownMemberType] - untyped


@dataclass
class Receiver:
    """Responds with each of the statuses in turn, then always with 204."""

    url: str
    statuses: list[int] = field(default_factory=list[int])
    received: "Queue[Received]" = field(default_factory=Queue["Received"])

    def take(self, count: int) -> Sequence[Received]:
        """Wait for this many callbacks."""
        return [self.received.get(timeout=PATIENCE) for _ in range(count)]

    def statuses_of(self, count: int) -> list[str]:
        return [each.form["CallStatus"] for each in self.take(count)]


@contextmanager
def receiving() -> Generator[Receiver]:
    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802 - its name there
            base = receiver.url.removesuffix("/status")
            receiver.received.put(
                Received(
                    self.command,
                    base + self.path,
                    self.form(),
                    self.headers["X-Twilio-Signature"],
                    self.headers["I-Twilio-Idempotency-Token"],
                    self.headers["Authorization"],
                )
            )
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - its name there

    with listening(Handler) as url:
        receiver = Receiver(f"{url}/status")
        yield receiver

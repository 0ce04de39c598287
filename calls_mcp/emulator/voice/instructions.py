"""Where the instructions of a call come from: the TwiML of a request, or an application."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Literal
from urllib.parse import urljoin, urlsplit

from calls_mcp.emulator.voice.twiml import Element, InstructionError, parse
from calls_mcp.emulator.webhooks import Reply

INVALID_URL = 11100
HTTP_FAILURE = 11200
CONNECTION_FAILURE = 11205
WRONG_CONTENT_TYPE = 12300
_TWIML_TYPES = frozenset({"text/xml", "application/xml", "text/html"})

Method = Literal["GET", "POST"]


@dataclass(frozen=True)
class Instructions:
    """Where the next document comes from.

    Attributes:
        url: The URL of the document, empty if it came with the request.
        twiml: The document itself.
        method: The HTTP method.
        parameters: What is sent in addition to the parameters of the call.
    """

    url: str = ""
    twiml: str | None = None
    method: Method = "POST"
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])

    def resolved(self, base: str) -> "Instructions":
        """Return these instructions with an absolute URL, or raise InstructionError."""
        return replace(self, url=absolute(self.url, base))


def absolute(url: str, base: str) -> str:
    """Return the URL that is relative to that of a document.

    Raises:
        InstructionError: It is invalid, or the document has no URL.
    """
    try:
        resolved = urljoin(base, url)
        parts = urlsplit(resolved)
        if parts.netloc and parts.port != 0:  # which fails above 65535
            return resolved
    except ValueError as error:
        raise InstructionError(INVALID_URL, f"The URL {url!r} is invalid: {error}.", url) from error
    message = f"The URL {url!r} is relative" if url else "An action is missing"
    message += ", and the document has no URL, because it came with the request."
    raise InstructionError(INVALID_URL, message, url)


@dataclass(frozen=True)
class Fetched:
    """The reply to a request for a document.

    Attributes:
        number: The number of the request.
        reply: The reply.
    """

    number: int
    reply: Reply

    def document(self, url: str) -> tuple[Element, ...]:
        """Return the verbs of the document at this URL.

        Raises:
            InstructionError: There is no document, or it is invalid.
        """
        status, content_type, body, failure, *_ = self.reply
        content_type = content_type.partition(";")[0].strip().lower()
        if status is None:
            raise InstructionError(CONNECTION_FAILURE, f"{failure[:1].upper()}{failure[1:]}.", url)
        if status >= HTTPStatus.BAD_REQUEST:
            raise InstructionError(HTTP_FAILURE, f"The response has status {status}.", url)
        if content_type.startswith("audio/"):
            return (Element("Play", text=url),)
        if content_type == "text/plain":
            return (Element("Say", text=" ".join(body.decode(errors="replace").split())),)
        if content_type not in _TWIML_TYPES:
            message = f"The content type is {content_type or 'missing'}."
            raise InstructionError(WRONG_CONTENT_TYPE, message, url)
        try:
            return parse(body)
        except InstructionError as error:
            raise InstructionError(error.code, error.message, url) from error

"""Where the instructions of a call come from: the TwiML of a request, or an application."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from itertools import count
from typing import Literal
from urllib.parse import urljoin, urlsplit

from calls_mcp.emulator.call_store import CallStore
from calls_mcp.emulator.voice.twiml_elements import Element, InstructionError, parse
from calls_mcp.emulator.webhooks import Cookies, Reply, Webhooks

INVALID_URL = 11100
HTTP_FAILURE = 11200
CONNECTION_FAILURE = 11205
WRONG_CONTENT_TYPE = 12300
CONCURRENCY = 32
"""How many documents are requested at once. Small web servers refuse hundreds of connections."""

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
    """Return a URL in a document as an absolute one; `base` is the document's URL.

    Raises:
        InstructionError: It is invalid, or it is relative and the document has no URL.
    """
    try:
        resolved = urljoin(base, url)
        parts = urlsplit(resolved)
        if parts.netloc and parts.port != 0:  # `port` raises above 65535
            return resolved
    except ValueError as error:
        raise InstructionError(INVALID_URL, f'The URL "{url}" is invalid.', url) from error
    message = f'The URL "{url}" is relative' if url else "An action is missing"
    message += ", and the document has no URL, because it came with the request."
    raise InstructionError(INVALID_URL, message, url)


@dataclass(frozen=True)
class Fetched:
    """The reply to a request for a document.

    Attributes:
        instructions: What was requested.
        reply: The reply.
    """

    instructions: Instructions
    reply: Reply

    @property
    def url(self) -> str:
        """The URL of the document, after redirections."""
        return self.reply.url or self.instructions.url

    @property
    def outcome(self) -> Mapping[str, str]:
        """What the transcript says about the request."""
        status = self.reply.failure or str(self.reply.status)
        return {"method": self.instructions.method, "status": status}

    def document(self) -> tuple[Element, ...]:
        """Return the verbs of the document.

        Raises:
            InstructionError: There is no document, or it is invalid.
        """
        url = self.url
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


class Documents:
    """Requests documents, which arrive in the order of their responses.

    `arrived` is called in a transaction of the store, with the call's SID.
    """

    def __init__(
        self, webhooks: Webhooks, store: CallStore, arrived: Callable[[str, Fetched], None]
    ) -> None:
        self._webhooks = webhooks
        self._store = store
        self._arrived = arrived
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = count(1)
        self._pending: set[int] = set()
        self._idle = asyncio.Event()
        self._connections = asyncio.Semaphore(CONCURRENCY)

    def fetch(
        self, sid: str, instructions: Instructions, form: Mapping[str, str], cookies: Cookies
    ) -> None:
        """Request a document for a call, from any thread."""
        number = next(self._numbers)
        self._pending.add(number)
        receive = partial(self._receive, number, sid, instructions, form, cookies)
        self._loop.call_soon_threadsafe(self._start, receive)

    async def settle(self) -> None:
        """Wait until no document is being fetched."""
        while True:
            with self._store.transaction():
                if not self._pending:
                    return
                self._idle.clear()
            await self._idle.wait()

    async def cancel(self) -> None:
        """Cancel all requests."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, receive: Callable[[], Coroutine[None, None, None]]) -> None:
        task = asyncio.create_task(receive())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _receive(
        self,
        number: int,
        sid: str,
        instructions: Instructions,
        form: Mapping[str, str],
        cookies: Cookies,
    ) -> None:
        method, url, token = instructions.method, instructions.url, f"{sid}/{number}"
        try:
            async with self._connections:
                reply = await self._webhooks.send(
                    method, url, {**form, **instructions.parameters}, token, cookies
                )
            with self._store.transaction():
                self._arrived(sid, Fetched(instructions, reply))
        finally:
            self._pending.discard(number)
            if not self._pending:
                self._idle.set()
            with self._store.transaction():  # opening it handles what has arrived
                pass

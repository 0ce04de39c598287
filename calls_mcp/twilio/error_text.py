"""The message in the body of an unsuccessful response, which may come from a proxy."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from html.parser import HTMLParser
from typing import cast

from calls_mcp.observability.redaction import one_line

_MOST_READ = 8192  # bytes of a text, and characters of a message
_NOT_SHOWN = frozenset({"script", "style", "template", "noscript"})


def message_in(payload: object, body: bytes) -> str:
    """Return the message on one line, or an empty string. `payload` is the JSON in `body`, if any.

    JSON has Twilio's `message`, or the `title` and `detail` of RFC 9457. Other bodies are plain
    text or HTML.
    """
    if isinstance(payload, dict):
        fields = cast("Mapping[str, object]", payload)
        words = _text(fields.get("message"))
        return words or _joined(": ", (_text(fields.get(name)) for name in ("title", "detail")))
    if payload is not None or body == b"null":
        return ""
    text = body[:_MOST_READ].decode(errors="replace").rstrip("\ufffd")
    if "<" in text:
        return _Page.text_of(text)
    return "" if "\ufffd" in text or "\0" in text else _text(text)


def _text(value: object) -> str:
    return one_line(value, _MOST_READ) if isinstance(value, str) else ""


def _joined(separator: str, texts: Iterable[str]) -> str:
    """Return the texts without repetitions, such as the title of a page and its heading."""
    return separator.join(dict.fromkeys(text for text in texts if text))


class _Page(HTMLParser):
    """Collects the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []
        self._not_shown = ""

    @classmethod
    def text_of(cls, page: str) -> str:
        """Return the text on one line. A tag that is cut off at the end is not shown."""
        parser = cls()
        with suppress(AssertionError):  # older Pythons raise it for `<![x]>`
            parser.feed(page)
        return _joined(" ", map(_text, parser._texts))

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self._not_shown = self._not_shown or (tag if tag in _NOT_SHOWN else "")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._not_shown:
            self._not_shown = ""

    def handle_data(self, data: str) -> None:
        if not self._not_shown:
            self._texts.append(data)

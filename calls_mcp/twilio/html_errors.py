"""The text of an HTML error page, such as a proxy's."""

from collections.abc import Sequence
from contextlib import suppress
from html.parser import HTMLParser

_NOT_SHOWN = frozenset({"script", "style", "template", "noscript"})


def texts_in(page: str) -> Sequence[str]:
    """Return the pieces of text that a page shows, without a tag that is cut off at the end."""
    parser = _Parser()
    with suppress(AssertionError):  # older Pythons raise it for `<![x]>`
        parser.feed(page)
    return parser.texts


class _Parser(HTMLParser):
    """Collects the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._not_shown = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self._not_shown = self._not_shown or (tag if tag in _NOT_SHOWN else "")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._not_shown:
            self._not_shown = ""

    def handle_data(self, data: str) -> None:
        if not self._not_shown:
            self.texts.append(data)

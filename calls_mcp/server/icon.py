"""The server's icon: a receiver, drawn for light and for dark."""

from base64 import b64encode

from mcp_types import Icon

_DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path fill="{}" d="M6 3l4 1 1 5-2 '
    '2q2 3 5 5l2-2 5 1 1 4-3 2Q5 20 4 6z"/></svg>'
)


def icons() -> list[Icon]:
    """The icon for either theme; it is told whenever a client asks who serves, so it is small."""
    return [
        Icon(src=_source("#145"), mime_type="image/svg+xml", sizes=["any"], theme="light"),
        Icon(src=_source("#8df"), mime_type="image/svg+xml", sizes=["any"], theme="dark"),
    ]


def _source(colour: str) -> str:
    drawing = _DRAWING.format(colour).encode()
    return f"data:image/svg+xml;base64,{b64encode(drawing).decode()}"

"""Files to download: JSON Lines, and CSV that spreadsheets never run as formulas."""

import csv
import io
import json
import re
from collections.abc import AsyncIterable, Iterable, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse

from calls_mcp.tools.catalog import Json

# Spreadsheets may split a cell at separators other than the comma that we write.
_FORMULA = re.compile(r"""(^|[,;|\t\r\n])([\s"]*)(?=[=+\-@＝＋－＠])""")  # noqa: RUF001


_MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}


def is_csv(request: Request) -> bool:
    """Return whether a request wants CSV, not JSON Lines.

    Raises:
        HTTPException: It wants another format (404).
    """
    name = request.path_params["format"]
    if name not in _MEDIA_TYPES:
        raise HTTPException(404, "Export as export.jsonl or export.csv.")
    return name == "csv"


def download(
    request: Request, name: str, lines: Iterable[bytes] | AsyncIterable[bytes]
) -> StreamingResponse:
    """Return a file of lines, in the requested format."""
    extension = request.path_params["format"]
    headers = {"Content-Disposition": f'attachment; filename="{name}.{extension}"'}
    return StreamingResponse(lines, media_type=_MEDIA_TYPES[extension], headers=headers)


def csv_row(values: Sequence[Json]) -> bytes:
    """Return a line of CSV that spreadsheets never run as a formula."""
    text = io.StringIO()
    csv.writer(text).writerow(map(_csv_cell, values))
    return text.getvalue().encode(errors="replace")


def _csv_cell(value: Json) -> str:
    if value is None or isinstance(value, int | float):
        return "" if value is None else json.dumps(value)
    text = value if isinstance(value, str) else json.dumps(value)
    return _FORMULA.sub(r"\1\2'", text)

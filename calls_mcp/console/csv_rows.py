"""Rows of CSV that spreadsheets never run as formulas."""

import csv
import io
import json
import re
from collections.abc import Sequence

from calls_mcp.tools.catalog import Json

# Spreadsheets may split a cell at another separator than the comma that we write.
_FORMULA = re.compile(r"""(^|[,;|\t\r\n])([\s"]*)(?=[=+\-@＝＋－＠])""")  # noqa: RUF001


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

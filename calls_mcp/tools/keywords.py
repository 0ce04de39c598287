"""The JSON Schema keywords of `config/`. A library for all of JSON Schema takes 30 ms to load."""

import re
from collections.abc import Callable, Mapping
from operator import ge, le
from typing import Any
from urllib.parse import urlsplit

from calls_mcp.tools.catalog import Json, Schema
from calls_mcp.tools.list_filters import utc


def satisfies(value: Json, schema: Schema) -> bool:
    """Return whether `value` has the type of `schema`, if it names one, and satisfies the rest.

    Without a type in `schema`, `value` must have one to which the keywords apply.
    """
    kind = schema.get("type")
    has_type = kind is None or _TYPES[str(kind)](value)
    return has_type and all(_KEYWORDS[name](value, limit) for name, limit in schema.items())


def _is_integer(value: Json) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list_of_texts(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _has_no_duplicates(items: list[str], _: bool) -> bool:  # noqa: FBT001
    return len(set(items)) == len(items)


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return bool(url.hostname) and url.port != 0 and "\\" not in text
    except ValueError:
        return False


def _is_date_or_time(text: str) -> bool:
    try:
        return bool(utc(text))
    except (ValueError, OverflowError):
        return False


_TYPES: Mapping[str, Callable[[Json], bool]] = {
    "array": _is_list_of_texts,
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "string": lambda value: isinstance(value, str),
}
_FORMATS: Mapping[str, Callable[[str], bool]] = {
    "date-or-time": _is_date_or_time,
    "http-url": _is_http_url,
}
_KEYWORDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "default": lambda _value, _default: True,
    "enum": lambda value, choices: value in choices,
    "format": lambda text, name: _FORMATS[name](text),
    "items": lambda items, schema: all(satisfies(item, schema) for item in items),
    "maximum": le,
    "maxLength": lambda text, most: len(text) <= most,
    "minimum": ge,
    "minItems": lambda items, least: len(items) >= least,
    "minLength": lambda text, least: len(text) >= least,
    "not": lambda value, schema: not satisfies(value, schema),
    "pattern": lambda text, pattern: re.search(pattern, text) is not None,
    "type": lambda _value, _type: True,
    "uniqueItems": _has_no_duplicates,
}

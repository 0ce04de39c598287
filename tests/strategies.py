"""The vendor's reference, and arguments generated from it: valid, invalid and absurd ones.

Nothing here comes from the catalog, so that it can contradict it.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Required, TypedDict, cast
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from calls_mcp.emulator import LoggedRequest
from tests.generate import Definition, InputSchema, Property
from tests.harness import ACCOUNT, CALLER, TALKS_FOR_AN_HOUR, TWIML
from tests.untrusted_text import IGNORABLE

SID = "CA" + "0" * 32

Arguments = dict[str, object]
Sent = dict[str, list[str]]

DocumentedParameter = TypedDict(  # this form, since "in" is a Python keyword
    "DocumentedParameter",
    {
        "wire": Required[str],
        "in": Required[Literal["path", "query", "form", "local"]],
        "type": Required[Literal["string", "integer", "boolean", "array"]],
        "required": bool,
        "prefix": str,
        "enum": list[str],
        "items_enum": list[str],
        "minimum": int,
        "maximum": int,
        "max_length": int,
        "default": object,
    },
    total=False,
)


class DocumentedRule(TypedDict, total=False):
    """A rule of the reference about several parameters."""

    rule: Required[str]
    parameters: Required[list[str]]
    given: str
    kind: str


class DocumentedTool(TypedDict):
    """An operation in the reference."""

    method: str
    path: str
    parameters: dict[str, DocumentedParameter]
    rules: list[DocumentedRule]


DOCUMENTED = cast(
    "dict[str, DocumentedTool]",
    json.loads((Path(__file__).parent / "documented.json").read_text("utf-8")),
)
TOOLS = tuple(DOCUMENTED)
PARAMETERS = [(tool, name) for tool in TOOLS for name in DOCUMENTED[tool]["parameters"]]

BASES: Mapping[str, Mapping[str, object]] = {
    "create_call": {"to": TALKS_FOR_AN_HOUR, "from": CALLER, "twiml": TWIML},
    "delete_call": {"sid": SID},
    "fetch_call": {"sid": SID},
    "list_calls": {},
    "update_call": {"sid": SID, "status": "completed"},
}
"""For each tool, arguments that are enough."""

_INSTRUCTIONS = ("url", "twiml", "application_sid")
_CHANGES = ("status", "url", "twiml", "time_limit", "fallback_url", "status_callback")


@dataclass(frozen=True)
class Sending:
    """What is sent to the API: values by key, in order."""

    method: str
    path: str
    query: Sent
    form: Sent


def expected_sending(tool: str, arguments: Mapping[str, object]) -> Sending:
    """Return what must be sent for these arguments, according to the reference."""
    documented = DOCUMENTED[tool]
    places: dict[str, Sent] = {"query": {}, "form": {}, "path": {"AccountSid": [ACCOUNT]}}
    for name, value in arguments.items():
        parameter = documented["parameters"].get(name)
        if parameter is not None and parameter["in"] != "local" and not is_empty(value):
            items = cast("list[object]", value) if isinstance(value, list) else [value]
            texts = [*map(wire_text, items)]
            if parameter["wire"] in ("StartTime", "EndTime"):  # of which only the date counts
                texts = [text[:10] for text in texts]
            places[parameter["in"]][parameter["wire"]] = texts
    if say := arguments.get("say"):
        said = escape(str(say), {"\r": "&#13;"})
        places["form"]["Twiml"] = [f"<Response><Say>{said}</Say></Response>"]
    segments = {wire: texts[0] for wire, texts in places["path"].items()}
    path = documented["path"].format_map(segments)
    return Sending(documented["method"], path, places["query"], places["form"])


def is_empty(value: object) -> bool:
    """Return whether a value means that an optional argument is not given."""
    return value in (None, "", [])


def sending(entry: LoggedRequest) -> Sending:
    """Return what was sent, according to the emulator's request log."""
    query = parse_qsl(entry.query, keep_blank_values=True, strict_parsing=bool(entry.query))
    return Sending(entry.method, entry.path, _grouped(query), _grouped(entry.form))


def _grouped(pairs: Iterable[tuple[str, str]]) -> Sent:
    grouped: Sent = {}
    for key, text in pairs:
        grouped.setdefault(key, []).append(text)
    return grouped


def wire_text(value: object) -> str:
    """Return a value as the API spells it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) else str(value)


# Valid arguments, from the reference

_TEXTS = {
    "to": "+15005550100",
    "from": "+15005550100",
    "caller_id": "client:reception",
    "send_digits": "ww1#*",
    "twiml": "<Response><Hangup/></Response>",
}


def sample(tool: str, name: str) -> object:
    """Return a value that the reference allows and that is not the default."""
    parameter = DOCUMENTED[tool]["parameters"][name]
    if "enum" in parameter:
        return next(choice for choice in parameter["enum"] if choice != parameter.get("default"))
    if "items_enum" in parameter:
        return parameter["items_enum"][:2]
    if parameter["type"] == "integer":
        return parameter.get("maximum", 77)
    return True if parameter["type"] == "boolean" else _sample_text(name, parameter)


def _sample_text(name: str, parameter: DocumentedParameter) -> str:
    if "prefix" in parameter:
        return ACCOUNT if name == "account_sid" else parameter["prefix"] + "a1B2" * 8
    if is_url(name):
        return "https://example.com/path?a=1&b=2#c"
    return "2026-01-31" if is_date(name) else _TEXTS.get(name, "some text")


_hex = st.text("0123456789abcdefABCDEF", min_size=32, max_size=32)
_number = st.from_regex(r"\+1617555[0-9]{4}|\+4930[1-9][0-9]{6}", fullmatch=True)
# The policy refuses a + with digits, 112, 911 and 999 in a user, which a gateway may dial, and
# hosts without a name.
_sip = st.from_regex(
    r"sips?:[a-z]([02-8]?[a-z._-]){0,10}@[a-z0-9-]{1,9}(\.[a-z0-9-]{1,9}){0,2}\.?", fullmatch=True
)
_listed = st.sampled_from(
    ["anonymous", "Jack", "40404", "whatsapp:+15005550006", "alice@example.com", "東京 7"]
)
_user = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
_client = st.from_regex(r"client:[!-~]{1,30}", fullmatch=True)
_sim = _hex.map("sim:DE".__add__)
_BLANK = "\u2800" + "".join(chr(each) for some in IGNORABLE for each in some)
_plain = st.characters(exclude_categories=("C", "Zl", "Zp"), exclude_characters=_BLANK)
_text = st.text(_plain, min_size=1, max_size=80)
_url = st.from_regex(
    r"https?://[a-z0-9]{1,12}(\.[a-z]{2,6}){1,2}(:80|:8443)?(/[a-z0-9._~%+-]{0,8}){0,3}"
    r"(\?[a-zA-Z0-9=&%+_-]{0,20})?(#[a-z]{0,5})?",
    fullmatch=True,
)
_date = st.dates().map(str)
_moment = st.datetimes().map(lambda when: when.replace(microsecond=0).isoformat() + "Z")


def right_value(tool: str, name: str) -> st.SearchStrategy[object]:
    """Draw a value that the reference allows."""
    parameter = DOCUMENTED[tool]["parameters"][name]
    if "enum" in parameter:
        return st.sampled_from(parameter["enum"])
    if "items_enum" in parameter:
        return st.lists(st.sampled_from(parameter["items_enum"]), min_size=1, unique=True)
    if "prefix" in parameter:
        return _hex.map(parameter["prefix"].__add__)
    if parameter["type"] == "boolean":
        return st.booleans()
    if parameter["type"] == "integer":
        whole = st.integers(parameter.get("minimum", 1), parameter.get("maximum", 1000))
        return whole | whole.map(float)
    return _right_text(tool, name)


def _right_text(tool: str, name: str) -> st.SearchStrategy[object]:
    if is_url(name):
        return _url
    if is_date(name):
        return _date | _moment
    if name in ("to", "from", "caller_id"):
        return _right_party(tool, name)
    if name == "send_digits":
        return st.text("0123456789ABCD#*wW", min_size=1, max_size=32)
    if name == "twiml":
        said = st.text(_plain | st.sampled_from("\t\r\n&=+#<>"), min_size=1, max_size=200)
        return said.map(lambda text: f"<Response><Say>{escape(text)}</Say></Response>")
    return _text


def _right_party(tool: str, name: str) -> st.SearchStrategy[object]:
    if tool == "list_calls":
        return _number | _sip | _client | _sim | _listed
    if name == "from":
        return _number | _client.filter(lambda text: "@" not in text) | _user
    return _number | _sip | _client


def is_url(name: str) -> bool:
    return name.endswith(("url", "_callback"))


def is_date(name: str) -> bool:
    return name.startswith(("start_time", "end_time"))


@st.composite
def right_arguments(draw: st.DrawFn, tool: str) -> Arguments:
    """Draw arguments that are valid according to the reference."""
    parameters = DOCUMENTED[tool]["parameters"]
    names = draw(st.lists(st.sampled_from([*parameters]), unique=True, max_size=10))
    required = [name for name, parameter in parameters.items() if parameter.get("required")]
    arguments = {name: draw(right_value(tool, name)) for name in (*required, *names)}
    if tool == "create_call":
        _complete(draw, tool, arguments, _INSTRUCTIONS)
        if str(arguments["to"]).startswith("+"):
            arguments["from"] = draw(_number)
    if tool == "update_call":
        if {"url", "twiml"} <= {*arguments}:
            del arguments[draw(st.sampled_from(["url", "twiml"]))]
        _complete(draw, tool, arguments, _CHANGES)
    return arguments


def _complete(draw: st.DrawFn, tool: str, arguments: Arguments, choices: tuple[str, ...]) -> None:
    if not arguments.keys() & {*choices}:
        name = draw(st.sampled_from(choices))
        arguments[name] = draw(right_value(tool, name))


# Arguments that satisfy a published schema, but may be invalid otherwise


@st.composite
def published_arguments(draw: st.DrawFn, schema: InputSchema) -> Arguments:
    """Draw any arguments that satisfy the schema.

    hypothesis-jsonschema 0.23.1 fails with this version of Hypothesis.
    """
    properties = schema["properties"]
    names = draw(st.lists(st.sampled_from([*properties]), unique=True, max_size=8))
    wanted = (*schema.get("required", []), *names)
    return {name: draw(published_value(properties[name])) for name in wanted}


def published_value(schema: Property) -> st.SearchStrategy[object]:
    """Draw any value that satisfies the schema of one argument."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "array":
            assert "items" in schema
            return st.lists(published_value(schema["items"]), max_size=5)
        case "integer":
            whole = st.integers(schema.get("minimum"), schema.get("maximum"))
            return whole | whole.filter(lambda n: abs(n) < 2**53).map(float)
        case "boolean":
            return st.booleans()
        case "string":
            if "pattern" in schema:
                return st.from_regex(schema["pattern"])
            return st.text(max_size=min(schema.get("maxLength", 200), 200))


def unpublished_fault(tool: str, arguments: Mapping[str, object], name: str) -> bool:
    """Return whether an argument has a fault that the published schema does not find."""
    if name in ("cursor", "confirmation_token"):
        return True
    if name == "wait_seconds":
        return not 1 <= cast("int", arguments[name]) <= 50
    if name == "wait_until":
        return "wait_seconds" in arguments and is_empty(arguments.get(name))
    return _breaks_rule(tool, arguments, name) or _is_out_of_the_ordinary(name, arguments[name])


def _breaks_rule(tool: str, arguments: Mapping[str, object], name: str) -> bool:
    given = {key for key, value in arguments.items() if not is_empty(value)}
    if name == "say":
        return ("say" in given) == bool(given & {*_INSTRUCTIONS})
    if tool == "create_call" and name == "from":
        to, sender = (str(arguments[key]).lower() for key in ("to", "from"))
        if to.startswith(("sip:", "sips:")):
            return "@" in sender
        return to.startswith("+") and not sender.startswith("+")
    if tool == "update_call" and name == "status":
        return not given & {"say", *_CHANGES}
    return tool == "update_call" and name == "twiml" and {"url", "twiml"} <= given


def _is_out_of_the_ordinary(name: str, value: object) -> bool:
    match value:
        case list():
            items = cast("list[object]", value)
            return len({*items}) < len(items)
        case bool():
            return False
        case int() | float():
            return value > 2**31 - 1
        case str():
            return _is_odd_text(name, value)
        case _:
            return False


def _is_odd_text(name: str, text: str) -> bool:
    printable = name in ("to", "from", "caller_id") or is_url(name) or is_date(name)
    if printable and not re.fullmatch("[!-~]{1,512}", text):
        return True
    if is_url(name) and not _is_real_url(text):
        return True
    if name == "status_callback" and "_" in re.split("[/?#]", text)[2]:
        return True
    if is_date(name) and not _is_real_date(text):
        return True
    if name in ("to", "from") and _is_odd_party(name, text):
        return True
    allowed = "\t\r\n" if name in ("say", "twiml") else ""
    odd = (unicodedata.category(c) for c in text if c not in allowed)
    is_empty_text = not (text.strip() if name == "say" else text)
    return is_empty_text or any(category[0] == "C" or category in ("Zl", "Zp") for category in odd)


def _is_odd_party(name: str, text: str) -> bool:
    if _FORMATTED.fullmatch(text) or _PASSWORD.match(text):
        return True
    return name == "to" and not _PARTY.fullmatch(text)


_FORMATTED = re.compile(r"\+?[0-9 ().-]*[ ().-][0-9 ().-]*")
_PASSWORD = re.compile("sips?:[^@]*:[^@]*@")
_PARTY = re.compile(r"\+[1-9][0-9]{1,14}|sips?:[^@]+@.+|client:.+|sim:DE[0-9a-fA-F]{32}")


def _is_real_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return bool(url.hostname) and url.port != 0 and "\\" not in text
    except ValueError:
        return False


def _is_real_date(text: str) -> bool:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return False
    if not re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}(T|$)", text):
        return False
    return "T" not in text or when.tzinfo is not None


# Any JSON

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
    | st.text(max_size=400).map(lambda text: text.encode(errors="replace").decode() * 50)
    | st.sampled_from(["30", "true", "get", " +1 (500) 555-0006", SID + "\n", "../Calls", "\x00"])
)


def _nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=10)
    return st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5)


def _buried(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


json_values = st.recursive(_scalars, _nested, max_leaves=10) | st.integers(1, 60).map(_buried)


def any_arguments(schema: InputSchema) -> st.SearchStrategy[Arguments]:
    """Draw any JSON object, often with real names."""
    known = st.sampled_from([*schema["properties"]])
    names = known | known.map(_pascal) | st.text(st.characters(exclude_categories=("Cs",)))
    return st.dictionaries(names, json_values, max_size=8)


def _pascal(name: str) -> str:
    return name.title().replace("_", "")


@st.composite
def broken_arguments(draw: st.DrawFn, definition: Definition) -> tuple[str, Arguments]:
    """Draw arguments of which one does not satisfy the schema, and its name."""
    tool, schema = definition["name"], definition["inputSchema"]
    arguments = draw(right_arguments(tool))
    known = st.sampled_from([*schema["properties"]])
    name = draw(known | known.map(_pascal) | st.text(_plain, min_size=1, max_size=60))
    wrong = _wrong_values(schema["properties"].get(name))
    value = draw(wrong.filter(lambda v: not is_accepted(schema, {**arguments, name: v})))
    return name, {**arguments, name: value}


def _wrong_values(schema: Property | None) -> st.SearchStrategy[object]:
    if schema is None or schema["type"] != "integer":
        return json_values
    low, high = schema.get("minimum", 0), schema.get("maximum", 2**31)
    return json_values | st.integers(max_value=low - 1) | st.integers(min_value=high + 1)


def is_accepted(schema: Mapping[str, object], arguments: Mapping[str, object]) -> bool:
    """Return whether these arguments are valid; null means that an optional one is not given."""
    properties = cast("dict[str, object]", schema["properties"])
    optional = properties.keys() - {*cast("list[str]", schema.get("required", []))}
    given = {k: v for k, v in arguments.items() if k not in optional or not is_empty(v)}
    return satisfies(schema, given)


def satisfies(schema: Mapping[str, object], value: object) -> bool:
    """Return whether a client would consider `value` valid under `schema`."""
    is_valid = cast("Callable[[object], bool]", Draft202012Validator(schema).is_valid)
    return is_valid(value)

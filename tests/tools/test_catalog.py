"""The files of `config/`, and the errors about invalid ones."""

import re
import shutil
from pathlib import Path

import pytest

from calls_mcp.errors import CatalogError
from calls_mcp.tools.catalog import CONFIG, AddressKind, address_kind, load_operations
from tests.harness import CALLER
from tests.strategies import DOCUMENTED, SID, TOOLS

CREATE, LIST, TYPES = "operations/create_call.toml", "operations/list_calls.toml", "types.toml"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of `config/` that a test may change."""
    shutil.copytree(CONFIG, tmp_path / "config")
    return tmp_path / "config"


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), "utf-8")


def test_a_copy_of_the_config_is_the_same_catalog(config: Path) -> None:
    copy = load_operations(config)
    assert [*copy] == [*load_operations()] == [*TOOLS]
    for name, operation in load_operations().items():
        assert [*copy[name].parameters] == [*operation.parameters]
        assert copy[name].rules == operation.rules


def test_operations_are_sorted_by_name(config: Path) -> None:
    folder = config / "operations"
    for name in ("zero_call", "an_earlier_call"):
        shutil.copy(folder / "fetch_call.toml", folder / f"{name}.toml")
    assert [*load_operations(config)] == ["an_earlier_call", *TOOLS, "zero_call"]


def test_a_description_is_one_line_with_its_unit() -> None:
    create = load_operations()["create_call"]
    assert create.parameters["timeout"].description == "How long to ring before giving up (seconds)"
    for operation in load_operations().values():
        assert operation.description == " ".join(operation.description.split())


@pytest.mark.parametrize(
    ("file", "old", "new", "place", "problem"),
    [
        (CREATE, 'title = "', 'titel = "', "title", "is missing; titel: unknown key"),
        (CREATE, "maximum = 600", "maximun = 600", "parameters.timeout.maximun", "unknown key"),
        (CREATE, 'type = "twiml"', 'type = "twinml"', "parameters.twiml.type", "type 'twinml'"),
        (CREATE, 'type = "twiml"', "", "parameters.twiml.type", "is missing"),
        (
            CREATE,
            'description = "Silence that ends the speech"',
            "",
            "parameters.machine_detection_speech_end_threshold.description",
            "is missing",
        ),
        (CREATE, 'given = "url"', 'given = "uri"', "rules.ignored_when", "unknown parameter uri"),
        (
            CREATE,
            'parameters = ["from"]',
            'parameters = ["from", "form", "a"]',
            "rules.must_match_kind",
            "unknown parameter a, form",
        ),
        (CREATE, 'given = "url"', 'when = "url"', "rules.4.when", "unknown key"),
        (CREATE, 'becomes = "twiml"', 'becomes = "tml"', "say.becomes", "unknown parameter tml"),
        (CREATE, 'rule = "needs_one_of"', "", "rules.0.rule", "is missing"),
        (CREATE, 'title = "Place a call"', 'title = "Place a call', "", "line 1"),
        (CREATE, 'rule = "ignored_when"', 'rule = "ignored_if"', "", "ignored_if"),
        (CREATE, 'kind = "SIP address"', 'kind = "sip address"', "", "sip address"),
        (CREATE, 'in = "path"', 'in = "paht"', "", "paht"),
        (CREATE, 'wire = "Url"', "", "", "wire"),
        (CREATE, 'effect = "place"', 'effect = "plaice"', "", "plaice"),
        (CREATE, 'method = "POST"', 'method = "PSOT"', "", "PSOT"),
        (CREATE, 'returns = "call"', 'returns = "a call"', "", "a call"),
        (LIST, 'returns = "calls"', "", "returns", "is missing"),
        (TYPES, "multiline = true", "multilines = true", "twiml.multilines", "unknown key"),
        (
            TYPES,
            'expected = "TwiML of at most 4000 characters"',
            "",
            "twiml.expected",
            "is missing",
        ),
    ],
)
def test_an_invalid_catalog_file_is_an_error_with_the_key_and_the_problem(  # a table's columns
    config: Path, file: str, old: str, new: str, place: str, problem: str
) -> None:
    replace(config / file, old, new)
    with pytest.raises(CatalogError) as error:
        load_operations(config)
    assert str(error.value).startswith(f"{Path(file).name}: {place and f'{place}: '}")
    assert problem in str(error.value)


def test_an_operation_without_a_description_is_a_catalog_error(config: Path) -> None:
    file = config / LIST
    text = re.sub(r'(?s)description = """.*?"""', "", file.read_text("utf-8"), count=1)
    file.write_text(text, "utf-8")
    with pytest.raises(CatalogError, match=r"list_calls\.toml.*description"):
        load_operations(config)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_documented_rule_is_in_the_catalog(tool: str) -> None:
    known = {
        (rule.rule, rule.given, rule.kind if "kind" in rule.rule else "", parameter)
        for rule in load_operations()[tool].rules
        for parameter in rule.parameters
    }
    for rule in DOCUMENTED[tool]["rules"]:
        if rule["rule"] == "default_from":  # the page size, which listing chooses
            continue
        kind = rule.get("kind", "").replace("_", " ")
        for parameter in rule["parameters"]:
            assert (rule["rule"], rule.get("given", ""), kind, parameter) in known


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        (CALLER, "phone number"),
        ("sip:alice@example.com", "SIP address"),
        ("sips:alice@example.com", "SIP address"),
        ("client:alice", "client"),
        ("sim:DE" + "0" * 32, "SIM"),
        ("alice", None),
        (SID, None),
        (None, None),
        (15005550006, None),
    ],
)
def test_the_kind_of_an_address_follows_from_its_prefix(
    address: object, kind: AddressKind | None
) -> None:
    assert address_kind(address) == kind

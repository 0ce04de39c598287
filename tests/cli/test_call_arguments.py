"""How `KEY=VALUE` is read, for any text."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.cli.call import assigned
from calls_mcp.errors import ConfigurationError
from calls_mcp.tools.catalog import load_operations

CREATE = load_operations()["create_call"]
TYPES = {name: str(parameter.schema["type"]) for name, parameter in CREATE.parameters.items()}
OF = {kind: [n for n, t in TYPES.items() if t == kind] for kind in {*TYPES.values()}}

texts = st.text()
strings = st.sampled_from(OF["string"])
numbers = st.sampled_from(OF["integer"])
flags = st.sampled_from(OF["boolean"])
lists = st.sampled_from(OF["array"])


@given(strings, texts)
def test_the_value_of_a_string_is_the_text(name: str, text: str) -> None:
    assert assigned([f"{name}={text}"], CREATE) == {name: text}


@given(numbers, st.integers())
def test_the_value_of_an_integer_is_an_integer(name: str, number: int) -> None:
    value = assigned([f"{name}={number}"], CREATE)[name]
    assert (value, type(value)) == (number, int)


@given(flags, st.booleans())
def test_the_value_of_a_boolean_is_a_boolean(name: str, flag: bool) -> None:  # noqa: FBT001
    assert assigned([f"{name}={json.dumps(flag)}"], CREATE)[name] is flag


@given(st.sampled_from([*OF["integer"], *OF["boolean"]]), texts)
def test_a_value_of_the_wrong_type_stays_text(name: str, text: str) -> None:
    value = assigned([f"{name}={text}"], CREATE)[name]
    assert value == text or type(value) is (int if name in OF["integer"] else bool)


def test_a_value_under_a_misspelled_name_has_the_type_of_the_intended_one() -> None:
    pairs = ["time_limt=5", "To=15005550206", "Record=true"]
    assert assigned(pairs, CREATE) == {"time_limt": 5, "To": "15005550206", "Record": True}


@given(lists, st.lists(texts.filter(lambda text: not text.lstrip().startswith("[")), min_size=1))
def test_a_list_is_repeated_or_json(name: str, items: list[str]) -> None:
    assert assigned([f"{name}={item}" for item in items], CREATE) == {name: items}
    assert assigned([f"{name}={json.dumps(items)}"], CREATE) == {name: items}


@given(st.lists(texts, max_size=4))
def test_any_text_becomes_arguments_or_a_configuration_error(pairs: list[str]) -> None:
    try:
        arguments = assigned(pairs, CREATE)
    except ConfigurationError:
        keys = [pair.partition("=")[0] for pair in pairs]
        are_names = all(re.fullmatch(r"[\w-]+", key) for key in keys)
        assert not are_names or any("=" not in p for p in pairs) or len({*keys}) < len(keys)
    else:
        assert {*arguments} == {pair.partition("=")[0] for pair in pairs}


def test_all_wrong_pairs_are_reported_at_once() -> None:
    pairs = ["to", "from=a", "say=a", "=b", "from=b", "say=b"]
    with pytest.raises(ConfigurationError) as error:
        assigned(pairs, CREATE)
    assert str(error.value) == (
        "Argument 1 must be KEY=VALUE, such as limit=5. Argument 4 must be KEY=VALUE, such as "
        "limit=5. from: pass it only once. say: pass it only once."
    )


@given(strings)
def test_a_parameter_that_is_not_a_list_is_given_once(name: str) -> None:
    with pytest.raises(ConfigurationError, match="pass it only once"):
        assigned([f"{name}=a", f"{name}=b"], CREATE)

"""The JSON Schema keywords of the catalog, compared with the jsonschema library."""

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from calls_mcp.tools.catalog import Json, Schema, load_operations
from calls_mcp.tools.keywords import satisfies

SCHEMAS: dict[str, Schema] = {
    str(schema): schema
    for operation in load_operations().values()
    for parameter in operation.parameters.values()
    for part in (parameter.schema, parameter.type.asserts)
    for schema in ({"type": parameter.schema["type"], **part},)
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


def near(schema: Schema) -> st.SearchStrategy[Any]:
    """Draw values that may satisfy the schema."""
    known = cast("dict[str, Any]", schema)
    match known["type"]:
        case "array":
            items: list[str] = known.get("items", {}).get("enum", ["a", "b"])
            return st.lists(st.sampled_from([*items, ""]), max_size=5)
        case "integer":
            whole = st.integers(-1, 2) | st.integers(490, 10_010) | st.integers(2**31 - 2, 2**31)
            return whole | whole.map(float)
        case _ if "pattern" in known:
            return st.from_regex(str(known["pattern"])) | st.just(
                "x" * known.get("maxLength", 0) + "x"
            )
        case _:
            most: int = known.get("maxLength", 1)
            return st.sampled_from([*known.get("enum", []), "", "x" * most, "x" * (most + 1)])


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@settings(max_examples=25)
@given(data=st.data())
def test_a_keyword_means_what_the_library_says(schema: Schema, data: st.DataObject) -> None:
    schema = {keyword: limit for keyword, limit in schema.items() if keyword != "format"}
    value: Json = data.draw(VALUES | near(schema))
    is_odd_list = isinstance(value, list) and not all(isinstance(item, str) for item in value)
    valid = Draft202012Validator(schema).is_valid(value)  # pyright: ignore[reportUnknownMemberType]  # its second overload is untyped
    assert satisfies(value, schema) == (valid and not is_odd_list)

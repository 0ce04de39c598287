"""The faults of arguments, by name."""

from collections.abc import Mapping
from typing import cast

import pytest

from calls_mcp.errors import Fault, InvalidArguments
from calls_mcp.tools.catalog import Json, load_operations
from calls_mcp.tools.validation import Arguments, validate
from tests.strategies import BASES


def checked(tool: str, arguments: Mapping[str, object]) -> Arguments:
    return validate(load_operations()[tool], cast("Mapping[str, Json]", arguments))


def faults(tool: str, arguments: Mapping[str, object]) -> dict[str, Fault]:
    """The faults by argument name, of which each may be reported only once."""
    with pytest.raises(InvalidArguments) as error:
        checked(tool, arguments)
    told = error.value.faults
    by_name = {fault.path.removeprefix("/"): fault for fault in told}
    assert len(by_name) == len(told)
    return by_name


def fault_of(tool: str, name: str, value: object) -> Fault:
    """The only fault of otherwise valid arguments."""
    (only,) = faults(tool, {**BASES[tool], name: value}).items()
    assert only[0] == name
    return only[1]

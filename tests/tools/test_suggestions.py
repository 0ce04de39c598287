"""Suggestions in faults never change the meaning of what was sent."""

from typing import cast

import pytest

from calls_mcp.errors import InvalidArguments
from calls_mcp.tools.catalog import Json, load_operations
from calls_mcp.tools.validation import validate
from tests.strategies import BASES


def suggestion(tool: str, name: str, value: Json) -> object:
    """Return the suggestion for an argument that must be wrong."""
    arguments = cast("dict[str, Json]", {**BASES[tool], name: value})
    with pytest.raises(InvalidArguments) as error:
        validate(load_operations()[tool], arguments)
    (fault,) = (fault for fault in error.value.faults if fault.path == f"/{name}")
    return fault.did_you_mean


@pytest.mark.parametrize(
    ("tool", "name", "values"),
    [
        ("list_calls", "status", ["answered", "answer", "not-answered-no", "unanswered"]),
        ("list_calls", "status", ["not in progress", "not-in-progress", "never in-progress"]),
        ("update_call", "status", ["not-completed", "not completed", "uncompleted", "incomplete"]),
        ("update_call", "status", ["completed-not", "!completed", "-completed", "completed=false"]),
        ("update_call", "status", ["noncanceled", "uncanceled", "don't cancel", "cancel not"]),
        ("update_call", "status", ["connected", "called"]),
        ("create_call", "machine_detection", ["Disable", "disabled", "not Enable"]),
        ("create_call", "recording_track", ["unbound", "not-inbound"]),
        ("create_call", "trim", ["trim", "not-trim-silence"]),
        ("create_call", "record", ["not true", "untrue", "!true"]),
        ("create_call", "timeout", ["-30", "not 30", "30 ms"]),
        ("create_call", "status_callback_event", ["not completed", "incomplete", "unanswered"]),
        ("create_call", "recording_status_callback_event", ["present", "not,absent"]),
    ],
)
def test_nothing_is_suggested_that_would_mean_the_opposite(
    tool: str, name: str, values: list[str]
) -> None:
    suggested = {value: suggestion(tool, name, value) for value in values}
    assert suggested == dict.fromkeys(values)


@pytest.mark.parametrize("value", [["not", "completed"], ["not completed"], ["except", "ringing"]])
def test_a_negated_list_gets_no_suggestion(value: Json) -> None:
    assert suggestion("create_call", "status_callback_event", value) is None


NEGATIONS = (
    *("not-", "not ", "no-", "non", "non-", "un", "in", "dis", "in-", "never ", "!", "-", "~"),
)


@pytest.mark.parametrize("negation", NEGATIONS)
def test_a_negated_choice_never_gets_the_choice_as_a_suggestion(negation: str) -> None:
    for tool, operation in load_operations().items():
        for name, parameter in operation.parameters.items():
            for choice in map(str, parameter.choices):
                for text in (f"{negation}{choice}", f"{negation}{choice.title()}"):
                    assert suggestion(tool, name, text) not in (choice, [choice])


@pytest.mark.parametrize(
    "name",
    [
        *("no_record", "dont_record", "not_record", "unrecord", "norecord", "record_off"),
        *("start_time_since", "start_time_from", "start_time_to", "start_time_not"),
        *("not_status", "status_not", "exclude_status", "status!", "not_to", "nonstatus"),
        *("StartTime!", "StartTime<>", "StartTime!=", "end_time_start"),
    ],
)
def test_a_name_never_gets_its_opposite_or_another_direction_as_a_suggestion(name: str) -> None:
    for tool in ("create_call", "list_calls"):
        assert suggestion(tool, name, "?") is None

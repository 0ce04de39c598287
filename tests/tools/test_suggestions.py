"""Suggestions in faults never change the meaning of what was sent."""

from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from calls_mcp.errors import Fault, InvalidArguments
from calls_mcp.tools.catalog import Json, load_operations
from calls_mcp.tools.validation import validate
from tests.strategies import BASES


def fault_of(tool: str, name: str, value: Json) -> Fault:
    """Return the fault of an argument that must be wrong."""
    arguments = cast("dict[str, Json]", {**BASES[tool], name: value})
    with pytest.raises(InvalidArguments) as error:
        validate(load_operations()[tool], arguments)
    (fault,) = (fault for fault in error.value.faults if fault.path == f"/{name}")
    return fault


def suggestion(tool: str, name: str, value: Json) -> object:
    """Return the suggestion for an argument that must be wrong."""
    return fault_of(tool, name, value).did_you_mean


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


WORDS = (
    *("no", "not", "non", "none", "never", "nor", "without", "except", "but", "exclude", "isn't"),
    *("cannot", "can't", "doesn't", "wasn't", "hardly", "neither", "minus", "sans", "off", "false"),
)
PREFIXES = (
    "un",
    "in",
    "im",
    "il",
    "ir",
    "dis",
    "non",
    "de",
    "anti",
    "mis",
    "counter",
    "in-",
    "un-",
)
MARKS = ("!", "-", "~", "^", "<>", "!=", "≠", "¬", "✗", "❌", "\u00d7", "\u2212", "/", "?")
SEPARATORS = (" ", "-", "_", "", ":", " - ")
CHOICES = [
    (tool, name, choice)
    for tool, operation in load_operations().items()
    for name, parameter in operation.parameters.items()
    for choice in map(str, parameter.choices)
]
WRITTEN = st.sampled_from([str, str.upper, str.title, str.capitalize])


@given(
    chosen=st.sampled_from(CHOICES),
    negation=st.sampled_from([*WORDS, *PREFIXES, *MARKS]),
    separator=st.sampled_from(SEPARATORS),
    write=WRITTEN,
    is_first=st.booleans(),
    shape=st.sampled_from(["text", "list", "after another", "before another"]),
)
def test_a_negated_choice_gets_no_suggestion(
    chosen: tuple[str, str, str],
    negation: str,
    separator: str,
    write: Callable[[str], str],
    is_first: bool,  # noqa: FBT001
    shape: str,
) -> None:
    tool, name, choice = chosen
    assume(is_first or negation not in PREFIXES)
    parts = (negation, choice) if is_first else (choice, negation)
    text = write(separator.join(parts))
    choices = [*map(str, load_operations()[tool].parameters[name].choices)]
    assume(text.casefold() not in map(str.casefold, choices))
    shapes: dict[str, Json] = {
        "text": text,
        "list": [text],
        "after another": [choices[0], text],
        "before another": [text, choices[0]],
    }
    assert suggestion(tool, name, shapes[shape]) is None


OPPOSITES = {
    "absent": ["present", "available"],
    "answered": ["unanswered", "ignored", "missed", "answerless"],
    "both": ["neither", "none", "nobody"],
    "busy": ["free", "idle", "available"],
    "canceled": ["continued", "kept", "uncancelled"],
    "completed": ["incomplete", "unfinished", "open", "uncompleted", "completeless"],
    "do-not-trim": ["do-trim", "trim", "do-now-trim", "do-note-trim", "do-only-trim"],
    "dual": ["single", "mono-only"],
    "Enable": ["Disable", "disabled", "unable", "Unenable", "enableless"],
    "failed": ["succeeded", "unfailed"],
    "in-progress": ["out-of-progress", "un-progress", "in-regress", "on-hold", "no-progress"],
    "inbound": ["unbound", "onbound"],
    "initiated": ["terminated", "uninitiated"],
    "mono": ["stereo", "no-mono"],
    "no-answer": ["answer", "an-answer", "yes-answer", "now-answer", "on-answer", "some-answer"],
    "outbound": ["unbound", "outbounding-not"],
    "queued": ["dequeued", "unqueued"],
    "ringing": ["silent", "unringing", "ringless"],
    "trim-silence": ["keep-silence", "trim-sound", "untrim-silence", "trim-nothing"],
}


def test_the_opposite_of_a_choice_gets_no_suggestion() -> None:
    suggested = {
        word: suggestion(tool, name, word)
        for tool, name, choice in CHOICES
        for word in OPPOSITES.get(choice, ())
    }
    assert suggested == dict.fromkeys(suggested)


@pytest.mark.parametrize("name", ["record", "async_amd"])
@pytest.mark.parametrize(
    "value", ["no", "off", "0", "none", "never", "not true", "untrue", 0, "yes"]
)
def test_a_boolean_in_other_words_gets_neither_a_suggestion_nor_an_example(
    name: str, value: Json
) -> None:
    fault = fault_of("create_call", name, value)
    assert (fault.did_you_mean, fault.example) == (None, None)


@pytest.mark.parametrize(("tool", "name"), sorted({chosen[:2] for chosen in CHOICES}))
def test_a_wrong_choice_gets_no_example(tool: str, name: str) -> None:
    fault = fault_of(tool, name, "not-completed")
    assert fault.example is None
    assert all(
        str(choice) in fault.expected for choice in load_operations()[tool].parameters[name].choices
    )


def test_a_missing_change_gets_no_example() -> None:
    with pytest.raises(InvalidArguments) as error:
        validate(load_operations()["update_call"], {"sid": "CA" + "0" * 32})
    assert [fault.example for fault in error.value.faults] == [None]


@pytest.mark.parametrize(
    "text", ["-15005550006", "not +15005550006", "!+15005550006", "~15005550006"]
)
def test_an_excluded_address_gets_no_suggestion(text: str) -> None:
    assert suggestion("create_call", "to", text) is None


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

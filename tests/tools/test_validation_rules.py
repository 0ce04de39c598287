"""Rules about several arguments, and warnings about arguments without effect."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from calls_mcp.errors import Fault
from calls_mcp.tools.call_summary import summarize
from calls_mcp.tools.catalog import Rule, load_operations
from tests.harness import CALLER, TWIML, Harness, open_harness, placing, structured, text_of
from tests.strategies import BASES, SID, TOOLS, sample
from tests.tools.faults import checked, fault_of, faults


@pytest.mark.parametrize("tool", ["create_call", "update_call"])
def test_a_missing_choice_of_arguments_names_all_of_them(tool: str) -> None:
    (rule,) = (r for r in load_operations()[tool].rules if r.rule == "needs_one_of")
    bare = {k: v for k, v in BASES[tool].items() if k not in rule.parameters}
    first = rule.parameters[0]
    fault = faults(tool, bare)[first]
    assert fault.expected == rule.expected
    assert {*re.findall(r"\w+", rule.expected)} >= {*rule.parameters}
    assert fault.received == "none of them"
    for name in {*rule.parameters} - {"say"}:
        checked(tool, {**bare, name: sample(tool, name)})


def test_arguments_that_exclude_each_other_are_refused() -> None:
    told = faults("update_call", {"sid": SID, "url": "https://example.com/", "twiml": TWIML})
    assert [*told.values()] == [
        Fault(
            path="/twiml",
            expected="url alone, or no url",
            received="url and twiml together",
        )
    ]


@pytest.mark.parametrize(
    ("sender", "meant"),
    [
        ("sip:bob@example.com", None),
        ("client:bob", None),
        ("front-desk", None),
        ("15005550006", "+15005550006"),
        ("sip:+15005550006@example.com", "+15005550006"),
    ],
)
def test_a_call_to_a_phone_number_needs_a_phone_number_as_caller_id(
    sender: str, meant: str | None
) -> None:
    fault = fault_of("create_call", "from", sender)
    assert fault.expected == "a phone number, because to is a phone number"
    assert fault.received == f'"{sender}"'
    assert fault.example == "+15005550006"
    assert fault.did_you_mean == meant


@pytest.mark.parametrize(
    ("to", "sender", "kind"),
    [
        ("15005550006", "client:bob", "phone number"),
        (15005550006, "front-desk", "phone number"),
        ("(500) 555-0006", "front-desk", "phone number"),
        ("+1 500 555 0006 ext. 7", "15005550006", "phone number"),
        ("sip:bob smith@example.com", "client:bob@example.com", "SIP address"),
    ],
)
def test_a_wrong_callee_does_not_hide_a_wrong_caller_id(to: object, sender: str, kind: str) -> None:
    told = faults("create_call", placing(**{"to": to, "from": sender}))
    assert [*told] == ["to", "from"]
    assert told["from"].expected.endswith(f", because to is a {kind}")


def test_an_invisible_character_does_not_hide_another_fault_of_its_argument() -> None:
    told = faults("create_call", placing(**{"from": "client:bob\u202e"}))
    assert told["from"].expected == (
        "a phone number, because to is a phone number, without invisible characters (found U+202E)"
    )
    long = faults("update_call", {"sid": SID, "say": "\u202e" + "x" * 3968})
    assert long["say"].expected.endswith("(found U+202E); make it 1 character shorter")


SIP_CALLEES = ("sip:alice@example.com", "sips:alice@example.com")


@pytest.mark.parametrize("to", SIP_CALLEES)
@pytest.mark.parametrize("sender", ["Jack", "front-desk", "1001", "client:bob", CALLER])
def test_a_sip_address_can_be_called_by_a_user_name_or_a_number(to: str, sender: str) -> None:
    arguments = checked("create_call", placing(**{"to": to, "from": sender}))
    assert arguments.values["from"] == sender


@pytest.mark.parametrize("to", SIP_CALLEES)
@pytest.mark.parametrize(
    ("sender", "meant"),
    [
        ("sip:jack@example.com", "jack"),
        ("SIPS:Jack@example.com", "Jack"),
        ("front-desk@example.com", "front-desk"),
        ("sip:jack:password@example.com", "jack"),
        ("sip:jack;phone-context=x@example.com", "jack"),
        ("sip:+15005550006@example.com", "+15005550006"),
        ("client:bob@example.com", None),
        ("sip:@example.com", None),
    ],
)
def test_a_sip_address_cannot_be_called_from_an_address_and_the_user_name_is_suggested(
    to: str, sender: str, meant: str | None
) -> None:
    told = faults("create_call", placing(**{"to": to, "from": sender}))
    assert told["from"].expected == (
        "a phone number or a user name without @, because to is a SIP address"
    )
    assert told["from"].did_you_mean == meant


ADDRESSES_IN_RESULTS = (
    *("anonymous", "Anonymous", "Jack", "Jack Smith", "40404", "+266696687", "+0000", "911"),
    *("whatsapp:+15005550006", "alice@example.com", "sip:bob@example.com", "client:b b"),
    *("sim:DE" + "0" * 32, "東京", "restricted", "sip:" + "x" * 508),
)


@pytest.mark.parametrize("name", ["to", "from"])
@pytest.mark.parametrize("address", ADDRESSES_IN_RESULTS)
def test_calls_can_be_listed_by_every_address_that_a_result_can_show(
    name: str, address: str
) -> None:
    assert checked("list_calls", {name: address}).values == {name: address}


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("+1 (500) 555-0006", "+15005550006"),
        ("1-500-555-0006", "+15005550006"),
        (" Jack", "Jack"),
        ("sip:bob:password@example.com", "sip:bob@example.com"),
        ("x" * 513, None),
    ],
)
def test_calls_cannot_be_listed_by_an_address_that_no_result_shows(
    address: str, meant: str | None
) -> None:
    assert fault_of("list_calls", "from", address).did_you_mean == meant


@given(text=st.text(st.characters(), max_size=600) | st.text("+0123456789-( sip:@", max_size=40))
def test_calls_can_be_listed_by_the_parties_of_any_call(text: str) -> None:
    call = summarize({"sid": SID, "from": text, "to": text})
    assume(call.from_ is not None and not NO_ADDRESS.fullmatch(call.from_))
    shown = {"from": call.from_, "to": call.to}
    assert checked("list_calls", shown).values == shown


NO_ADDRESS = re.compile(r"sips?:[^@]*:[^@]*@.*|\+?[0-9().-]*[ ().-][0-9 ().-]*")
"""A SIP address with a password and a formatted number, which the API shows in no call."""


@pytest.mark.parametrize("name", ["to", "from"])
@pytest.mark.parametrize(
    ("number", "send"),
    [
        ("15005550006", "+15005550006"),
        ("442079460018", "+442079460018"),
        ("4155551212", "+ and the country code first"),
        ("00442079460018", "+ and the country code first"),
        ("5551212", "+ and the country code first"),
    ],
)
def test_a_filter_by_a_number_without_a_plus_sign_gets_a_warning(
    name: str, number: str, send: str
) -> None:
    assert checked("list_calls", {name: number}).warnings == (
        (
            f"no phone number matches {name}={number}, because it has no +; "
            f"for a phone number, send {send}"
        ),
    )


@pytest.mark.parametrize("address", ADDRESSES_IN_RESULTS)
def test_a_filter_by_another_address_gets_no_warning(address: str) -> None:
    assert checked("list_calls", {"to": address}).warnings == ()


@pytest.mark.anyio
async def test_a_list_result_has_the_warnings_about_its_filters(harness: Harness) -> None:
    async with harness.connect() as agent:
        outcome = await agent.call("list_calls", to="15005550006")
    assert outcome["count"] == 0
    assert outcome["warnings"][0].startswith("no phone number matches to=15005550006")


@pytest.mark.anyio
@pytest.mark.parametrize("address", ADDRESSES_IN_RESULTS)
async def test_the_emulator_accepts_every_address_as_a_filter(
    harness: Harness, address: str
) -> None:
    async with harness.connect() as agent:
        assert (await agent.call("list_calls", to=address))["outcome"] == "done"


@pytest.mark.parametrize("sender", ["Jack", "client:bob", "client:bob@example.com", CALLER])
def test_a_client_can_be_called_by_any_caller_id(sender: str) -> None:
    checked("create_call", placing(**{"to": "client:alice", "from": sender}))


@pytest.mark.anyio
@pytest.mark.parametrize("sender", ["Jack", CALLER])
async def test_the_api_accepts_the_suggested_caller_of_a_sip_call(sender: str) -> None:
    wrong = placing(**{"to": "sip:alice@example.com", "from": f"sip:{sender}@example.com"})
    async with open_harness(calls_mcp_confirm="none") as harness, harness.connect() as agent:
        (fault,) = (await agent.call("create_call", **wrong))["error"]["faults"]
        outcome = await agent.call("create_call", **{**wrong, "from": fault["did_you_mean"]})
    assert outcome["outcome"] == "done"
    assert outcome["call"]["from"] == sender


CONTEXT: Mapping[str, Mapping[str, object]] = {
    "async_amd": {"machine_detection": "Enable"},
    "async_amd_status_callback": {"machine_detection": "Enable", "async_amd": True},
    "async_amd_status_callback_method": {
        "machine_detection": "Enable",
        "async_amd": True,
        "async_amd_status_callback": "https://example.com/",
    },
    "recording_status_callback": {"record": True},
    "recording_status_callback_event": {"recording_status_callback": "https://example.com/"},
    "recording_status_callback_method": {"recording_status_callback": "https://example.com/"},
}
"""What an argument needs before other arguments can depend on it."""

SOFT_RULES = [
    (tool, rule, name)
    for tool in TOOLS
    for rule in load_operations()[tool].rules
    for name in rule.parameters
    if rule.rule in ("ignored_when", "no_effect_without", "only_for_kind")
]


def soft(rule_name: str) -> pytest.MarkDecorator:
    rows = [row for row in SOFT_RULES if row[1].rule == rule_name]
    assert rows
    ids = [f"{tool}-{rule.given}-{name}" for tool, rule, name in rows]
    return pytest.mark.parametrize(("tool", "rule", "name"), rows, ids=ids)


@soft("ignored_when")
def test_an_argument_that_the_api_ignores_gets_a_warning(tool: str, rule: Rule, name: str) -> None:
    values = {key: sample(tool, key) for key in (name, rule.given)}
    arguments = checked(tool, {**BASES[tool], **values})
    reason = f"{name} is ignored because {rule.given} is given"
    assert reason in arguments.warnings
    assert arguments.values[name] == values[name]
    assert all(warning.startswith((name, "twiml")) for warning in arguments.warnings)


@soft("no_effect_without")
def test_an_argument_without_the_one_it_needs_gets_a_warning(
    tool: str, rule: Rule, name: str
) -> None:
    context = CONTEXT.get(rule.given, {})
    alone = {**BASES[tool], **context, name: sample(tool, name)}
    reason = f"{name} has no effect without {rule.given}"
    assert checked(tool, alone).warnings == (reason,)
    if sample(tool, rule.given) is True:
        assert checked(tool, {**alone, rule.given: False}).warnings == (reason,)


@soft("no_effect_without")
def test_an_effective_argument_gets_no_warning(tool: str, rule: Rule, name: str) -> None:
    needed = {rule.given: sample(tool, rule.given), name: sample(tool, name)}
    context = {**CONTEXT.get(rule.given, {}), **CONTEXT.get(name, {})}
    base = {k: v for k, v in BASES[tool].items() if k not in ("twiml", "status")}
    arguments = {**base, "url": "https://example.com/", **context, **needed}
    assert checked(tool, arguments).warnings == ()


@soft("only_for_kind")
def test_an_argument_for_another_kind_of_party_gets_a_warning(
    tool: str, rule: Rule, name: str
) -> None:
    parties = {"phone number": "+15005550205", "SIP address": "sip:alice@example.com"}
    values = {**BASES[tool], name: sample(tool, name)}
    for kind, party in {**parties, "client": "client:alice"}.items():
        told = checked(tool, {**values, "to": party}).warnings
        reason = f"{name} has no effect because to is not a {rule.kind}"
        assert told == (() if kind == rule.kind else (reason,))


def test_an_argument_that_depends_on_an_ignored_one_gets_a_warning() -> None:
    arguments = placing(send_digits="1", machine_detection="Enable", async_amd=True)
    assert checked("create_call", arguments).warnings == (
        "machine_detection is ignored because send_digits is given",
        "async_amd has no effect without machine_detection",
    )


@pytest.mark.anyio
async def test_a_call_with_warnings_is_placed_and_returns_them() -> None:
    url = "https://example.com/voice"
    async with open_harness(calls_mcp_confirm="none") as harness, harness.connect() as agent:
        result = await agent.client.call_tool(
            "create_call",
            placing(url=url, trim="do-not-trim", byoc="BY" + "0" * 32, to="client:al"),
        )
        placed = structured(result)
        updated = await agent.call(
            "update_call", sid=placed["call"]["sid"], method="GET", twiml=TWIML
        )
        statuses = [entry.status for entry in harness.changes]
    assert placed["outcome"] == updated["outcome"] == "done"
    assert placed["warnings"] == [
        "twiml is ignored because url is given",
        "byoc has no effect because to is not a phone number",
        "trim has no effect without record",
    ]
    assert updated["warnings"] == ["method has no effect without url"]
    assert text_of(result).splitlines()[1] == "Note: twiml is ignored because url is given."
    assert statuses == [201, 200]

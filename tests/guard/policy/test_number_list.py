"""Lists of numbers in files: a do-not-call list, and the only numbers that may be called."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.cli.main import main
from calls_mcp.errors import FileError
from calls_mcp.guard.policy.number_list import load_numbers
from calls_mcp.guard.policy.rules import Policy, load_policy
from tests.guard.approving import approve_next, as_it_is_found
from tests.guard.policy.cases import BERLIN, SWISS, asked, refusal, ruling
from tests.harness import open_harness, placing

pytestmark = pytest.mark.anyio

LIST = """\
# The list of 1 May
+49 (0)30 / 1234-5678   # Ann: "never again"
+1 (202) 555.0171
+52 55 1234 5678

+4440*
+41 44 6*\r
"""
FRENCH = "+33142685300"


@pytest.fixture
def policy(tmp_path: Path) -> Callable[[str, str], Policy]:
    """A policy with a list, whose path is relative to it."""

    def make(key: str, numbers: str) -> Policy:
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists" / "numbers.txt").write_text(numbers, "utf-8")
        file = tmp_path / "policy.toml"
        file.write_text(f'[destinations]\n{key} = "lists/numbers.txt"\n', "utf-8")
        return load_policy(file)

    return make


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("to", "is_listed"),
    [
        (BERLIN, True),
        ("+4903012345678", True),
        ("+493012345679", False),
        ("+12025550171", True),
        ("+120255501719", True),
        (f"{BERLIN}9", True),
        (f"{BERLIN}999", True),
        ("+49030123456789", True),
        (SWISS, True),
        ("+4104466818001", True),
        ("+41447000000", False),
        ("+5215512345678", True),
        (FRENCH, False),
        ("client:alice", False),
        ("sip:alice@example.com", False),
        (f"sip:{BERLIN}@example.com", True),
        (f"sip:{BERLIN}9@example.com", True),
        ("sip:0012025550171@example.com", True),
        ("sip:12025550171@example.com", True),
        (f"sip:{FRENCH}@example.com", False),
    ],
)
def test_a_number_on_the_do_not_call_list_is_denied_however_it_is_spelled(
    policy: Callable[[str, str], Policy], mark: str, to: str, *, is_listed: bool
) -> None:
    rules = policy("deny_file", mark + LIST)
    assert ruling(rules, asked(to=to)) == ("destinations.deny_file" if is_listed else "")


@pytest.mark.parametrize(
    ("listed", "to"),
    [
        ("+52 1 55 1234 5678", "+525512345678"),
        ("+52 55 1234 5678", "+5215512345678"),
        ("+54 11 15-2345-6789", "+5491123456789"),
        ("+54 9 11 2345-6789", "+54111523456789"),
        ("+44 020 7946 0000", "+442079460000"),
        ("+44 20 7946 0000", "+4402079460000"),
        ("+34 912 34 56 78", "+340912345678"),
        ("+1 202 555 0171", "+102025550171"),
        ("+7 8 912 345-67-89", "+79123456789"),
    ],
)
@pytest.mark.parametrize("extra", ["", "1"])
def test_a_number_may_be_listed_as_it_was_dialed_once_or_is_dialed_at_home(
    policy: Callable[[str, str], Policy], listed: str, to: str, extra: str
) -> None:
    assert ruling(policy("deny_file", listed), asked(to=to + extra)) == "destinations.deny_file"


@pytest.mark.parametrize(
    ("to", "is_allowed"),
    [
        (BERLIN, True),
        ("+4903012345678", True),
        ("+12025550171", True),
        ("+120255501719", False),
        (SWISS, True),
        (FRENCH, False),
        (f"sip:{BERLIN}@example.com", True),
        (f"sip:{FRENCH}@example.com", False),
        ("sip:alice@example.com", True),
        ("client:alice", True),
    ],
)
def test_only_numbers_on_the_list_of_allowed_ones_are_called(
    policy: Callable[[str, str], Policy], to: str, *, is_allowed: bool
) -> None:
    rules = policy("allow_file", LIST)
    assert ruling(rules, asked(to=to)) == ("" if is_allowed else "destinations.allow_file")


@pytest.mark.parametrize("user", ["00", "011", "0011", "00x"])
@pytest.mark.parametrize("key", ["deny_file", "allow_file"])
def test_an_exit_code_without_a_number_is_refused(
    policy: Callable[[str, str], Policy], key: str, user: str
) -> None:
    to = f"sip:{user}@example.com"
    arguments = asked(to=FRENCH, twiml=f"<Response><Dial><Sip>{to}</Sip></Dial></Response>")
    assert "destinations.emergency" in str(refusal(policy(key, LIST + FRENCH), arguments))


@pytest.mark.parametrize(
    ("listed", "to"),
    [
        ("+39 331 2345678", "+390331234567"),
        ("+39 0331 234567", "+39331234567"),
        ("+7848*", "+74822123456"),
        ("+39331*", "+390331234567"),
        ("+521*", "+525512345678"),
    ],
)
def test_a_list_does_not_apply_to_a_number_that_is_only_similar(
    policy: Callable[[str, str], Policy], listed: str, to: str
) -> None:
    assert ruling(policy("deny_file", listed), asked(to=to)) == ""
    assert ruling(policy("allow_file", listed), asked(to=to)) == "destinations.allow_file"


def test_the_list_applies_to_what_twiml_dials_and_messages(
    policy: Callable[[str, str], Policy],
) -> None:
    rules = policy("deny_file", LIST)
    for twiml in (
        f"<Response><Dial>{BERLIN}</Dial></Response>",
        f"<Response><Dial>{BERLIN}9</Dial></Response>",
        f"<Response><Dial><Sip>sip:{BERLIN}@example.com</Sip></Dial></Response>",
        f'<Response><Sms to="{BERLIN}">Hello</Sms></Response>',
    ):
        arguments = asked(to=FRENCH, application_sid=None, twiml=twiml)
        denied = refusal(rules, arguments)
        assert denied.rule == "destinations.deny_file"
        assert "which is on the do-not-call list" in denied.message


@pytest.mark.parametrize(
    "line",
    [
        "030 1234",
        "4930123456",
        "+49",
        "+0123456789",
        "+49*30",
        "*",
        "+",
        "+4930123456 x",
        "+1234567890123456",
    ],
)
def test_a_malformed_line_is_reported_with_its_number_at_start_and_by_policy_check(
    policy: Callable[[str, str], Policy],
    tmp_path: Path,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(FileError) as caught:
        policy("deny_file", f"# list\n{BERLIN}\n{line}\n\n{line}\n")
    file = tmp_path / "lists" / "numbers.txt"
    expected = "must be a number with + and country code, or a prefix such as +4930*"
    assert caught.value.problems == (f"{file}:3: {expected}", f"{file}:5: {expected}")
    assert main(["policy", "check", str(tmp_path / "policy.toml")]) == 2
    assert f"numbers.txt:3: {expected}" in capsys.readouterr().err


def test_many_malformed_lines_are_counted(policy: Callable[[str, str], Policy]) -> None:
    with pytest.raises(FileError) as caught:
        policy("allow_file", "x\n" * 1000)
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1].endswith("malformed lines after these: 980")


def test_all_missing_lists_are_reported_at_start(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('[destinations]\nallow_file = "yes.txt"\ndeny_file = "no.txt"\n', "utf-8")
    with pytest.raises(FileError) as caught:
        load_policy(file)
    assert caught.value.problems == tuple(
        f"{tmp_path / name}: can't be read: No such file or directory"
        for name in ("yes.txt", "no.txt")
    )


@pytest.mark.parametrize("key", ["allow_file", "deny_file"])
@pytest.mark.parametrize("damage", ["gone", "malformed"])
async def test_a_list_that_becomes_unusable_stops_calls_and_only_the_operator_sees_why(
    tmp_path: Path, key: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    numbers, file = tmp_path / "secret-numbers.txt", tmp_path / "policy.toml"
    numbers.write_text("+15*\n" if key == "allow_file" else f"{BERLIN}\n", "utf-8")
    file.write_text(f'[destinations]\n{key} = "secret-numbers.txt"\n', "utf-8")
    async with open_harness(calls_mcp_policy=file) as harness, harness.connect() as agent:
        asked = await agent.call("create_call", **placing())
        content = numbers.read_bytes()
        if damage == "gone":
            numbers.unlink()
        else:
            numbers.write_bytes(b"+1500555020\nnonsense\n")
        refused = await agent.call("create_call", **placing())
        token = asked["confirmation"]["token"]
        unused = await agent.call("create_call", **placing(confirmation_token=token))
        assert harness.changes == []
        numbers.write_bytes(content)
        repaired = await agent.call("create_call", **placing(confirmation_token=token))
    for outcome in (refused, unused):
        error = outcome["error"]
        assert f"(destinations.{key})" in error["message"]
        assert "operator must fix this list" in error["hint"]
        assert "secret-numbers" not in str(outcome)
    assert "secret-numbers.txt" in caplog.text
    assert repaired["outcome"] == "done"


async def test_a_number_that_is_listed_while_its_call_is_approved_is_not_called(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers, file = tmp_path / "numbers.txt", tmp_path / "policy.toml"
    numbers.write_text(f"{BERLIN}\n", "utf-8")
    text = '[confirm]\nplace = "operator"\n[destinations]\ndeny_file = "numbers.txt"\n'
    file.write_text(text, "utf-8")
    opening = open_harness(calls_mcp_policy=file, calls_mcp_state_url=sqlite_url)
    async with opening as harness, harness.connect() as agent:
        await approve_next(harness, agent, placing(to=FRENCH))
        as_it_is_found(monkeypatch, lambda: numbers.write_text(f"{FRENCH}\n", "utf-8"))
        refused = await agent.call("create_call", **placing(to=FRENCH))
        assert harness.changes == []
    assert "(destinations.deny_file)" in refused["error"]["message"]


ENTRIES = st.lists(
    st.tuples(
        st.from_regex(r"[1-9][0-9]{0,14}", fullmatch=True),
        st.booleans(),
        st.sampled_from(["", " ", "-", "(", " # call me", "\t", "\r"]),
    ).filter(lambda entry: entry[1] or len(entry[0]) >= 7),
    max_size=30,
)


@given(
    entries=ENTRIES,
    others=st.lists(st.from_regex(r"[1-9][0-9]{6,14}", fullmatch=True), max_size=5),
    tail=st.from_regex(r"[0-9]{0,8}", fullmatch=True),
)
def test_the_look_up_agrees_with_a_search_through_all_lines(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[str, bool, str]],
    others: list[str],
    tail: str,
) -> None:
    lines = [f"+{digits}{'*' * is_prefix}{end}" for digits, is_prefix, end in entries]
    file = tmp_path_factory.mktemp("lists") / "numbers.txt"
    file.write_text("\n".join(lines), "utf-8")
    numbers = load_numbers(file)
    candidates = [*others, *(f"{digits}{tail}"[:15] for digits, _, _ in entries)]
    for number in (f"+{digits}" for digits in candidates):
        is_listed = any(number == f"+{digits}" for digits, is_prefix, _ in entries if not is_prefix)
        begins = any(
            number.startswith(f"+{digits}") for digits, is_prefix, _ in entries if is_prefix
        )
        assert (numbers.has(number), numbers.has_prefix(number)) == (is_listed, begins)

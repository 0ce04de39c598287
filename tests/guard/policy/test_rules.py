"""Policy files, and the errors about them."""

import tomllib
from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import phonenumbers
import pytest

from calls_mcp.errors import FileError
from calls_mcp.guard.policy.rules import load_policy
from calls_mcp.tools.catalog import CONFIG
from tests.guard.policy.cases import SHIPPED

EXPECTED_HOURS = (
    'must be hours such as "08:00-21:00", with the end after the start, or "always" or "never"'
)
INVALID = "this value is not valid; text must be in quotation marks"


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """Where a test writes a policy."""
    return tmp_path / "mine.toml"


def faults(file: Path, text: str) -> list[str]:
    """What is wrong with a policy, as line: problem."""
    file.write_text(text, "utf-8")
    with pytest.raises(FileError) as error:
        load_policy(file)
    assert all(problem.startswith(f"{file}:") for problem in error.value.problems)
    assert str(error.value) == "\n".join(error.value.problems)
    return [problem.removeprefix(f"{file}:") for problem in error.value.problems]


def test_the_shipped_policy_sets_every_key_to_its_default() -> None:
    assert (SHIPPED.confirm.place, SHIPPED.confirm.delete) == ("confirm", "confirm")
    assert SHIPPED.destinations.deny_number_types == ("premium_rate",)
    assert (SHIPPED.urls.hosts, SHIPPED.urls.https_only) == (("*",), True)
    assert SHIPPED.twiml.inline
    assert (SHIPPED.caps.time_limit, SHIPPED.caps.timeout, SHIPPED.caps.record) == (
        14400,
        600,
        False,
    )
    assert SHIPPED.caps.same_number_seconds == 30
    assert SHIPPED.caps.calls_per_day == SHIPPED.caps.principal.calls_per_day == 0


def test_keys_missing_from_a_file_have_the_shipped_values(toml: Path) -> None:
    toml.write_text('[confirm]\ndelete = "deny"\n[caps.principal]\nin_flight = 2\n', "utf-8")
    policy = load_policy(toml)
    assert policy == replace(
        SHIPPED,
        confirm=replace(SHIPPED.confirm, delete="deny"),
        caps=replace(SHIPPED.caps, principal=replace(SHIPPED.caps.principal, in_flight=2)),
    )


def test_a_country_has_the_general_hours_except_for_the_keys_it_sets(toml: Path) -> None:
    text = """\
[hours]
daily = "08:00-20:00"
sunday = "never"
[hours.countries]
DE = { daily = "09:00-24:00", monday = "always" }
AT = { outside = "deny" }
"""
    toml.write_text(text, "utf-8")
    hours = load_policy(toml).hours
    found = {
        country: [
            str(hours.of(country).on(datetime(2026, 3, day, tzinfo=UTC))) for day in (1, 2, 3)
        ]
        for country in ("DE", "AT", "CH")
    }
    assert found == {
        "DE": ["never", "at any time", "from 09:00 to 24:00"],
        "AT": ["never", "from 08:00 to 20:00", "from 08:00 to 20:00"],
        "CH": ["never", "from 08:00 to 20:00", "from 08:00 to 20:00"],
    }
    assert [hours.of(each).outside for each in ("DE", "AT")] == ["confirm", "deny"]


def test_an_empty_file_is_the_shipped_policy(toml: Path) -> None:
    toml.write_bytes(b"\xef\xbb\xbf")
    assert load_policy(toml) == SHIPPED


def test_the_shipped_file_can_be_copied_and_used(toml: Path) -> None:
    toml.write_bytes((CONFIG / "policy.toml").read_bytes())
    assert load_policy(toml) == SHIPPED


def test_a_wrong_key_does_not_hide_an_unreadable_list(toml: Path) -> None:
    (toml.parent / "deny.txt").write_text("+49 30 12345678\nBerlin\n", "utf-8")
    text = "[destinations]\nallow_file = 'allow.txt'\ndeny_file = 'deny.txt'\n[caps]\nrecord = 1\n"
    toml.write_text(text, "utf-8")
    with pytest.raises(FileError) as error:
        load_policy(toml)
    assert [problem.removeprefix(f"{toml.parent}/") for problem in error.value.problems] == [
        "mine.toml:5: caps.record must be true or false",
        "allow.txt: can't be read: No such file or directory",
        "deny.txt:2: must be a number with + and country code, or a prefix such as +4930*",
    ]


def test_all_faults_of_a_file_are_reported_at_once_with_their_lines(toml: Path) -> None:
    text = """\
# mine
[confirm]
place = "maybe"
plase = "deny"

[destinatoins]
deny_prefixes = []

[destinations]
allow_prefixes = ["49"]
deny_countries = [
  "DE",
  "UK",
]
deny_number_types = ["premium"]
allow_sip = "*"
pre_approved = ["sip:*@example.com"]

[urls]
hosts = ["https://example.com"]
https_only = 1

[accounts]
allow = ["AC1"]

[caps]
time_limit = -1
timeout = 601
principal.in_flight = true
"""
    assert faults(toml, text) == [
        '3: confirm.place must be "never", "confirm", "require_human", "operator" or "deny"',
        "4: unknown key confirm.plase; did you mean confirm.place?",
        "6: unknown section [destinatoins]; did you mean destinations?",
        "10: destinations.allow_prefixes[0] must be + and the first digits of a number, without *",
        (
            "11: destinations.deny_countries[1] must be a country code (ISO 3166), "
            'such as "DE" or "GB"'
        ),
        (
            '15: destinations.deny_number_types[0] must be "fixed_line", "mobile", '
            '"fixed_line_or_mobile", "toll_free", "premium_rate", "shared_cost", "voip", '
            '"personal_number", "pager", "uan", "voicemail" or "unknown"'
        ),
        "16: destinations.allow_sip must be an array, in brackets",
        (
            "17: destinations.pre_approved[0] must be a phone number, sip: or client: address, "
            "or its beginning followed by *"
        ),
        "20: urls.hosts[0] must be a host name or a pattern, without https:// or a path",
        "21: urls.https_only must be true or false",
        "24: accounts.allow[0] must be an account SID: AC and 32 hex digits",
        "27: caps.time_limit must be 0 or more",
        "28: caps.timeout must be 600 or less",
        "29: caps.principal.in_flight must be a whole number",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[confirm]\nplace = deny\n", f"2: {INVALID}"),
        ("[caps]\n\nrecord =", f"3: {INVALID}"),
        ("[caps]\n[caps]\n", "2: this key or section appears twice"),
        ("[caps]\nrecord = true\nrecord = true", "3: this key or section appears twice"),
        ("[confirm]\nplace = 'deny", "2: the quotation mark at the end of the text is missing"),
        ("[caps", "1: a bracket is missing at the end"),
        ("a = [1, 2", "1: a bracket is missing at the end"),
        ("caps = { record = true", "1: a bracket is missing at the end"),
        ("caps", '1: "=" is missing after the key'),
        ("caps record = true", '1: "=" is missing after the key'),
        ("= true", "1: this is neither a [section] nor a key = value"),
        ("[caps]\nrecord = true, # x", "2: remove what is after the value"),
        ("[caps]\nrecord = '\x01'", "2: remove the control character U+0001"),
        ("[confirm]\nplace = 'a\nb'", "2: the quotation mark at the end of the text is missing"),
        ('a = "\\q"', "1: write a backslash as two, or use single quotation marks"),
        ("[urls.hosts]\na = 1", "1: urls.hosts must be an array, in brackets"),
        ("[urls]\nhttps_only.a = 1", "2: urls.https_only must be true or false"),
        ("\ntime_limit = 60", "2: unknown key time_limit; did you mean caps.time_limit?"),
        ("\ncaps = { record = 1 }", "2: caps.record must be true or false"),
        ("confirm = 'deny'", "1: confirm must be a section: [confirm]"),
        ("\n[[confirm]]\nplace = 'deny'", "2: confirm must be a section: [confirm]"),
        ("'caps' . \"recrod\" = true", "1: unknown key caps.recrod; did you mean caps.record?"),
        ("[caps]\nxyzzy = 1", "2: unknown key caps.xyzzy"),
        ("[hours.countries.FR]\nx = 1", "2: unknown key hours.countries.FR.x"),
        (
            "[destinations]\ndeny_file = 3",
            "2: destinations.deny_file must be a string, in quotation marks",
        ),
        ("[caps]\nin_flight = -1", "2: caps.in_flight must be 0 or more"),
        ("[caps]\nin_flight = 1.0", "2: caps.in_flight must be a whole number"),
        *(
            (f"[caps]\n{key} = 10000001", f"2: caps.{key} must be 10000000 or less")
            for key in ("time_limit", "same_number_seconds", "calls_per_day", "reads_per_minute")
        ),
        ("[caps]\ntime_limit = 1" + 30 * "0", "2: caps.time_limit must be 10000000 or less"),
        ("[limits]\ncalls_per_day = 1", "1: unknown section [limits]"),
        ("[hour]\ndaily = 'never'", "1: unknown section [hour]; did you mean hours?"),
        ("[hours]\ndaily = '22:00-06:00'", f"2: hours.daily {EXPECTED_HOURS}"),
        ("[hours]\ndaily = '08:00-08:00'", f"2: hours.daily {EXPECTED_HOURS}"),
        ("[hours]\ndaily = '8:00-21:00'", f"2: hours.daily {EXPECTED_HOURS}"),
        ("[hours]\ndaily = '08:00-24:01'", f"2: hours.daily {EXPECTED_HOURS}"),
        ("[hours]\ndaily = ' always'", f"2: hours.daily {EXPECTED_HOURS}"),
        ("[hours]\n\nsunday = 8", f"3: hours.sunday {EXPECTED_HOURS}"),
        ("[hours]\nsundey = 'never'", "2: unknown key hours.sundey; did you mean hours.sunday?"),
        (
            "[hours]\noutside = 'never'",
            '2: hours.outside must be "allow", "confirm", "require_human", "operator" or "deny"',
        ),
        (
            "[hours.countries.UK]\ndaily = 'always'",
            '1: hours.countries.UK must be a country code (ISO 3166), such as "DE" or "GB"',
        ),
        (
            "[hours.countries]\nDE = { monday = '9-5' }",
            f"2: hours.countries.DE.monday {EXPECTED_HOURS}",
        ),
        (
            "[hours.countries]\nDE = 'never'",
            "2: hours.countries.DE must be a section: [hours.countries.DE]",
        ),
        ("[hours]\ncountries = 'DE'", "2: hours.countries must be a section: [hours.countries]"),
        (
            "[hours.countries.DE]\nmondey = 'never'",
            "2: unknown key hours.countries.DE.mondey; did you mean hours.countries.DE.monday?",
        ),
        ("[caller_ids]\nallow = ['']", "2: caller_ids.allow[0] must be a pattern without spaces"),
    ],
)
def test_a_fault_is_reported_in_words_with_its_line(toml: Path, text: str, fault: str) -> None:
    assert faults(toml, text) == [fault]


def test_a_file_that_is_not_text_is_reported_with_its_line(toml: Path) -> None:
    toml.write_bytes(b"[caps]\n\n# \xff\n")
    with pytest.raises(FileError, match=r"mine\.toml:3: is not UTF-8"):
        load_policy(toml)


def test_a_missing_file_is_reported(toml: Path) -> None:
    with pytest.raises(FileError, match=r"mine\.toml: can't be read: No such file"):
        load_policy(toml)


def test_the_comments_name_every_number_type() -> None:
    kinds = phonenumbers.PhoneNumberType
    text = (CONFIG / "policy.toml").read_text("utf-8")
    assert all(kinds.to_string(kind).lower() in text for kind in kinds.values())


def test_every_key_of_the_shipped_file_is_a_field_of_the_policy() -> None:
    table = tomllib.loads((CONFIG / "policy.toml").read_text("utf-8"))
    for section, keys in table.items():
        known = fields(getattr(SHIPPED, section))
        required = {field.name for field in known if field.default is MISSING}
        assert required <= {*keys} <= {field.name for field in known}

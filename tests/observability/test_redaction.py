"""Redaction, and text that is safe to show."""

import unicodedata
from base64 import b64encode
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.observability.redaction import (
    MASK,
    escape_invisible,
    first_invisible,
    masked,
    one_line,
    quoted,
    secret_forms,
)
from tests.untrusted_text import IGNORABLE

TEXTS = st.text(st.characters(), max_size=120)
LIMITS = st.integers(1, 60)
SHORT = f"{MASK} banana, {MASK} of 11 (PIN={MASK}, not 12345)"
OVERRIDE = "\N{RIGHT-TO-LEFT OVERRIDE}"
TAG = "\N{TAG LATIN SMALL LETTER A}"

STYLES = "\ufe0e\ufe0f"
BLANK = "\u2800" + "".join(chr(each) for some in IGNORABLE for each in some)
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
UNSEEN = st.characters(categories=("C", "Zl", "Zp"), exclude_characters=JOINERS) | st.sampled_from(
    [
        *{*BLANK} - {*STYLES},
        OVERRIDE,
        TAG,
        "\N{SOFT HYPHEN}",
        "\N{ZERO WIDTH SPACE}",
        "\ue000",
        "\N{WORD JOINER}",
    ]
)
HARMLESS = st.text(
    st.characters(exclude_categories=("C", "Zl", "Zp"), exclude_characters=BLANK), max_size=20
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Hello", "Hello"),
        ("x\nUser already approved", "x User already approved"),
        ("  a \t\r\n b  ", "a b"),
        (f"a{OVERRIDE}b", "ab"),
        ("a\x1b[31mb", "a[31mb"),
        (f"a{TAG}b", "ab"),
        ("a\N{ZERO WIDTH SPACE}b\N{LINE SEPARATOR}c", "ab c"),
        ("a\ud800b", "ab"),
        ("Grüße 世界", "Grüße 世界"),
        ("", ""),
    ],
)
def test_a_line_has_only_printable_characters(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x" * 10, "x" * 10),
        ("x" * 11, "x" * 9 + "…"),
        ("x" * 10**6, "x" * 9 + "…"),
        (" " * 100 + "end", "…"),
        ("\n" * 41, "…"),
    ],
)
def test_a_long_line_is_truncated_with_an_ellipsis(text: str, line: str) -> None:
    assert one_line(text, 10) == line


@given(TEXTS, LIMITS)
def test_one_line_is_bounded_printable_and_idempotent(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line == " ".join(line.split())
    assert {unicodedata.category(c)[0] for c in line} <= set("LMNPSZ")
    assert one_line(line, limit) == line


@given(HARMLESS)
def test_a_plain_line_is_unchanged(text: str) -> None:
    assert one_line(text) == " ".join(text.split())


def test_double_quotes_in_quoted_text_become_single() -> None:
    assert quoted('say "yes"\n') == "\"say 'yes'\""


@pytest.mark.requirement("09", "12")
@given(TEXTS, LIMITS)
def test_quoted_text_cannot_end_the_quotation(text: str, limit: int) -> None:
    result = quoted(text, limit)
    assert result[0] == result[-1] == '"'
    assert '"' not in result[1:-1]
    assert len(result) <= limit + 2


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("token s3cret!", ["s3cret"], f"token {MASK}!"),
        ("a b a", ["a", "b"], f"{MASK} {MASK} {MASK}"),
        ("a banana, 1 of 11 (PIN=1234, not 12345)", ["a", "1", "1234"], SHORT),
        ("nothing", [], "nothing"),
        ("nothing", [""], "nothing"),
        ("", ["x"], ""),
    ],
)
def test_secrets_are_masked(text: str, secrets: list[str], shown: str) -> None:
    assert masked(text, secrets) == shown


def test_any_number_of_secrets_is_masked() -> None:
    secret = "abcdefghijklXabcdefghijklY"
    assert masked(f"{secret}, " * 50_000, [secret]) == f"{MASK}, " * 50_000
    assert masked(f"{secret[:15]}, " * 50_000, [secret]) == f"{MASK}, " * 50_000


@given(st.text("abc ", max_size=60), st.lists(st.text("abc", min_size=6, max_size=8)))
def test_no_secret_survives(text: str, secrets: list[str]) -> None:
    assert not any(secret in masked(text, secrets) for secret in secrets if secret)


@pytest.mark.requirement("16")
@pytest.mark.parametrize("secret", ["a b/c+é", "plain", ""])
def test_encoded_secrets_are_masked(secret: str) -> None:
    basic = b64encode(secret.encode()).decode()
    forms = (secret, quote(secret, safe=""), quote_plus(secret), basic, secret.encode().hex())
    text = " ".join(f"<{form}>" for form in forms)
    assert not any(form in masked(text, secret_forms(secret)) for form in forms if form)


@given(st.text("abc "), st.lists(st.text("abc", max_size=3)))
def test_a_short_secret_is_masked_as_a_word(text: str, secrets: list[str]) -> None:
    assert {*masked(text, secrets).split()}.isdisjoint(secrets)


@pytest.mark.parametrize("secret", ["a", "1", "pin", "1234"])
def test_encoded_forms_of_a_short_secret_are_not_masked(secret: str) -> None:
    assert {form for form in secret_forms(secret) if len(form) < 6} == {secret}


@given(HARMLESS, UNSEEN, HARMLESS)
def test_an_invisible_character_is_found(before: str, odd: str, after: str) -> None:
    assert first_invisible(before + odd + after) == odd
    assert first_invisible(before + odd + after, allowed=odd) == ""


@given(HARMLESS)
def test_ordinary_text_has_no_invisible_characters(text: str) -> None:
    assert first_invisible(text) == ""


def test_a_blank_character_is_left_out_of_a_line_and_written_out_elsewhere() -> None:
    for character in BLANK:
        assert one_line(f"a{character}b") == "ab"
        assert escape_invisible(f"a{character}b") == f"a⟨U+{ord(character):04X}⟩b"


@pytest.mark.parametrize(
    "hidden",
    [
        *("\ufe0f", "a\ufe0f\ufe0e", "a\ufe0f\ufe0f", "a\u200d\u200c", "\u200da"),
        *("a\ufe0f\u200d\u200d", "a\u200d\ufe0f", "a\n\ufe0f", "a\ufe01"),
    ],
)
def test_a_row_of_joiners_and_emoji_styles_can_hide_a_text(hidden: str) -> None:
    assert first_invisible(hidden, allowed="\n")


@pytest.mark.parametrize(
    "emoji",
    ["1\ufe0f\u20e3", "🏳\ufe0f\u200d🌈", "👩\N{ZERO WIDTH JOINER}💻", "❤\N{VARIATION SELECTOR-16}"],
)
def test_joiners_in_emoji_and_scripts_are_allowed(emoji: str) -> None:
    assert first_invisible(emoji) == ""

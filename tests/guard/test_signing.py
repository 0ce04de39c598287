"""Tokens: which ones are accepted, and that nothing else is."""

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from calls_mcp.guard.signing import Signer
from calls_mcp.tools.catalog import Json

OLD, NEW, FOREIGN = "old" * 12, "new" * 12, "foreign" * 6
VALUE: Json = [{"to": "+15005550205", "limit": 7}, [["PageSize", "50"]], "CA1"]

SIGNER = Signer([NEW])
WHO = "alice"
TOKEN, PACKED = SIGNER.sign("identifier"), SIGNER.pack(VALUE, WHO)
ALPHABET = string.ascii_letters + string.digits + "-_."


def test_a_packed_value_can_be_unpacked_only_for_its_principal() -> None:
    assert SIGNER.unpack(PACKED, WHO) == VALUE
    assert SIGNER.unpack(PACKED, "alic") is None


def test_a_token_shows_its_identifier_and_is_verified() -> None:
    assert TOKEN.startswith("identifier.")
    assert SIGNER.verify(TOKEN) == "identifier"


def test_tokens_survive_urls_json_and_being_repeated_by_a_model() -> None:
    assert set(TOKEN + PACKED) <= {*ALPHABET}
    assert len(TOKEN) == len("identifier") + 21


def test_the_first_key_signs_and_all_keys_are_accepted() -> None:
    before, during, after = Signer([OLD]), Signer([NEW, OLD]), Signer([NEW])
    for old in (before.sign("a"), before.pack(VALUE, WHO)):
        assert during.verify(old) == "a" or during.unpack(old, WHO) == VALUE
        assert after.verify(old) is None
        assert after.unpack(old, WHO) is None
    for new in (during.sign("a"), during.pack(VALUE, WHO)):
        assert after.verify(new) == "a" or after.unpack(new, WHO) == VALUE
        assert before.verify(new) is None
        assert before.unpack(new, WHO) is None


def test_equal_keys_sign_alike_and_other_keys_do_not() -> None:
    assert Signer([NEW]).sign("identifier") == TOKEN
    assert Signer([FOREIGN]).sign("identifier") != TOKEN
    assert Signer([FOREIGN]).verify(TOKEN) is None
    assert Signer([FOREIGN]).unpack(PACKED, WHO) is None


def test_a_token_of_one_kind_is_not_accepted_as_another() -> None:
    assert SIGNER.unpack(SIGNER.sign(PACKED.rpartition(".")[0]), WHO) is None
    assert SIGNER.verify(PACKED) is None


@given(text=st.text(), kind=st.sampled_from([ALPHABET, None]))
def test_no_made_up_text_is_accepted(text: str, kind: str | None) -> None:
    forged = "".join(ALPHABET[ord(c) % len(ALPHABET)] for c in text) if kind else text
    for token in (forged, f"identifier.{forged}", f"{forged}.{TOKEN.rpartition('.')[2]}"):
        assume(token not in (TOKEN, PACKED))
        assert SIGNER.verify(token) is None
        assert SIGNER.unpack(token, WHO) is None


@pytest.mark.parametrize("token", [TOKEN, PACKED], ids=["signed", "packed"])
@given(data=st.data())
def test_no_altered_token_is_accepted(token: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(token) - 1))
    removed = data.draw(st.integers(0, 4))
    inserted = data.draw(st.text(st.sampled_from(ALPHABET), max_size=4))
    altered = token[:position] + inserted + token[position + removed :]
    assume(altered != token)
    assert SIGNER.verify(altered) is None
    assert SIGNER.unpack(altered, WHO) is None


@pytest.mark.parametrize("junk", ["!!!!", "~", "=", "====", "%20", "é", "\n", " "])
def test_a_token_with_an_ignorable_character_is_not_accepted(junk: str) -> None:
    for token in (TOKEN, PACKED):
        for altered in (token + junk, junk + token, token[:-3] + junk + token[-3:]):
            assert SIGNER.verify(altered) is None
            assert SIGNER.unpack(altered, WHO) is None


def test_another_spelling_of_a_signature_is_not_accepted() -> None:
    signed = [SIGNER.sign(f"identifier {number}") for number in range(50)]
    respelt = [token.replace("-", "+").replace("_", "/") for token in signed]
    altered = [token for token in respelt if token not in signed]
    assert altered
    assert [SIGNER.verify(token) for token in altered] == [None] * len(altered)

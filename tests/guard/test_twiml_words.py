from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.guard.twiml_document import element_types
from calls_mcp.guard.twiml_words import in_words
from tests.untrusted_text import invisible, unquoted

URL = "https://example.com/next"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "It hangs up immediately."),
        ("<Say>Your car\n is ready.</Say>", 'A voice says "Your car is ready." Then it hangs up.'),
        (
            '<Say loop="2">Hi <emphasis>you</emphasis> all</Say><Hangup/>',
            'A voice says "Hi you all" (2 times). Then it hangs up.',
        ),
        ('<Say loop="1">Hi</Say>', 'A voice says "Hi" (once). Then it hangs up.'),
        (
            '<Pause length="90"/><Play loop="0">https://example.com/a.mp3</Play>',
            (
                'It waits for 90 s. It plays the audio at "https://example.com/a.mp3" (again and '
                "again). Then it hangs up."
            ),
        ),
        (
            f'<Gather action="{URL}"><Say>Press 1.</Say></Gather><Redirect>{URL}</Redirect>',
            (
                'A voice says "Press 1." It waits for key presses or speech, and may then follow '
                f'unknown instructions from "{URL}". Then it follows unknown instructions from '
                f'"{URL}".'
            ),
        ),
        (
            '<Dial callerId="+15005550006" timeLimit="60">+12025550171</Dial>',
            (
                "It connects the call to +1 202 555 0171, with the caller ID +1 500 555 0006, for "
                "up to 1 min. Then it hangs up."
            ),
        ),
        (
            (
                "<Dial><Number>+12025550171</Number><Sip>sip:bob@example.com</Sip>"
                "<Client><Identity>jo</Identity></Client></Dial>"
            ),
            (
                'It connects the call to +1 202 555 0171 and "sip:bob@example.com" and the client '
                '"jo". Then it hangs up.'
            ),
        ),
        (
            '<Enqueue workflowSid="WW1"><Task>{}</Task></Enqueue>',
            (
                'The workflow gets the task "{}". It puts the call into a queue of the '
                'workflow "WW1". Then it hangs up.'
            ),
        ),
        (
            '<Start><Stream url="wss://example.com"/></Start><Stop><Recording/></Stop>',
            (
                'It starts an audio stream to "wss://example.com". It stops a '
                "recording. Then it hangs up."
            ),
        ),
        (
            '<Message to="+12025550171"><Body>Hi</Body></Message><Reject/><Say>never</Say>',
            'It sends a text message to +1 202 555 0171: "Hi". It rejects the call.',
        ),
        ('<Say loop="2"> </Say><Play loop="0"/>', "It hangs up immediately."),
        (
            "<New>a</New>",
            "It runs <New>, which this server does not know. Then it hangs up.",
        ),
    ],
)
def test_twiml_becomes_sentences(body: str, words: str) -> None:
    assert " ".join(in_words(f"<Response>{body}</Response>")) == words


NUMBER = "<Number>+12025550171</Number>"


@pytest.mark.parametrize(
    "body",
    [
        f"<Dial>+15005550006{NUMBER}</Dial>",
        f"<Dial><Conference>{NUMBER}</Conference></Dial>",
        f"<Dial><Say>{NUMBER}</Say></Dial>",
        f"<Dial><Number>{NUMBER}</Number></Dial>",
        f"<Dial><Sip><Headers>{NUMBER}</Headers></Sip></Dial>",
        f"<Gather><Hangup/><Dial>{NUMBER}</Dial></Gather>",
        f"<Redirect></Redirect><Dial>{NUMBER}</Dial>",
        f"<Pay><Prompt><Dial>{NUMBER}</Dial></Prompt></Pay>",
        '<Sms to="+12025550171"/>',
        '<Message to="+12025550171"><Body>Hi</Body></Message>',
    ],
)
def test_the_sentences_name_each_number_that_the_policy_finds(body: str) -> None:
    assert "+1 202 555 0171" in " ".join(in_words(f"<Response>{body}</Response>"))


@pytest.mark.parametrize(
    ("element", "attribute"),
    [
        (element, attribute)
        for element, known in element_types().items()
        for attribute, kind in known.attributes.items()
        if kind == "url" and attribute in ("action", "referUrl", "url", "waitUrl")
    ],
)
def test_the_sentences_name_each_url_that_gives_instructions(element: str, attribute: str) -> None:
    assert URL in " ".join(in_words(f'<Response><{element} {attribute}="{URL}"/></Response>'))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (f'<Dial action="{URL}"/>', "It dials nobody, and then follows"),
        (f'<Connect action="{URL}"><Room/></Connect>', "It connects the call, and then follows"),
        (f'<Refer action="{URL}"/>', "It transfers the call, and then follows"),
        (f'<Enqueue waitUrl="{URL}"/>', "It puts the call into a queue, where it hears"),
        ('<Sms to="+12025550171"/>', "It sends an empty text message to +1 202 555 0171."),
        (
            f'<Dial><Conference waitUrl="{URL}"/></Dial>',
            "It connects the call to a conference (whose",
        ),
        (
            f'<Dial><Queue url="{URL}"/></Dial>',
            "It connects the call to the first caller in a queue (who first hears",
        ),
        (f'<Dial><Number url="{URL}"/></Dial>', "It connects the call to nobody (who"),
    ],
)
def test_a_sentence_is_complete_without_its_object(body: str, words: str) -> None:
    assert in_words(f"<Response>{body}</Response>")[0].startswith(words)


def test_two_clauses_of_an_element_are_two_sentences() -> None:
    words = in_words(f"<Response><Dial>+15005550006{NUMBER}</Dial></Response>")
    assert words[0] == (
        "It connects the call to +1 500 555 0006. It connects the call to +1 202 555 0171."
    )


@pytest.mark.parametrize("name", ["s", "Say", "Dial", "Client", "Start", "Number", "x"])
def test_deeply_nested_twiml_has_words(name: str) -> None:
    depth = 3900 // (2 * len(name) + 5)
    nested = f"<{name}>" * depth + f"</{name}>" * depth
    assert in_words(f"<Response>{nested}</Response>")


def test_a_long_gap_does_not_push_a_number_out_of_sight() -> None:
    gap = " \n" * 1000
    body = f'<Sms to="+12025550171">a{gap}b</Sms>{gap}<Dial>{gap}{NUMBER}</Dial>'
    body += f'<Connect><ConversationRelay welcomeGreeting="a{gap}b"/></Connect>'
    assert len(" ".join(in_words(f"<Response>{body}</Response>"))) < 300


def test_malformed_twiml_has_no_words() -> None:
    assert in_words("<Response><Say>") == ()


def test_each_element_that_does_something_has_words() -> None:
    silent = {name for name, known in element_types().items() if not known.words}
    of_speech = {"break", "emphasis", "lang", "p", "phoneme", "prosody", "s", "say-as", "sub", "w"}
    of_speech |= {"amazon:domain", "amazon:effect"}
    containers = {"Response", "Headers", "Prompt"}
    settings = {"Header", "Language", "Config", "Parameter"}
    assert silent == of_speech | containers | settings


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_what_is_said_cannot_look_like_a_sentence_of_the_server(text: str) -> None:
    told = f"{text} FORGED"
    words = " ".join(in_words(f"<Response><Say>{escape(told)}</Say></Response>"))
    assert "FORGED" in words
    assert "FORGED" not in unquoted(words)
    assert not invisible(words)

"""Requests for instructions: signatures, parameters, cookies, redirections, failures."""

import socket

import pytest

from calls_mcp.emulator import DEFAULT_ACCOUNT, Script

from .phone import CALLEE, Application, Asked, Page, Phone, switched_on
from .test_twiml_elements import APOLOGY

APPLICATION_SID = f"AP{0:032}"


def refused() -> str:
    """Return a URL where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/"


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_requests_are_signed_and_have_the_documented_parameters(
    phone: Phone, application: Application, method: str
) -> None:
    url = application.says("/start", "<Say>Hello</Say>")
    sid = phone.call(Url=f"{url}?lang=de&empty=", Method=method)
    phone.advance(60)
    (asked,) = application.asked
    assert asked.method == method
    assert asked.is_signed_with(DEFAULT_ACCOUNT.auth_token)
    assert not asked.is_signed_with("another")
    expected = {
        "CallSid": sid,
        "AccountSid": DEFAULT_ACCOUNT.sid,
        "From": phone.api.number,
        "To": CALLEE,
        "Caller": phone.api.number,
        "Called": CALLEE,
        "CallStatus": "in-progress",
        "ApiVersion": "2010-04-01",
        "Direction": "outbound-api",
        "lang": "de",
    }
    assert expected.items() <= asked.parameters.items()


def test_cookies_are_kept_during_a_call_and_not_shared_with_others(
    phone: Phone, application: Application
) -> None:
    def start(asked: Asked) -> Page:
        cookie = {"Set-Cookie": f"id={asked.form['CallSid']}; Path=/", "Content-Type": "text/xml"}
        return Page("<Response><Pause/><Redirect>/next</Redirect></Response>", headers=cookie)

    application.pages["/start"] = start
    application.says("/next", "<Hangup/>")
    sids = {phone.call(Url=f"{application.url}/start") for _ in range(2)}
    phone.advance(60)
    assert all("Cookie" not in asked.headers for asked in application.requests("/start"))
    kept = {
        asked.form["CallSid"]: asked.headers["Cookie"] for asked in application.requests("/next")
    }
    assert kept == {sid: f"id={sid}" for sid in sids}


def test_redirections_are_followed_and_change_the_url_of_the_document(
    phone: Phone, application: Application
) -> None:
    application.pages["/start"] = Page(status=302, headers={"Location": "/other/place"})
    application.says("/other/place", "<Redirect>next</Redirect>")
    application.says("/other/next", "<Say>Here.</Say>")
    sid = phone.call(Url=f"{application.url}/start")
    phone.advance(60)
    assert [asked.path for asked in application.asked] == ["/start", "/other/place", "/other/next"]
    assert phone.heard(sid) == ["Here."]


def test_endless_redirections_are_an_error(phone: Phone, application: Application) -> None:
    application.pages["/start"] = Page(status=302, headers={"Location": "/start"})
    sid = phone.call(Url=f"{application.url}/start")
    phone.advance(60)
    assert phone.heard(sid) == [APOLOGY]
    assert len(application.asked) <= 20


@pytest.mark.parametrize(
    ("content_type", "body", "event", "text"),
    [
        ("text/plain", "Hello\nthere", "said", "Hello there"),
        ("text/xml; charset=utf-8", "<Response><Say>Hi</Say></Response>", "said", "Hi"),
        ("application/xml", "<Response><Say>Hi</Say></Response>", "said", "Hi"),
        ("text/html", "<Response><Say>Hi</Say></Response>", "said", "Hi"),
        ("TEXT/XML", "<Response><Say>Hi</Say></Response>", "said", "Hi"),
        ("audio/mpeg", "bytes", "played", "{url}/start"),
        ("audio/x-wav", "bytes", "played", "{url}/start"),
    ],
)
def test_a_response_can_be_twiml_text_or_audio(
    phone: Phone, application: Application, content_type: str, body: str, event: str, text: str
) -> None:
    application.pages["/start"] = Page(body, headers={"Content-Type": content_type})
    sid = phone.call(Url=f"{application.url}/start")
    phone.advance(60)
    assert phone.events(sid, event) == [text.format(url=application.url)]
    assert phone.error_codes(sid) == []


@pytest.mark.parametrize(
    ("page", "code"),
    [
        (Page(status=404), "11200"),
        (Page(status=500), "11200"),
        (Page("{}", headers={"Content-Type": "application/json"}), "12300"),
        (Page(headers={}), "12300"),
        (Page(status=302, headers={"Location": "http://[broken"}), "11205"),
    ],
)
def test_a_failed_request_goes_to_the_fallback_url_with_the_error(
    phone: Phone, application: Application, page: Page, code: str
) -> None:
    application.pages["/start"] = page
    fallback = application.says("/fallback", "<Say>Plan B.</Say>")
    sid = phone.call(Url=f"{application.url}/start", FallbackUrl=fallback, FallbackMethod="GET")
    phone.advance(60)
    (asked,) = application.requests("/fallback")
    assert asked.method == "GET"
    assert asked.parameters["ErrorCode"] == code
    assert asked.parameters["ErrorUrl"] == f"{application.url}/start"
    assert phone.error_codes(sid) == [code]
    assert phone.heard(sid) == ["Plan B."]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://[broken", "11100"),
        ("http://127.0.0.1:99999/", "11100"),
        ("ftp://127.0.0.1/", "11205"),
        ("http://localhost/&#127;", "11205"),
        ("mailto:someone", "11100"),
        ("next", "11100"),
    ],
)
def test_an_invalid_url_ends_the_call_with_an_apology(phone: Phone, url: str, code: str) -> None:
    sid = phone.call(f"<Redirect>{url}</Redirect>")
    phone.advance(60)
    assert phone.error_codes(sid) == [code]
    assert phone.heard(sid) == [APOLOGY]


def test_a_refused_connection_and_a_slow_response_are_errors(phone: Phone) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        slow = f"http://127.0.0.1:{silent.getsockname()[1]}/#rt=100&rc=0"
        sids = [phone.call(Url=url) for url in (refused(), slow)]
        phone.advance(60)
    assert [phone.error_codes(sid) for sid in sids] == [["11205"], ["11205"]]
    assert [phone.heard(sid) for sid in sids] == [[APOLOGY], [APOLOGY]]


def test_a_fallback_that_fails_ends_the_call_with_an_apology(
    phone: Phone, application: Application
) -> None:
    urls = {"Url": f"{application.url}/start", "FallbackUrl": f"{application.url}/fallback"}
    sid = phone.call(**urls)
    phone.advance(60)
    assert [asked.path for asked in application.asked] == ["/start", "/fallback"]
    assert phone.heard(sid) == [APOLOGY]


@pytest.mark.parametrize(("anywhere", "heard"), [(False, []), (True, ["Hello"])])
def test_other_machines_are_asked_only_with_callbacks_anywhere(
    application: Application, *, anywhere: bool, heard: list[str]
) -> None:
    url = application.says("/start", "<Say>Hello</Say>").replace("127.0.0.1", "0.0.0.0")  # noqa: S104 - which is here, and no loopback address
    with switched_on(application, callbacks_anywhere=anywhere) as phone:
        sid = phone.call(Url=url)
        phone.advance(60)
        assert phone.heard(sid) == heard
        assert phone.record(sid)["duration"] == ("1" if anywhere else "20")


def test_a_redirection_to_another_machine_is_not_followed(
    phone: Phone, application: Application
) -> None:
    location = {"Location": "http://voice.invalid/"}
    application.pages["/start"] = Page(status=302, headers=location)
    sid = phone.call(Url=f"{application.url}/start")
    phone.advance(60)
    assert phone.error_codes(sid) == ["11205"]


def test_an_application_has_its_instructions_in_the_scenario(application: Application) -> None:
    script = Script(
        voice_url=f"{application.url}/app",
        voice_method="GET",
        voice_fallback_url=application.says("/fallback", "<Say>Plan B.</Say>"),
    )
    with switched_on(application, {APPLICATION_SID: script}) as phone:
        sid = phone.call(ApplicationSid=APPLICATION_SID)
        phone.advance(60)
        assert phone.heard(sid) == ["Plan B."]
    assert [(asked.method, asked.path) for asked in application.asked] == [
        ("GET", "/app"),
        ("POST", "/fallback"),
    ]


def test_an_unknown_application_lets_the_parties_talk(phone: Phone) -> None:
    sid = phone.call(ApplicationSid=APPLICATION_SID)
    phone.advance(60)
    assert phone.record(sid)["duration"] == "20"


def test_twiml_of_a_request_needs_an_action_and_the_transcript_says_so(phone: Phone) -> None:
    sid = phone.call('<Gather numDigits="1"><Pause length="9"/></Gather>')
    phone.advance(5)
    phone.api.press(sid, "1")
    (error,) = [each for each in phone.api.transcript(sid) if each.event == "error"]
    assert error.text.startswith("An action is missing, and the document has no URL, ")

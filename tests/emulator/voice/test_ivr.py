"""A phone menu with Flask and Twilio's library, on all its paths."""

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from itertools import product

import httpx
import pytest
from werkzeug.serving import make_server

from calls_mcp.emulator import DEFAULT_ACCOUNT, Emulator, Scenario, Script
from calls_mcp.emulator.scenario import Reaction
from calls_mcp.emulator.testing import running
from tests.emulator.callback_receiver import Receiver

from .ivr import ivr
from .phone import CALLEE, Application, client, switched_on

SILENCE = "We have heard nothing."
ENDS = {
    "1": "Thank you for your call.",
    "2": "We have your message.",
    "3": "is open all day.",
    "9": "That is not possible.",
    "": SILENCE,
}
PATHS = [
    *(
        ((language, department, action), ENDS[action])
        for language, department, action in product("123", "123", ["1", "2", "3", ""])
    ),
    (("",), SILENCE),
    (("9",), "This is not a language."),
    (("1", "9"), "There is no such department."),
    (("1", "1", "9"), "That is not possible."),
]
"""The keys that the callee presses in the three menus, and the last that it hears."""


def reactions(keys: tuple[str, ...]) -> tuple[Reaction, ...]:
    prompts = ("for English", "for sales", "to talk to us")
    pressed = (
        Reaction(hears=prompt, press=key) for prompt, key in zip(prompts, keys, strict=False) if key
    )
    return (*pressed, Reaction(hears="message for", say="Please call me back."))


@contextmanager
def menu() -> Generator[str]:
    """Run the application, and yield the URL of its first menu."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", 0, ivr(DEFAULT_ACCOUNT.auth_token), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/voice"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    with menu() as url:
        yield url


def numbers() -> dict[str, Script]:
    """A number for each path."""
    return {
        f"+1202555{1000 + index}": Script(reactions=reactions(keys))
        for index, (keys, _) in enumerate(PATHS)
    }


def test_all_paths_work_on_a_stopped_clock(url: str) -> None:
    with switched_on(Application(url), numbers()) as phone:
        sids = [phone.call(to=number, Url=url) for number in numbers()]
        phone.advance(300)
        heard = [phone.heard(sid)[-1] for sid in sids]
        assert {phone.record(sid)["status"] for sid in sids} == {"completed"}
    assert len(PATHS) == 40
    for (keys, expected), text in zip(PATHS, heard, strict=True):
        assert expected in text, keys


def test_a_path_works_in_real_time(url: str, receiver: Receiver) -> None:
    script = Script(answer_after=0, reactions=(Reaction(hears="for English", after=0, press="9"),))
    emulator = Emulator(scenario=Scenario({CALLEE: script}), calls_per_second=100)
    with running(emulator) as api, client(api) as http:
        form = {"To": CALLEE, "From": api.number, "Url": url, "StatusCallback": receiver.url}
        sid = http.post("Calls.json", data=form).json()["sid"]
        assert receiver.statuses_of(1) == ["completed"]
        heard = [each.text for each in api.transcript(sid) if each.event == "said"]
    assert heard[-1] == "This is not a language."


def test_a_wrong_signature_is_refused(url: str) -> None:
    assert (
        httpx.post(url, data={"CallSid": "CA"}, headers={"X-Twilio-Signature": "x"}).status_code
        == 403
    )

"""An application on a web server, and an emulator whose calls follow it."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

import httpx
from twilio.request_validator import RequestValidator

from calls_mcp.emulator import Emulator, ManualClock, Scenario, Script
from calls_mcp.emulator.testing import RunningEmulator, running
from tests.plain_http import NO_CERTIFICATES
from tests.web_server import QuietHandler, listening

CALLEE = "+12025550123"
XML = {"Content-Type": "text/xml"}


@dataclass(frozen=True)
class Page:
    """The response to a request for instructions."""

    body: str = "<Response/>"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: XML)


@dataclass(frozen=True)
class Asked:
    """A request for instructions."""

    method: str
    url: str
    form: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def parameters(self) -> Mapping[str, str]:
        return {**dict(parse_qsl(urlsplit(self.url).query)), **self.form}

    def is_signed_with(self, auth_token: str) -> bool:
        signature = self.headers["X-Twilio-Signature"]
        validator = RequestValidator(auth_token)
        return validator.validate(self.url, dict(self.form), signature) is True  # pyright: ignore[reportUnknownMemberType] - untyped


@dataclass
class Application:
    """Serves its pages by path; a page can depend on the request."""

    url: str
    pages: dict[str, Page | Callable[[Asked], Page]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list[Asked])

    def says(self, path: str, verbs: str) -> str:
        """Serve these verbs at a path, and return its URL."""
        self.pages[path] = Page(f"<Response>{verbs}</Response>")
        return self.url + path

    def requests(self, path: str) -> list[Asked]:
        return [each for each in self.asked if each.path == path]

    def respond(self, asked: Asked) -> Page:
        self.asked.append(asked)
        page = self.pages.get(asked.path, Page("not here", 404))
        return page if isinstance(page, Page) else page(asked)


@contextmanager
def serving() -> Generator[Application]:
    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802 - its name there
            asked = Asked(
                self.command, application.url + self.path, self.form(), dict(self.headers)
            )
            page = application.respond(asked)
            content = page.body.encode()
            self.send_response(page.status)
            for name, value in {**page.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - its name there

    with listening(Handler) as url:
        application = Application(url)
        yield application


@dataclass
class Phone:
    """Places calls with an emulator whose clock is stopped."""

    api: RunningEmulator
    http: httpx.Client
    application: Application

    def call(self, verbs: str = "", to: str = CALLEE, **form: str) -> str:
        """Place a call that follows the verbs, or what the form says; return its SID."""
        if not {"Url", "Twiml", "ApplicationSid"} & {*form}:
            form["Twiml"] = f"<Response>{verbs}</Response>"
        response = self.http.post("Calls.json", data={"To": to, "From": self.api.number, **form})
        assert response.status_code == 201, response.text
        return response.json()["sid"]

    def ring(self, to: str, script: Script | None = None) -> str:
        """Call a number of the account from outside."""
        return self.api.ring(to, CALLEE, script or Script())

    def update(self, sid: str, **form: str) -> None:
        response = self.http.post(f"Calls/{sid}.json", data=form)
        assert response.status_code == 200, response.text

    def record(self, sid: str) -> Mapping[str, str | None]:
        return self.http.get(f"Calls/{sid}.json").json()

    def children(self, sid: str) -> list[Mapping[str, str | None]]:
        calls = self.http.get("Calls.json", params={"ParentCallSid": sid}).json()["calls"]
        return calls[::-1]

    def advance(self, seconds: float) -> None:
        self.api.advance(seconds)

    def events(self, sid: str, event: str) -> list[str]:
        """Return the texts of one kind of entries in the transcript."""
        return [each.text for each in self.api.transcript(sid) if each.event == event]

    def error_codes(self, sid: str) -> list[str]:
        return [each.details["code"] for each in self.api.transcript(sid) if each.event == "error"]

    def story(self, sid: str) -> list[str]:
        """Return the transcript: seconds since the answer, the event and its text."""
        entries = self.api.transcript(sid)
        answered = next((each.at for each in entries if each.event == "answered"), 0)
        return [f"{each.at - answered:g} {each.event} {each.text}".strip() for each in entries]

    def heard(self, sid: str) -> list[str]:
        """Return what was said in a call."""
        return self.events(sid, "said")


def client(api: RunningEmulator) -> httpx.Client:
    """Return a client of the account's resources."""
    base = f"{api.base_url}/2010-04-01/Accounts/{api.account_sid}/"
    return httpx.Client(
        base_url=base, auth=(api.account_sid, api.auth_token), verify=NO_CERTIFICATES
    )


@contextmanager
def switched_on(
    application: Application,
    scripts: Mapping[str, Script] | None = None,
    *,
    database: str = ":memory:",
    clock: ManualClock | None = None,
    callbacks_anywhere: bool = False,
) -> Generator[Phone]:
    emulator = Emulator(
        clock=clock or ManualClock(),
        scenario=Scenario(scripts or {}),
        calls_per_second=100,
        database=database,
        callbacks_anywhere=callbacks_anywhere,
    )
    with running(emulator) as api, client(api) as http:
        yield Phone(api, http, application)

"""The endpoints of recordings: start, stop, list, fetch, delete and download."""

import wave
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from io import BytesIO
from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from calls_mcp.emulator.api import parameters
from calls_mcp.emulator.api.endpoints import account_route, call_in_path, form_pairs, query_pairs
from calls_mcp.emulator.api.lists import Listing, ListQuery, Resource
from calls_mcp.emulator.api.parameters import checked
from calls_mcp.emulator.api_errors import CALL_STATE, invalid, not_found
from calls_mcp.emulator.call_store import CallStore
from calls_mcp.emulator.clock import rfc2822
from calls_mcp.emulator.credentials import API_VERSION, Account
from calls_mcp.emulator.recording_store import Recording, RecordingOptions, RecordingStatus
from calls_mcp.emulator.sqlite_database import Filter, Page

CURRENT = "Twilio.CURRENT"
SAMPLES_PER_SECOND = 8000
LONGEST_AUDIO = 60  # seconds

_LISTING = Listing(
    name="recordings",
    prefix="RE",
    parameters=parameters.LIST_RECORDINGS,
    equal={"CallSid": "call_sid", "ConferenceSid": "conference_sid"},
    times={"DateCreated": "started"},
)


@dataclass(frozen=True)
class RecordingsApi:
    """The recordings of one account.

    Attributes:
        account: The account.
        store: Its calls and their recordings.
    """

    account: Account
    store: CallStore

    def routes(self) -> list[Route]:
        """Return the routes of these recordings. Audio needs no credentials."""
        item = {"GET": self._fetch, "DELETE": self._delete}
        route = partial(account_route, self.account)
        return [
            route("/Calls/{call}/Recordings.json", {"GET": self._list, "POST": self._start}),
            route("/Calls/{call}/Recordings/{sid}.json", {**item, "POST": self._update}),
            route("/Recordings.json", {"GET": self._list}),
            route("/Recordings/{sid}.json", item),
            route("/Recordings/{sid}.wav", {"GET": self._audio}, is_public=True),
            route("/Recordings/{sid}", {"GET": self._audio}, is_public=True),
        ]

    async def _start(self, request: Request) -> Response:
        known = parameters.START_RECORDING
        values = checked(await form_pairs(request, known), known)
        with self.store.transaction() as now:
            call = call_in_path(request, self.store, "call")
            if call.status != "in-progress":
                raise invalid("Only a call in progress can be recorded.", CALL_STATE)
            options = RecordingOptions.of(values)
            started = self.store.recordings.start(call.sid, "StartCallRecordingAPI", now, options)
        return JSONResponse(self._resource(started, request), HTTPStatus.CREATED)

    async def _update(self, request: Request) -> Response:
        known = parameters.UPDATE_RECORDING
        values = checked(await form_pairs(request, known), known)
        status = values.get("Status")
        if status is None:
            raise invalid("Status is required.")
        with self.store.transaction() as now:
            recording = self._find(request)
            if not recording.live:
                raise invalid(f"Recording {recording.sid} has ended.", CALL_STATE)
            if status == "stopped":
                recording = self.store.recordings.stop(recording, now)
            else:
                new = cast("RecordingStatus", status)
                recording = recording._replace(status=new, updated=now)
                self.store.recordings.update(recording)
        return JSONResponse(self._resource(recording, request))

    async def _list(self, request: Request) -> Response:
        query = ListQuery.parse(_LISTING, query_pairs(request, parameters.LIST_RECORDINGS))
        filters = query.filters
        if "call" in request.path_params:
            filters += (Filter("call_sid", "=", call_in_path(request, self.store, "call").sid),)
        with self.store.transaction():
            found = self.store.recordings.page(filters, query.size, query.anchor)
        resources = tuple(self._resource(recording, request) for recording in found.items)
        page = Page(resources, found.newer, found.older)
        return JSONResponse(query.envelope(request.url.path, page))

    async def _fetch(self, request: Request) -> Response:
        known = parameters.FETCH_RECORDING
        checked(query_pairs(request, known), known)
        with self.store.transaction():
            return JSONResponse(self._resource(self._find(request), request))

    async def _delete(self, request: Request) -> Response:
        query_pairs(request)
        with self.store.transaction():
            self.store.recordings.delete(self._find(request).sid)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _audio(self, request: Request) -> Response:
        with self.store.transaction():
            recording = self._find(request)
        if not recording.duration:
            raise not_found(request.url.path)
        return Response(silence(recording.duration, recording.channels), media_type="audio/x-wav")

    def _find(self, request: Request) -> Recording:
        """Return the recording in the path. Raise ApiError (404) if there is none."""
        sid, call = cast("str", request.path_params["sid"]), request.path_params.get("call")
        if sid == CURRENT and call:
            live = self.store.recordings.live(call)
            recording = live[-1] if live else None
        else:
            recording = self.store.recordings.get(sid)
        if recording is None or call not in {None, recording.call_sid}:
            raise not_found(request.url.path)
        return recording

    def _resource(self, recording: Recording, request: Request) -> Resource:
        """Return the JSON object of a recording, below its call or below the account."""
        path = f"{self.account.path}/Recordings/{recording.sid}"
        common = {
            "account_sid": self.account.sid,
            "api_version": API_VERSION,
            "call_sid": recording.call_sid,
            "conference_sid": recording.conference_sid,
            "channels": recording.channels,
            "date_created": rfc2822(recording.started),
            "date_updated": rfc2822(recording.updated),
            "start_time": rfc2822(recording.started),
            "price": None,
            "price_unit": None,
            "duration": None if recording.duration is None else str(recording.duration),
            "sid": recording.sid,
            "source": recording.source,
            "status": recording.status,
            "error_code": None,
            "encryption_details": None,
        }
        if "call" in request.path_params:
            call_path = f"{self.account.path}/Calls/{recording.call_sid}/Recordings/{recording.sid}"
            return common | {"track": recording.track, "uri": f"{call_path}.json"}
        subresources = {
            "add_on_results": f"{path}/AddOnResults.json",
            "transcriptions": f"{path}/Transcriptions.json",
        }
        media_url = self.store.recordings.url(recording.sid)
        return common | {
            "media_url": media_url,
            "uri": f"{path}.json",
            "subresource_uris": subresources,
        }


def silence(seconds: int, channels: int) -> bytes:
    """Return a WAV file without sound, a minute long at most."""
    file = BytesIO()
    with wave.open(file, "wb") as audio:
        audio.setnchannels(channels)
        audio.setsampwidth(2)
        audio.setframerate(SAMPLES_PER_SECOND)
        samples = SAMPLES_PER_SECOND * min(seconds, LONGEST_AUDIO)
        audio.writeframes(bytes(2 * channels * samples))
    return file.getvalue()

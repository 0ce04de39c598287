"""The account and its phone numbers, which can be listed and fetched."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from calls_mcp.emulator.addresses import formatted, number_sid
from calls_mcp.emulator.api import parameters
from calls_mcp.emulator.api.endpoints import account_route, query_pairs, route
from calls_mcp.emulator.api.lists import Listing, ListQuery, Resource
from calls_mcp.emulator.api_errors import not_found
from calls_mcp.emulator.credentials import API_VERSION, Account
from calls_mcp.emulator.scenario import Scenario, Script
from calls_mcp.emulator.sqlite_database import Anchor, Item, Page

_ACCOUNTS = Listing(
    name="accounts",
    prefix="AC",
    parameters=parameters.LIST_ACCOUNTS,
    equal={"FriendlyName": "friendly_name", "Status": "status"},
    times={},
)
_NUMBERS = Listing(
    name="incoming_phone_numbers",
    prefix="PN",
    parameters=parameters.LIST_NUMBERS,
    equal={"FriendlyName": "friendly_name", "PhoneNumber": "phone_number"},
    times={},
)


@dataclass(frozen=True)
class AccountApi:
    """The endpoints of an account and its numbers.

    Attributes:
        account: The account.
        own_numbers: Its phone numbers.
        scenario: The instructions of the numbers.
    """

    account: Account
    own_numbers: Collection[str]
    scenario: Scenario

    def routes(self) -> list[Route]:
        """Return the routes."""
        accounts = f"/{API_VERSION}/Accounts.json"
        add = partial(account_route, self.account)
        return [
            route(accounts, {"GET": self._list_accounts}, self._authenticate),
            add(".json", {"GET": self._fetch_account}),
            add("/IncomingPhoneNumbers.json", {"GET": self._list_numbers}),
            add("/IncomingPhoneNumbers/{sid}.json", {"GET": self._fetch_number}),
        ]

    def _authenticate(self, request: Request) -> None:
        self.account.authenticate(request.headers.get("authorization"))

    async def _list_accounts(self, request: Request) -> Response:
        return _page(request, _ACCOUNTS, [self._account()])

    async def _fetch_account(self, request: Request) -> Response:
        query_pairs(request)
        return JSONResponse(self._account())

    async def _list_numbers(self, request: Request) -> Response:
        return _page(request, _NUMBERS, self._numbers())

    async def _fetch_number(self, request: Request) -> Response:
        query_pairs(request)
        sid = request.path_params["sid"]
        for number in self._numbers():
            if number["sid"] == sid:
                return JSONResponse(number)
        raise not_found(request.url.path)

    def _account(self) -> Resource:
        """Return the JSON object of the account. It has no auth token."""
        path = self.account.path
        return {
            "sid": self.account.sid,
            "owner_account_sid": self.account.sid,
            "auth_token": None,
            "friendly_name": "Emulator",
            "status": "active",
            "type": "Full",
            "date_created": None,
            "date_updated": None,
            "uri": f"{path}.json",
            "subresource_uris": {
                "calls": f"{path}/Calls.json",
                "incoming_phone_numbers": f"{path}/IncomingPhoneNumbers.json",
                "recordings": f"{path}/Recordings.json",
            },
        }

    def _numbers(self) -> list[Resource]:
        return [self._number(number) for number in sorted(self.own_numbers)]

    def _number(self, number: str) -> Resource:
        """Return the JSON object of a phone number."""
        sid, script = number_sid(number), self.scenario.application(number) or Script()
        return {
            "sid": sid,
            "account_sid": self.account.sid,
            "api_version": API_VERSION,
            "friendly_name": formatted(number),
            "phone_number": number,
            "status": "in-use",
            "origin": "twilio",
            "voice_url": script.voice_url,
            "voice_method": script.voice_method,
            "voice_receive_mode": "voice",
            "date_created": None,
            "date_updated": None,
            "uri": f"{self.account.path}/IncomingPhoneNumbers/{sid}.json",
        }


def _page(request: Request, listing: Listing, resources: Sequence[Resource]) -> Response:
    query = ListQuery.parse(listing, query_pairs(request, listing.parameters))
    chosen = [each for each in resources if all(each[f.column] == f.value for f in query.filters)]
    page = _page_of(chosen, query.size, query.anchor)
    return JSONResponse(query.envelope(request.url.path, page))


def _page_of(items: Sequence[Item], size: int, anchor: Anchor | None) -> Page[Item]:
    """Return a page of a list in memory, whose positions are the sequence numbers."""
    if anchor is not None and anchor.side == "newer":
        start, end = max(0, anchor.seq - size), anchor.seq
    else:
        start = 0 if anchor is None else anchor.seq + 1
        end = min(start + size, len(items))
    if start >= end:
        return Page()
    older = Anchor("older", end - 1) if end < len(items) else None
    return Page(tuple(items[start:end]), Anchor("newer", start), older)

"""The account and its phone numbers, with the official client library."""

import pytest
import requests

from calls_mcp.emulator import OWN_NUMBERS, Account, Emulator, ManualClock
from tests.emulator.sdk import SdkClient, sdk_client
from tests.emulator.test_sdk import refused


def test_the_account_can_be_listed_and_fetched(sdk: SdkClient, account: Account) -> None:
    (listed,) = sdk.client.api.v2010.accounts.list()
    fetched = sdk.client.api.v2010.account.fetch()
    for found in (listed, fetched):
        assert (found.sid, found.status, found.type) == (account.sid, "active", "Full")
        assert found.auth_token is None
    assert sdk.client.api.v2010.accounts.list(status="closed") == []
    assert fetched.subresource_uris
    assert fetched.subresource_uris["calls"] == f"/2010-04-01/Accounts/{account.sid}/Calls.json"


def test_the_numbers_can_be_listed_and_fetched(sdk: SdkClient) -> None:
    numbers = sdk.client.incoming_phone_numbers
    listed = numbers.list()
    assert [each.phone_number for each in listed] == sorted(OWN_NUMBERS)
    assert [each.friendly_name for each in listed] == ["(500) 555-0006", "(500) 555-0100"]
    fetched = [numbers(each.sid or "").fetch().phone_number for each in listed]
    assert fetched == sorted(OWN_NUMBERS)
    (found,) = numbers.list(phone_number="+15005550100")
    assert found.sid == listed[1].sid
    with refused(404, 20404):
        numbers(f"PN{0:032}").fetch()


def test_an_inbound_call_names_the_number(sdk: SdkClient) -> None:
    sdk.call("+15005550100")
    inbound = sdk.client.calls.list(limit=1)[0]
    number = sdk.client.incoming_phone_numbers(inbound.phone_number_sid or "").fetch()
    assert number.phone_number == "+15005550100"


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_numbers_come_in_pages_with_links_in_both_directions(
    account: Account, clock: ManualClock, size: int
) -> None:
    own = [f"+1202555010{n}" for n in range(5)]
    emulator = Emulator(account=account, clock=clock, own_numbers=own, strict=True)
    with sdk_client(emulator) as sdk:
        page = sdk.client.incoming_phone_numbers.page(page_size=size)
        forward = [[each.phone_number for each in page]]
        while page.next_page_url and (following := page.next_page()):
            page = following
            forward.append([each.phone_number for each in page])
        backward = [forward[-1]]
        while page.previous_page_url and (previous := page.previous_page()):
            page = previous
            backward.insert(0, [each.phone_number for each in page])
    assert [number for numbers in forward for number in numbers] == own
    assert backward == forward


@pytest.mark.parametrize("path", ["s.json", "s/{sid}.json", "s/{sid}/IncomingPhoneNumbers.json"])
def test_credentials_are_required(sdk: SdkClient, account: Account, path: str) -> None:
    url = f"{sdk.emulator.base_url}/2010-04-01/Account{path.format(sid=account.sid)}"
    assert requests.get(url, timeout=30).status_code == 401
    key = next(iter(account.api_keys.items()))
    assert requests.get(url, auth=key, timeout=30).status_code == 200

"""The list of calls: filters and pages."""

from datetime import datetime

import pytest

from calls_mcp.emulator import Call
from tests.emulator.api_client import BUSY, LIST, TALKATIVE, ApiClient, assert_refused, item
from tests.emulator.sdk import SdkClient

pytestmark = pytest.mark.anyio

PARENT = f"CA{7:032}"


def past(number: int, start: str) -> Call:
    """A call that started at `time` and lasted an hour."""
    began = datetime.fromisoformat(start).timestamp()
    return Call(
        sid=f"CA{number:032}",
        to="+12025550123",
        from_="+15005550006",
        direction="outbound-api",
        status="queued",
        created=began,
        updated=began,
        ring_at=began,
        answer_at=began,
        end_at=began + 3600,
        end_as="completed",
    )


async def test_an_empty_list_is_a_page_without_neighbors(api: ApiClient) -> None:
    assert await api.page() == {
        "calls": [],
        "page": 0,
        "page_size": 50,
        "start": 0,
        "end": 0,
        "uri": f"{LIST}?PageSize=50&Page=0",
        "first_page_uri": f"{LIST}?PageSize=50&Page=0",
        "next_page_uri": None,
        "previous_page_uri": None,
    }


async def test_a_listed_call_equals_the_fetched_one(api: ApiClient) -> None:
    sid = await api.call()
    assert (await api.page())["calls"] == [await api.fetch(sid)]


async def test_a_page_has_its_number_and_links_to_its_neighbors(api: ApiClient) -> None:
    sids = [await api.call() for _ in range(5)]
    first = await api.page({"PageSize": "2"})
    second = await api.follow(first["next_page_uri"])
    third = await api.follow(second["next_page_uri"])
    places = [(page["page"], page["start"], page["end"]) for page in (first, second, third)]
    assert places == [(0, 0, 1), (1, 2, 3), (2, 4, 4)]
    assert [call["sid"] for call in second["calls"]] == [sids[2], sids[1]]
    assert second["uri"] == first["next_page_uri"]
    assert second["first_page_uri"] == f"{LIST}?PageSize=2&Page=0"
    assert (first["previous_page_uri"], third["next_page_uri"]) == (None, None)


async def test_pages_are_stable_while_calls_are_added_and_deleted(api: ApiClient) -> None:
    sids = [await api.call() for _ in range(4)][::-1]
    api.advance(100)
    first = await api.page({"PageSize": "2"})
    await api.call()
    await api.client.delete(item(sids[1]))
    second = await api.follow(first["next_page_uri"])
    assert [call["sid"] for call in second["calls"]] == sids[2:]


async def test_a_page_whose_calls_were_deleted_is_empty(api: ApiClient) -> None:
    sids = [await api.call() for _ in range(2)]
    api.advance(100)
    first = await api.page({"PageSize": "1"})
    await api.client.delete(item(sids[0]))
    second = await api.follow(first["next_page_uri"])
    assert (second["calls"], second["next_page_uri"], second["previous_page_uri"]) == (
        [],
        None,
        None,
    )
    assert (second["start"], second["end"]) == (1, 1)


async def test_links_include_every_filter_percent_encoded(api: ApiClient) -> None:
    for _ in range(2):
        await api.call()
    query = {"To": "+12025550123", "EndTime>": "2024-01-01", "StartTime<": "2031-01-01"}
    page = await api.page({**query, "PageSize": "1"})
    filters = "To=%2B12025550123&EndTime%3E=2024-01-01&StartTime%3C=2031-01-01&PageSize=1"
    assert page["uri"] == page["first_page_uri"] == f"{LIST}?{filters}&Page=0"
    page = await api.page({"Status": "queued", "PageSize": "1"})
    assert page["next_page_uri"].startswith(
        f"{LIST}?Status=queued&PageSize=1&Page=1&PageToken=PACA"
    )


async def test_filters_select_by_party_status_and_parent(api: ApiClient) -> None:
    busy = await api.call(BUSY)
    talking = await api.call(TALKATIVE, {"From": "+15005550100"})
    child = past(1, "2029-12-31T00:00+00:00")._replace(parent_call_sid=PARENT)
    api.emulator.calls.add(child)
    api.advance(10)
    queries = [
        {"To": BUSY},
        {"From": "+15005550100"},
        {"Status": "busy"},
        {"Status": "in-progress", "To": TALKATIVE},
        {"Status": "busy", "To": TALKATIVE},
        {"ParentCallSid": PARENT},
        {"To": f"sim:DE{0:032}"},
        *(
            {"Status": status}
            for status in ("queued", "ringing", "no-answer", "failed", "canceled")
        ),
    ]
    found = [await api.listed(query) for query in queries]
    assert found == [[busy], [talking], [busy], [talking], [], [child.sid], *[[]] * 6]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"StartTime": "2029-05-02"}, [3, 2]),
        ({"StartTime": "2029-05-02T15:00:00Z"}, [3, 2]),
        ({"StartTime": "2029-05-03"}, [4]),
        ({"StartTime": "2029-05-04"}, []),
        ({"StartTime<": "2029-05-02"}, [2, 1]),
        ({"StartTime<": "2029-05-01"}, []),
        ({"StartTime>": "2029-05-02"}, [4, 3, 2]),
        ({"StartTime>": "2029-05-02", "StartTime<": "2029-05-03"}, [4, 3, 2]),
        ({"StartTime<": "2029-05-02T23:58:59Z"}, [2, 1]),
        ({"StartTime<": "2029-05-02T23:59:00"}, [3, 2, 1]),
        ({"StartTime>": "2029-05-02T23:59:00.500000Z"}, [4]),
        ({"StartTime>": "2029-05-03T01:59:00+02:00"}, [4, 3]),
        ({"StartTime<": "05/02/2029 16:58:59 MST"}, [2, 1]),
        ({"StartTime<": "05/02/2029 16:59:00 MST"}, [3, 2, 1]),
        ({"StartTime>": "2029-05-02 23:59:00.000"}, [4, 3]),
        ({"StartTime>": "Wed, 02 May 2029 23:59:01 -0000"}, [4]),
        ({"StartTime>": "Thu, 03 May 2029 01:59:00 +0200"}, [4, 3]),
        ({"StartTime": "05/03/2029 01:00:00 GMT"}, [4]),
        ({"EndTime": "2029-05-02"}, [2, 1]),
        ({"EndTime<": "2029-05-02T00:30:00Z"}, [1]),
        ({"EndTime>": "2029-05-03T00:59:00Z"}, [4, 3]),
    ],
)
async def test_date_filters_accept_days_and_times(
    api: ApiClient, query: dict[str, str], numbers: list[int]
) -> None:
    starts = ("01T23:30", "02T00:00", "02T23:59", "03T00:00")
    calls = [past(n, f"2029-05-{start}+00:00") for n, start in enumerate(starts, start=1)]
    api.emulator.calls.add(*calls)
    assert [int(sid[2:]) for sid in await api.listed(query)] == numbers


@pytest.mark.parametrize("name", ["start_time", "end_time"])
def test_a_filter_by_the_time_of_a_call_includes_the_call(sdk: SdkClient, name: str) -> None:
    sdk.advance(0.7)
    call = sdk.client.calls(sdk.call())
    sdk.advance(100)
    when = getattr(call.fetch(), name)
    for end in ("", "_before", "_after"):
        found = sdk.client.calls.list(**{f"{name}{end}": when})
        assert [each.sid for each in found] == [call.fetch().sid]


async def test_a_call_has_no_start_time_before_it_is_dialed(api: ApiClient) -> None:
    await api.call()
    assert await api.listed({"StartTime>": "2000-01-01"}) == []
    assert await api.listed({"EndTime>": "2000-01-01"}) == []


@pytest.mark.parametrize(
    "query",
    [
        [("Status", "busy"), ("Status", "failed")],
        {"PageSize": "0"},
        {"PageSize": "1001"},
        {"PageSize": "many"},
        {"Page": "1"},
        {"Page": "-1"},
        {"PageToken": "PACA"},
        {"PageToken": f"PACA{'f' * 32}"},
        {"Limit": "5"},
        {"limit": "5"},
        {"StartTimeAfter": "2024-01-01"},
        {"StartTime>=": "2024-01-01"},
        {"StartTime": "yesterday"},
        {"StartTime": "2024-02-30"},
        {"EndTime": "2024-01-01 10:00"},
        {"EndTime": "13/01/2024 10:00:00 MST"},
        {"EndTime": "01/01/2024 10:00:00"},
        {"EndTime": "01/01/2024 10:00:00 CET"},
        {"EndTime": "Wed, 32 May 2029 23:59:01 -0000"},
        {"EndTime": "Wed, 02 May 2029"},
        {"EndTime>": "20240101"},
        {"Status": "answered"},
        {"Status": ""},
        {"ParentCallSid": f"SM{0:032}"},
    ],
)
async def test_an_invalid_filter_is_refused(
    api: ApiClient, query: dict[str, str] | list[tuple[str, str | int | float | bool | None]]
) -> None:
    response = await api.client.get(LIST, params=query)
    assert_refused(response, 400, 20001)


async def test_the_largest_page_has_a_thousand_calls(api: ApiClient) -> None:
    api.emulator.calls.add(*(past(n, "2029-05-01T00:00+00:00") for n in range(1001)))
    page = await api.page({"PageSize": "1000"})
    assert (len(page["calls"]), page["end"]) == (1000, 999)
    assert len((await api.page())["calls"]) == 50


async def test_a_head_request_is_answered_like_a_get_without_a_body(api: ApiClient) -> None:
    response = await api.client.head(LIST)
    assert (response.status_code, response.content) == (200, b"")

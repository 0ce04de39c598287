"""The page of calls: which clients get it, and that it costs the others nothing."""

import re

import pytest
from mcp import Client, MCPError
from mcp.client.extension import ClientExtension, advertise
from mcp.client.streamable_http import streamable_http_client
from mcp.server import apps
from mcp_types import Result, TextResourceContents

from calls_mcp.server import mcp_app as app
from tests.harness import ERAS, Agent, Era, Harness, open_harness
from tests.http.service import open_service

pytestmark = pytest.mark.anyio

SHOWS = advertise(app.EXTENSION, {"mimeTypes": ["text/html", app.MIME_TYPE]})
OTHERS: dict[str, list[ClientExtension]] = {
    "no extension": [],
    "another": [advertise("com.example/other", {"mimeTypes": [app.MIME_TYPE]})],
    "other pages": [advertise(app.EXTENSION, {"mimeTypes": ["text/html"]})],
    "no pages": [advertise(app.EXTENSION)],
    "nonsense": [advertise(app.EXTENSION, {"mimeTypes": app.MIME_TYPE})],
}
BOUND = {"create_call", "fetch_call", "list_calls", "update_call"}
EMPTY: dict[str, list[str]] = {
    "connectDomains": [],
    "resourceDomains": [],
    "frameDomains": [],
    "baseUriDomains": [],
}


def client(harness: Harness, era: Era, extensions: list[ClientExtension] | None = None) -> Client:
    return Client(harness.server, mode=era, cache=None, extensions=extensions)


async def read(client: Client, sid: str) -> list[Result]:
    """Return everything that a client gets about resources, prompts and calls."""
    return [
        await client.list_resources(),
        await client.list_resource_templates(),
        await client.list_prompts(),
        await client.call_tool("list_calls", {}),
        await client.call_tool("fetch_call", {"sid": sid}),
    ]


def test_it_is_named_as_the_sdk_names_it() -> None:
    assert (app.EXTENSION, app.MIME_TYPE) == (apps.EXTENSION_ID, apps.APP_MIME_TYPE)


async def test_the_server_says_that_it_has_one(harness: Harness) -> None:
    async with client(harness, "auto") as plain:
        assert plain.server_capabilities.extensions == {app.EXTENSION: {}}


@pytest.mark.parametrize("era", ERAS)
async def test_tools_that_return_calls_link_to_the_page_for_clients_that_support_it(
    harness: Harness, era: Era
) -> None:
    async with client(harness, era, [SHOWS]) as shows:
        tools = (await shows.list_tools()).tools
    bound = {tool.name: tool.meta for tool in tools if tool.meta is not None}
    assert bound == {key: {"ui": {"resourceUri": "ui://calls-mcp/calls"}} for key in BOUND}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS)
async def test_other_clients_do_not_get_the_link(
    harness: Harness, era: Era, others: list[ClientExtension]
) -> None:
    async with client(harness, era, others) as other, client(harness, era) as plain:
        assert await other.list_tools() == await plain.list_tools()
        sid = await Agent(plain).place()
        learned = await read(other, sid)
        assert learned == await read(plain, sid)
        everything = [*learned, await other.list_tools()]
    assert "ui://" not in "".join(each.model_dump_json() for each in everything)


@pytest.mark.parametrize("era", ERAS)
async def test_the_page_adds_nothing_to_what_a_model_reads(harness: Harness, era: Era) -> None:
    async with client(harness, era, [SHOWS]) as shows, client(harness, era) as plain:
        assert shows.instructions == plain.instructions
        with_page, without = await shows.list_tools(), await plain.list_tools()
        hidden = {"meta": True}
        assert [tool.model_dump(exclude=hidden) for tool in with_page.tools] == [
            tool.model_dump(exclude=hidden) for tool in without.tools
        ]
        sid = await Agent(plain).place()
        assert await read(shows, sid) == await read(plain, sid)


async def test_a_tool_list_with_the_page_is_private(harness: Harness) -> None:
    async with client(harness, "auto", [SHOWS]) as shows, client(harness, "auto") as plain:
        assert (await shows.list_tools()).cache_scope == "private"
        assert (await plain.list_tools()).cache_scope == "public"


@pytest.mark.parametrize("era", ERAS)
async def test_the_page_requests_no_domain_and_no_permission(harness: Harness, era: Era) -> None:
    async with client(harness, era, [SHOWS]) as shows:
        (contents,) = (await shows.read_resource(app.URI)).contents
    assert isinstance(contents, TextResourceContents)
    assert (contents.uri, contents.mime_type) == (app.URI, "text/html;profile=mcp-app")
    assert contents.meta == {"ui": {"csp": EMPTY, "prefersBorder": True}}
    assert contents.text.startswith("<!doctype html>")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("stateless", [False, True])
async def test_over_http_support_for_the_page_is_remembered_as_long_as_the_client(
    era: Era, *, stateless: bool
) -> None:
    async with (
        open_service(calls_mcp_http_stateless=stateless) as service,
        Client(
            streamable_http_client(service.url), mode=era, extensions=[SHOWS], cache=None
        ) as shows,
    ):
        tools = (await shows.list_tools()).tools
    is_forgotten = stateless and era == "legacy"
    assert {tool.name for tool in tools if tool.meta} == (set() if is_forgotten else BOUND)


@pytest.mark.parametrize("uri", [f"{app.URI}/", "ui://calls-mcp/", "ui://calls-mcp/calls?x"])
async def test_there_is_no_other_page(harness: Harness, uri: str) -> None:
    async with client(harness, "auto", [SHOWS]) as shows:
        with pytest.raises(MCPError, match="Unknown resource"):
            await shows.read_resource(uri)


async def test_a_read_only_server_has_it_too() -> None:
    async with (
        open_harness(calls_mcp_read_only=True) as harness,
        client(harness, "auto", [SHOWS]) as shows,
    ):
        tools = (await shows.list_tools()).tools
    assert {tool.name for tool in tools if tool.meta} == {"fetch_call", "list_calls"}


async def test_it_is_one_file_that_loads_nothing_and_names_no_address() -> None:
    text = app.contents().text
    assert not re.search(r"https?:|//\w|url\(|@import|\bsrc=|\bhref=|\bon\w+=", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", text)
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import\(", text)

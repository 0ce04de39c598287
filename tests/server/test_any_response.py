"""Whatever the API answers, each tool returns a result, and never a protocol error."""

import json
from collections.abc import Generator, Mapping

import jsonschema
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp_types import CallToolResult

from calls_mcp.tools.catalog import load_operations
from calls_mcp.tools.schema import output_schema
from tests.harness import structured
from tests.twilio.harness import CREATE, DELETE, FETCH, HANG_UP, LIST
from tests.upstream import SECRET, SID, Exchange, Tool, answer, call, page, scripted

_NAMES = sorted({*call(), *page(), "code", "message", "title", "detail", "caller_name", "price"})
_ODD = st.sampled_from(
    [SECRET, f"{SECRET[:16]}\u200b{SECRET[16:]}", "\ud800", "NaN", "-1e9999", "9" * 5000, "\0", SID]
)
_TEXT = st.text() | _ODD
_VALUE: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.integers(10**400) | _TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_NAMES) | _TEXT, inner, max_size=4)
    ),
    max_leaves=8,
)


def _encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def _changed(fields: Mapping[str, object]) -> object:
    return call(**fields)


def _listed(calls: list[object], following: object) -> object:
    return page(*calls, following=following)


_CALL = st.dictionaries(st.sampled_from(_NAMES), _VALUE, max_size=6).map(_changed)
_NEXT = st.none() | _VALUE | st.text().map("/2010-04-01/Accounts/x/Calls.json?".__add__)
_PAGE = st.builds(_listed, st.lists(_CALL | _VALUE, max_size=4), _NEXT)
_BODY = st.binary() | _TEXT | (_CALL | _PAGE | _VALUE).map(_encoded)
_LINE = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=40)
_HEADERS = st.dictionaries(
    st.sampled_from(
        ["Retry-After", "Date", "Location", "Content-Type", "Twilio-Request-Id", "X-Other"]
    ),
    _LINE | st.just(f"https://{SECRET}.example/"),
    max_size=3,
)
_STATUS = st.sampled_from([200, 201, 204, 301, 302, 307, 400, 401, 403, 404, 408, 422, 429, 500])
TOOLS = (CREATE, DELETE, FETCH, HANG_UP, LIST)


@pytest.fixture(scope="module")
def portal() -> Generator[BlockingPortal]:
    """An event loop for all examples."""
    with start_blocking_portal() as started:
        yield started


async def _result(
    tool: Tool, status: int, headers: dict[str, str], body: object, confirm: str
) -> CallToolResult:
    data = body if isinstance(body, bytes) else str(body).encode(errors="surrogatepass")
    step = answer(status, b"" if status == 204 else data, headers=headers)

    async def respond(exchange: Exchange) -> None:
        await step(exchange)
        exchange.writer.close()

    async with scripted(respond, step_timeout=0.5, deadline=0.5, calls_mcp_confirm=confirm) as (
        _,
        agent,
    ):
        return await agent.client.call_tool(*tool)


@pytest.mark.requirement("12", "16")
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tool=st.sampled_from(TOOLS),
    status=_STATUS | st.integers(200, 599),
    headers=_HEADERS,
    body=_BODY,
    confirm=st.sampled_from(["none", "all"]),
)
def test_every_api_response_gives_a_result_without_secrets(
    portal: BlockingPortal,
    tool: Tool,
    status: int,
    headers: dict[str, str],
    body: object,
    confirm: str,
) -> None:
    result = portal.call(_result, tool, status, headers, body, confirm)
    assert result.content
    schema = output_schema(load_operations()[tool[0]])
    jsonschema.validate(structured(result), schema)
    if status // 100 != 2:
        assert SECRET[:16] not in result.model_dump_json()

"""What an agent does with calls, using only what its model can read."""

import re

from tests.clients.conversation import Answer, Speaking

GUEST = "+15005550205"
SPEECH = " ".join(["Your table is ready."] * 30)  # long enough for a client that polls
PLACE = {"to": GUEST, "from": "+15005550006", "say": SPEECH}
BAD = {"to": "+1 500 555 0205", "from": "+15005550006", "timeout": 9000, "whom": "Ann"}

_SID = re.compile(r"\bCA[0-9a-f]{32}\b")
_TOKEN = re.compile(r"(?<![\w.-])[\w-]{12}\.[\w-]{20}(?![\w.-])")


def sids(answer: Answer) -> list[str]:
    """Return the SIDs of the calls in an answer, in order."""
    return list(dict.fromkeys(_SID.findall(answer.seen)))


def token(answer: Answer) -> str:
    """Return the token in an answer."""
    [found] = set(_TOKEN.findall(answer.seen))
    return found


async def walk(speaking: Speaking, *, asks: bool) -> None:
    """List calls, place one, wait until it is answered, delete another.

    The user confirms it if the client `asks` them; otherwise the token does.
    """
    listed = await speaking.call("list_calls", status="completed", limit=2)
    assert len(sids(listed)) == 2
    assert not listed.failed

    placed = await _confirmed(speaking, "create_call", "Call +1 500", asks=asks, **PLACE)
    [sid] = sids(placed)
    assert sids(await speaking.call("list_calls", to=GUEST)) == [sid]
    answered = await speaking.call("fetch_call", sid=sid, wait_until="answered")
    assert "in-progress" in answered.seen

    old = sids(listed)[1]
    deleted = await _confirmed(speaking, "delete_call", "Permanently delete", asks=asks, sid=old)
    assert sids(deleted) == [old]
    gone = await speaking.call("fetch_call", sid=old)
    assert "not_found" in gone.seen


async def _confirmed(
    speaking: Speaking, tool: str, question: str, *, asks: bool, **arguments: object
) -> Answer:
    """Return the answer to a confirmed change."""
    answer = await speaking.call(tool, **arguments)
    if asks:
        [asked] = answer.asked
        assert asked.startswith(f"[sandbox: no real calls]\n{question}")
        return answer
    assert not answer.asked
    assert question in answer.seen
    return await speaking.call(tool, **arguments, confirmation_token=token(answer))


async def refuse(speaking: Speaking) -> None:
    """Place a call that the user declines."""
    answer = await speaking.call("create_call", **PLACE)
    assert len(answer.asked) == 1
    assert "The user said no" in answer.seen
    assert not answer.failed
    assert sids(await speaking.call("list_calls", to=GUEST)) == []


async def blunder(speaking: Speaking) -> Answer:
    """Place a call with four faults, all of which the model must be able to read."""
    answer = await speaking.call("create_call", **BAD)
    for name in ("to", "timeout", "whom", "say"):  # in the text, or in structured content
        assert re.search(
            rf'- (missing: )?{name}\b|unknown argument "{name}"|/{name}\\?"', answer.seen
        )
    assert "+15005550205" in answer.seen  # what to send instead
    return answer

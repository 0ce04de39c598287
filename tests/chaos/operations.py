"""What users, agents and operators may do, drawn at random."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from random import Random

import anyio
from mcp_types import ElicitResult

from tests.chaos.model import Change, Told, deletion, kind_of, require
from tests.chaos.world import Question, Requested, World
from tests.harness import CALLER, TALKS_FOR_AN_HOUR, approve, decline, dismiss
from tests.upstream import refusing

ALONE = ("modern", "legacy", "replica")
ASKED = tuple(f"{name} with user" for name in ALONE)
ANYBODY = ALONE + ASKED
OPERATED = ("operated", "operated replica")
OWN, REFUSED, STRANGE = "+15005550100", "+15005550003", "+15005550009"
CALLEES = (TALKS_FOR_AN_HOUR, TALKS_FOR_AN_HOUR, "+15005550201", "+15005550300", OWN, REFUSED)
PATIENCE = 30  # seconds
NOBODY = "CA" + "f" * 32
NEVER_ISSUED = ("invalid_confirmation", "expired")


def accept_nothing(_message: str) -> ElicitResult:
    """Answer with something other than a plain yes."""
    return ElicitResult(action="accept", content={"approve": False})


REPLIES = (approve, approve, approve, decline, dismiss, accept_nothing)


def draw_change(world: World) -> Change:
    """Return some change: to a live, ended or nonexistent call."""
    return world.random.choice([_place, _place, _place, _hang_up, _redirect, _modify, _delete])(
        world
    )


def _place(world: World) -> Change:
    random, marker = world.random, world.new_marker()
    caller = random.choice([CALLER] * 9 + [STRANGE])
    arguments = {"to": random.choice(CALLEES), "from": caller, "url": marker}
    return Change("place", "create_call", marker, arguments)


def _hang_up(world: World) -> Change:
    status = world.random.choice(["completed", "completed", "canceled"])
    return _update(world, "hang_up", lambda marker: {"status": status, "status_callback": marker})


def _redirect(world: World) -> Change:
    return _update(world, "redirect", lambda marker: {"url": marker})


def _modify(world: World) -> Change:
    limit = world.random.choice([1, 60, 3600])
    return _update(world, "modify", lambda marker: {"time_limit": limit, "status_callback": marker})


def _update(world: World, action: str, change: Callable[[str], Mapping[str, object]]) -> Change:
    marker, sid = world.new_marker(), draw_sid(world, live=True)
    return Change(action, "update_call", marker, {"sid": sid, **change(marker)})


def _delete(world: World) -> Change:
    sid = draw_sid(world, live=False)
    return Change("delete", "delete_call", deletion(sid), {"sid": sid})


def draw_sid(world: World, *, live: bool) -> str:
    """Return mostly a call that is `live` or not; sometimes any call, or a nonexistent one."""
    world.model.look()  # before a call that was placed late is redirected
    calls = world.emulator.calls.all()
    fitting = [call.sid for call in calls if call.live == live]
    if fitting and world.random.random() < 0.9:
        return world.random.choice(fitting)
    return world.random.choice([NOBODY, *(call.sid for call in calls)])


async def confirm(world: World) -> None:
    """Ask, and then use the token."""
    if question := await _ask(world):
        await world.use(world.random.choice(ANYBODY), question)


async def ask_only(world: World) -> None:
    """Ask for a change, without confirming it for now."""
    await _ask(world)


async def rush(world: World) -> None:
    """Use a new token eight times at once."""
    if question := await _ask(world):
        await _use_at_once(world, question)


async def elicit(world: World) -> None:
    """Have the client ask the user, who may answer anything."""
    await _elicit(world, draw_change(world))


async def repeat(world: World) -> None:
    """Make the same change again. The server must distinguish the two."""
    if world.model.attempts:
        await _elicit(world, world.random.choice(world.model.attempts).change)


async def twins(world: World) -> None:
    """Place two calls between the same parties at the same time."""
    one = _place(world)
    marker = world.new_marker()
    two = replace(one, marker=marker, arguments={**one.arguments, "url": marker})
    asked = [await world.ask(world.random.choice(ALONE), change) for change in (one, two)]
    async with anyio.create_task_group() as tasks:
        for question in filter(None, asked):
            tasks.start_soon(world.use, world.random.choice(ANYBODY), question)


async def crowd(world: World) -> None:
    """Make three changes of any kind at the same time."""
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(confirm, world)


async def outage(world: World) -> None:
    """Have the API refuse connections for a while."""
    await world.stop()
    with refusing() as nowhere:
        await world.start(nowhere)
        for operation in (confirm, elicit, rush, use_old, fetch):
            await operation(world)
        await world.stop()
    await world.start()


async def use_old(world: World) -> None:
    """Use an old token again, or for the first time."""
    if world.questions:
        question = world.random.choice(world.questions)
        await world.use(world.random.choice(ANYBODY), question)


async def rush_old(world: World) -> None:
    """Use an old token eight times at once."""
    if world.questions:
        await _use_at_once(world, world.random.choice(world.questions))


async def abuse(world: World) -> None:
    """Use a token for another change, another client's token, or one that was never issued."""
    if not world.questions:
        return
    question, other = world.random.choice(world.questions), draw_change(world)
    change, who, token = question.attempt.change, "modern", question.token
    match world.random.choice(["swapped", "stolen", "forged"]):
        case "swapped":
            change = other
        case "stolen":
            who = "stranger"
        case _:
            token = token[:-1] + ("A" if token[-1] != "A" else "B")
    if change == question.attempt.change and who == "modern" and token == question.token:
        return
    sent = world.proxy.sent[change.marker]
    told = await world.call(who, change.tool, {**change.arguments, "confirmation_token": token})
    require(kind_of(told) in NEVER_ISSUED, "an abused token was accepted", told)
    if change.marker not in world.in_flight:
        require(world.proxy.sent[change.marker] == sent, "an abused token sends something", told)


async def give_up(world: World) -> None:
    """Use a token, and disconnect before the response."""
    change = draw_change(world)
    if question := await world.ask(world.random.choice(ALONE), change):
        await _broken_off(world, change, lambda: world.use("modern", question))


async def give_up_asked(world: World) -> None:
    """Have the client ask the user, and disconnect before they answer."""
    change = draw_change(world)
    await _broken_off(world, change, lambda: _elicit(world, change))


async def give_up_and_restart(world: World) -> None:
    """Disconnect, and stop the server during the change."""
    await give_up(world)
    await restart(world)


async def approve_alone(world: World) -> None:
    """The operator approves, and the server makes the change by itself."""
    if requested := await _request(world):
        await world.decide(requested, approve=True)
        await world.run_by_itself(requested)
        await world.repeat(world.random.choice(OPERATED), requested)


async def approve_in_a_rush(world: World) -> None:
    """The approval arrives while the client repeats its request eight times at two replicas."""
    if requested := await _request(world):
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(world.repeat, OPERATED[number % 2], requested)
                if number == world.random.randrange(8):
                    tasks.start_soon(_approve, world, requested)
        await world.decide(requested, approve=True)
        await world.run_by_itself(requested)


async def approve_and_restart(world: World) -> None:
    """The server that asked stops before the approval, or soon after it."""
    requested = await _request(world)
    if requested is None:
        return
    if world.random.random() < 0.5:
        await restart(world)
        await world.decide(requested, approve=True)
    else:
        await world.decide(requested, approve=True)
        enough = world.proxy.arrived + world.random.randrange(3)
        with anyio.move_on_after(1):  # the API may not be asked at all
            await world.proxy.arrivals(enough)
        await restart(world)
    if world.random.random() < 0.8:
        await world.repeat(world.random.choice(OPERATED), requested)


async def deny(world: World) -> None:
    """The operator denies, and nothing happens however often the client repeats its request."""
    if requested := await _request(world):
        await world.decide(requested, approve=False)
        await world.repeat(world.random.choice(OPERATED), requested)


async def leave_pending(world: World) -> None:
    """Leave a request without a decision for now."""
    await _request(world)
    if world.random.random() < 0.5:
        undecided = [each for each in world.requested if each.attempt.told is None]
        if undecided:
            await world.decide(world.random.choice(undecided), approve=True)


async def restart(world: World) -> None:
    """Stop the server, and start another one with its files."""
    await world.stop()
    await world.start()


async def advance(world: World) -> None:
    """Advance the clock beyond all delays."""
    with anyio.fail_after(PATIENCE):
        await world.proxy.idle()
    world.clock.advance(world.random.choice([1, 1, 3, 10, 30, 30, 120, 400, 4000]))


async def fetch(world: World) -> None:
    """Fetch a call."""
    sid = draw_sid(world, live=True)
    earlier = world.emulator.calls.get(sid)
    told = await world.call(world.random.choice(ANYBODY), "fetch_call", {"sid": sid})
    if told["outcome"] == "done":
        require(told["call"]["sid"] == sid, "another call was fetched", told)
        seen = [call.status for call in (earlier, world.emulator.calls.get(sid)) if call]
        require(told["call"]["status"] in seen, "a call was fetched wrongly", told, seen)


async def walk(world: World) -> None:
    """Read a list to its end. No call may be repeated or missing."""
    filters = world.random.choice([{}, {"to": TALKS_FOR_AN_HOUR}, {"status": "completed"}])
    earlier, listed = _matching(world, filters), list[str]()
    arguments: Mapping[str, object] = {**filters, "limit": 7, "page_size": 3}
    for _ in range(100):
        told = await _patiently(world, arguments)
        if told is None:
            return
        listed += [call["sid"] for call in told["calls"]]
        if "next_cursor" not in told:
            break
        arguments = {"cursor": told["next_cursor"], "limit": 7}
        if world.random.random() < 0.05:
            await restart(world)
    later = _matching(world, filters)
    if earlier <= later:  # if the last one of a page has gone, better twice than never
        require(len({*listed}) == len(listed), "a call is listed twice", listed)
    missed = (earlier & later) - {*listed}
    require(not missed, "calls are missing from a list", missed, listed)


Operation = Callable[[World], Awaitable[None]]

OPERATIONS: Mapping[Operation, int] = {
    confirm: 20,
    elicit: 15,
    fetch: 8,
    advance: 8,
    use_old: 8,
    rush: 6,
    twins: 6,
    give_up: 5,
    repeat: 5,
    walk: 4,
    abuse: 4,
    ask_only: 3,
    rush_old: 3,
    give_up_asked: 3,
    crowd: 3,
    outage: 1,
    approve_alone: 8,
    approve_in_a_rush: 4,
    approve_and_restart: 3,
    deny: 2,
    leave_pending: 2,
    restart: 2,
    give_up_and_restart: 2,
}


def draw_operation(random: Random) -> Operation:
    """Return one of the operations, the usual ones more often."""
    return random.choices([*OPERATIONS], [*OPERATIONS.values()])[0]


async def _ask(world: World) -> Question | None:
    return await world.ask(world.random.choice(ALONE), draw_change(world))


async def _request(world: World) -> Requested | None:
    return await world.request(world.random.choice(OPERATED), draw_change(world))


async def _approve(world: World, requested: Requested) -> None:
    await world.decide(requested, approve=True)


async def _use_at_once(world: World, question: Question) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(world.use, ANYBODY[number % 6], question)


async def _elicit(world: World, change: Change) -> None:
    world.reply = world.random.choice(REPLIES)
    attempt = world.model.open(change)
    attempt.is_approved = world.reply is approve or world.confirm != "all"
    told = await world.call(world.random.choice(ASKED), change.tool, change.arguments)
    world.model.note(attempt, told)


async def _broken_off(world: World, change: Change, act: Callable[[], Awaitable[object]]) -> None:
    """Run an operation until a random number of requests has reached the API."""
    if change.action == "delete":
        world.in_flight.add(change.marker)
    enough = world.proxy.arrived + world.random.randrange(4)

    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await act()
            tasks.cancel_scope.cancel()

        tasks.start_soon(run)
        await world.proxy.arrivals(enough)
        tasks.cancel_scope.cancel()


async def _patiently(world: World, arguments: Mapping[str, object]) -> Told | None:
    """Return a page of a list, after up to three attempts."""
    for _ in range(3):
        told = await world.call("modern", "list_calls", arguments)
        if told["outcome"] == "done":
            return told
    return None


def _matching(world: World, filters: Mapping[str, str]) -> set[str]:
    return {
        call.sid
        for call in world.emulator.calls.all()
        if filters.get("to", call.to) == call.to
        and filters.get("status", call.status) == call.status
    }

"""Two server processes with Redis behind a load balancer, and crashes of one of them."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from calls_mcp.emulator import Emulator
from tests.harness import ERAS, PERMISSIVE, Era, User, placing
from tests.http.load_balancer import haproxy, nginx
from tests.http.replica import Replica, replica
from tests.http.service import YES, Service, principals
from tests.process import environment

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.needs(tool="haproxy"),
    pytest.mark.needs(tool="nginx"),
]


@dataclass
class Fleet:
    """Two replicas by their audit logs, and the load balancer in front of them."""

    emulator: Emulator
    front: Service
    replicas: dict[Path, Replica]

    @property
    def placed(self) -> int:
        """Return how many calls were placed."""
        return len([entry for entry in self.emulator.requests if entry.method != "GET"])

    async def kill_the_asking_replica(self) -> None:
        """Kill the replica that asked for the confirmation."""
        (asker,) = (server for file, server in self.replicas.items() if file.exists())
        await asker.kill()


@asynccontextmanager
async def fleet(
    folder: Path, redis_url: str, *, with_sessions: bool = False
) -> AsyncGenerator[Fleet]:
    """Start two replicas behind nginx, or behind HAProxy if they have sessions."""
    balanced = haproxy if with_sessions else nginx
    files = [folder / f"audit-{number}.db" for number in (1, 2)]
    async with Emulator() as emulator:
        variables = environment(
            emulator.base_url,
            CALLS_MCP_AUTH="tokens",
            CALLS_MCP_PRINCIPALS=str(principals(folder / "principals.toml", "ann")),
            CALLS_MCP_ALLOWED_HOSTS="127.0.0.1",
            CALLS_MCP_HTTP_STATELESS="0" if with_sessions else "1",
            CALLS_MCP_STATE_URL=redis_url,
            CALLS_MCP_SECRET_KEYS="k" * 32,
            CALLS_MCP_POLICY=str(PERMISSIVE),
        )
        one, two = (variables | {"CALLS_MCP_AUDIT_DATABASE": str(file)} for file in files)
        async with (
            replica(one, token="ann") as first,
            replica(two, token="ann") as second,
            balanced(folder, [first.url, second.url]) as url,
        ):
            servers = dict(zip(files, (first, second), strict=True))
            yield Fleet(emulator, Service(url, "ann"), servers)


async def test_clients_of_all_revisions_are_served_by_any_replica(
    tmp_path: Path, redis_url: str
) -> None:
    async with fleet(tmp_path, redis_url) as here:
        for mode in ERAS:
            async with here.front.connect(mode) as agent:
                assert (await agent.confirm("create_call", **placing()))["outcome"] == "done"
                for _ in range(4):
                    assert (await agent.call("list_calls"))["outcome"] == "done"
        assert here.placed == 2
        user = User()
        async with here.front.connect("auto", user) as agent:
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"
        assert (here.placed, len(user.asked)) == (3, 1)


@pytest.mark.parametrize("mode", ERAS)
async def test_a_confirmation_token_works_once_after_its_replica_crashed(
    mode: Era, tmp_path: Path, redis_url: str
) -> None:
    async with fleet(tmp_path, redis_url) as here:
        async with here.front.connect(mode) as agent:
            asked = await agent.call("create_call", **placing())
            await here.kill_the_asking_replica()
            outcomes: list[dict[str, Any]] = []

            async def use() -> None:
                token = asked["confirmation"]["token"]
                outcomes.append(
                    await agent.call("create_call", **placing(), confirmation_token=token)
                )

            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(use)
        assert {outcome["outcome"] for outcome in outcomes} == {"done"}
        assert len({outcome["call"]["sid"] for outcome in outcomes}) == 1
        assert here.placed == 1


async def test_a_question_can_be_answered_once_after_its_replica_crashed(
    tmp_path: Path, redis_url: str
) -> None:
    async with fleet(tmp_path, redis_url) as here:
        asked = await here.front.tool("create_call", placing())
        await here.kill_the_asking_replica()
        answered = {"requestState": asked["requestState"], "inputResponses": YES}
        answers = [await here.front.tool("create_call", placing(), **answered) for _ in "12"]
        first, second = (answer["structuredContent"] for answer in answers)
        assert first["outcome"] == second["outcome"] == "done"
        assert first["call"]["sid"] == second["call"]["sid"]
        assert here.placed == 1


@pytest.mark.parametrize("with_sessions", [False, True])
async def test_while_one_replica_shuts_down_no_request_fails(
    tmp_path: Path, redis_url: str, *, with_sessions: bool
) -> None:
    statuses: list[int] = []
    async with fleet(tmp_path, redis_url, with_sessions=with_sessions) as here:
        one, _ = here.replicas.values()

        async def read() -> None:
            for _ in range(5):
                asked = await here.front.ask("tools/call", name="list_calls", arguments={})
                statuses.append(asked.status_code)

        await here.front.ask("tools/list")  # opens a connection that is kept alive
        one.terminate()
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(read)
        assert await one.process.wait() == 0
    assert statuses == [200] * 50


@pytest.mark.parametrize("with_sessions", [False, True])
async def test_the_load_balancer_limits_connections_and_bodies_and_hides_readiness(
    tmp_path: Path, redis_url: str, *, with_sessions: bool
) -> None:
    unfinished = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n"
    async with fleet(tmp_path, redis_url, with_sessions=with_sessions) as here:
        assert (await here.front.get("/readyz")).status_code == 404
        assert (await here.front.get("/healthz")).status_code == 200
        large = await here.front.post(b" " * 70_000)
        assert (large.status_code, large.headers["Content-Type"]) == (413, "text/html")
        async with AsyncExitStack() as held:
            for _ in range(100):
                connection = await held.enter_async_context(await here.front.connection())
                await connection.send(unfinished)
            with anyio.fail_after(20):
                while (await here.front.ask("tools/list")).status_code != 429:
                    pass  # until the load balancer has noticed all of them
        while (await here.front.ask("tools/list")).status_code == 429:
            pass  # until it has noticed that they are closed


async def test_a_session_stays_on_its_replica(tmp_path: Path, redis_url: str) -> None:
    async with fleet(tmp_path, redis_url, with_sessions=True) as here:
        for number in range(6):
            user = User()
            async with here.front.connect("legacy", user) as agent:
                to = f"+1500555020{number}"
                assert (await agent.call("create_call", **placing(to=to)))["outcome"] == "done"
                assert (await agent.call("list_calls"))["outcome"] == "done"
            assert len(user.asked) == 1
        assert here.placed == 6
        assert all(file.exists() for file in here.replicas)  # both replicas had sessions

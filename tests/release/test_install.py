"""Install the packages as users do, from a local index: `pytest -m install`."""

import json
import shutil
import sys
from collections.abc import Generator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from calls_mcp import __version__
from calls_mcp.emulator import DEFAULT_ACCOUNT, Emulator, past_calls
from calls_mcp.tools.catalog import load_operations
from tests.docs.pages import ROOT, blocks
from tests.harness import Agent
from tests.release.builds import Built, copy_of_the_checkout, outside, run
from tests.release.host import configure
from tests.web_server import QuietHandler, listening

pytestmark = [pytest.mark.install, pytest.mark.timeout(400)]
HERE = Path(sys.executable).parent  # with uv and pipx
INSTALLED = "pip install -q -e '.[dev]' && "  # as the environment of these tests was made
PACKAGES = [
    line
    for block in blocks(ROOT / "docs" / "quickstart.md")
    for line in block.text.splitlines()
    if line.startswith((INSTALLED, "uvx ", "pipx "))
]


class Index(QuietHandler, SimpleHTTPRequestHandler):
    pass


@pytest.fixture
def index(built: Built, tmp_path: Path) -> Generator[str]:
    """The URL of a simple index (PEP 503) that has only our wheel."""
    folder = tmp_path / "index" / "simple" / "calls-mcp"
    folder.mkdir(parents=True)
    shutil.copy(built.wheel, folder)
    with listening(partial(Index, directory=str(tmp_path / "index"))) as url:
        yield f"{url}/simple"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables with empty home folders, so that nothing is installed yet."""
    homes = {"UV_CACHE_DIR": "uv", "PIPX_HOME": "pipx", "PIPX_BIN_DIR": "bin"}
    return outside() | {name: str(tmp_path / folder) for name, folder in homes.items()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout where the install page's first command has built the packages."""
    folder = copy_of_the_checkout(tmp_path_factory.mktemp("packages"))
    shutil.rmtree(folder / "dist")  # of somebody else
    run(in_a_shell(PACKAGES[0].removeprefix(INSTALLED)), folder, with_our_programs(outside()))
    return folder


def in_a_shell(command: str) -> list[str]:
    return ["/bin/bash", "-c", command]


def with_our_programs(environment: dict[str, str]) -> dict[str, str]:
    return environment | {"PATH": f"{HERE}:{environment['PATH']}"}


async def speak(server: StdioServerParameters, *, sandbox: bool) -> None:
    """Initialize as a host does, and call one tool."""
    async with Client(server) as client:
        assert client.server_info
        assert client.server_info.version == __version__
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == [*load_operations()]
        found = await Agent(client).call("list_calls", limit=3)
        assert found["outcome"] == "done"
        assert found["count"] == 3
        assert found.get("sandbox", False) is sandbox


def test_the_install_page_builds_and_starts_packages() -> None:
    assert [line.split()[0] for line in PACKAGES] == ["pip", "uvx", "pipx"]
    assert PACKAGES[0].startswith(INSTALLED)


@pytest.mark.anyio
@pytest.mark.parametrize("command", PACKAGES[1:])
async def test_each_command_of_the_install_page_starts_the_server(
    command: str, checkout: Path, environment: dict[str, str]
) -> None:
    shell, *arguments = in_a_shell(f"exec {command}")
    server = StdioServerParameters(
        command=shell, args=arguments, env=with_our_programs(environment), cwd=checkout
    )
    await speak(server, sandbox=True)


@pytest.mark.anyio
async def test_uvx_starts_the_server(index: str, environment: dict[str, str]) -> None:
    arguments = ["--index", index, "calls-mcp", "serve", "--sandbox"]
    server = StdioServerParameters(command=str(HERE / "uvx"), args=arguments, env=environment)
    await speak(server, sandbox=True)


@pytest.mark.anyio
async def test_pipx_run_starts_the_server(index: str, environment: dict[str, str]) -> None:
    options = f"--extra-index-url {index}"
    arguments = ["run", "--pip-args", options, "calls-mcp", "serve", "--sandbox"]
    server = StdioServerParameters(command=str(HERE / "pipx"), args=arguments, env=environment)
    await speak(server, sandbox=True)


def test_pipx_installs_the_command(index: str, environment: dict[str, str], tmp_path: Path) -> None:
    pipx, options = str(HERE / "pipx"), f"--extra-index-url {index}"
    run([pipx, "install", "--pip-args", options, "calls-mcp"], tmp_path, environment)
    command = Path(environment["PIPX_BIN_DIR"]) / "calls-mcp"
    assert run([str(command), "--version"], tmp_path) == f"calls-mcp {__version__}\n"


@pytest.mark.anyio
async def test_a_host_starts_the_bundle_as_its_manifest_says(
    unpacked: Path, environment: dict[str, str]
) -> None:
    async with Emulator() as emulator:
        emulator.calls.add(*past_calls(1, 10, emulator.clock()))
        answers = {"account_sid": DEFAULT_ACCOUNT.sid, "auth_token": DEFAULT_ACCOUNT.auth_token}
        config = configure(unpacked, answers)
        # Hosts have no input for the API's URL, so it is set directly.
        elsewhere = {"CALLS_MCP_API_BASE_URL": emulator.base_url}
        server = StdioServerParameters(
            command=config["command"],
            args=config["args"],
            env=with_our_programs(environment) | config["env"] | elsewhere,
        )
        await speak(server, sandbox=False)


@pytest.mark.anyio
@pytest.mark.parametrize("runner", [("uvx", "--from"), ("pipx", "run", "--spec")])
async def test_the_entry_of_client_config_starts_the_same_wheel(
    runner: tuple[str, ...], built: Built, environment: dict[str, str], tmp_path: Path
) -> None:
    command = [str(HERE / runner[0]), *runner[1:], str(built.wheel), "calls-mcp", "client-config"]
    path = {"PATH": f"{HERE}:{environment['PATH']}"}
    made = run([*command, "cursor", "--sandbox"], tmp_path, environment | path)
    entry = json.loads(made)["mcpServers"]["calls"]
    server = StdioServerParameters(
        command=entry["command"], args=entry["args"], env=environment | path
    )
    await speak(server, sandbox=True)

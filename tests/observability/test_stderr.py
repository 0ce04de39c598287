"""Writing to stderr when it is not being read."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from calls_mcp.emulator import Emulator
from calls_mcp.observability import stderr
from tests.harness import PERMISSIVE, Agent, placing
from tests.process import environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fills a pipe")


class Pipe:
    """A pipe that is full until it is read."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self._filled = fill(writing)
        self._reader = os.fdopen(reading, "rb")
        self.stream = os.fdopen(writing, "w", encoding="utf-8")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._text = b""

    def read(self) -> None:
        """Start reading until all writers have closed the pipe."""
        self._thread.start()

    def rest(self) -> str:
        """Return what was written after the pipe was full."""
        self.stream.close()
        self._thread.join(30)
        return self._text.decode()

    def _read(self) -> None:
        with self._reader:
            self._text = self._reader.read()[self._filled :]


class HasStream(Protocol):
    """What a server can have for its stderr."""

    @property
    def stream(self) -> TextIO: ...


@dataclass
class Stream:
    """A stream that the test itself fills."""

    stream: TextIO


def fill(writing: int) -> int:
    """Fill a pipe to the last byte; return how many bytes that took."""
    os.set_blocking(writing, False)
    filled = 0
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                filled += os.write(writing, b"x" * size)
    os.set_blocking(writing, True)
    return filled


@asynccontextmanager
async def serving(pipe: HasStream, **variables: str) -> AsyncGenerator[tuple[Emulator, Agent]]:
    """Start a server whose stderr is `pipe`, backed by an emulator."""
    async with Emulator() as emulator:
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "calls_mcp"],
            env=environment(
                emulator.base_url,
                CALLS_MCP_POLICY=str(PERMISSIVE),
                CALLS_MCP_CONFIRM="none",
                **{"CALLS_MCP_LOG_LEVEL": "DEBUG"} | variables,
            ),
        )
        async with Client(stdio_client(server, errlog=pipe.stream)) as client:
            yield emulator, Agent(client)


@pytest.mark.process
@pytest.mark.anyio
async def test_while_stderr_is_not_read_changes_fail_in_time_and_reads_work() -> None:
    pipe, outcomes = Pipe(), list[dict[str, Any]]()

    async def place() -> None:
        outcomes.append(await agent.call("create_call", **placing()))

    variables = {"CALLS_MCP_AUDIT_DATABASE": "stderr:", "CALLS_MCP_DEADLINE": "4"}
    async with serving(pipe, **variables) as (emulator, agent):
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(place)
                while len(outcomes) < 3:
                    assert (await agent.call("list_calls"))["outcome"] == "done"
        assert [each["error"]["kind"] for each in outcomes] == ["audit_unavailable"] * 3
        # One of them waits for stderr, and the others for that one.
        assert any("stderr is not being read" in each["error"]["hint"] for each in outcomes)
        assert [entry for entry in emulator.requests if entry.method != "GET"] == []
        pipe.read()
        assert (await agent.call("create_call", **placing()))["outcome"] == "done"
    assert '"phase":"after"' in pipe.rest()


@pytest.mark.process
@pytest.mark.anyio
async def test_a_server_exits_although_stderr_is_not_read() -> None:
    pipe = Pipe()
    with anyio.fail_after(20):
        async with serving(pipe) as (_, agent):
            assert (await agent.call("list_calls"))["outcome"] == "done"
    pipe.read()
    pipe.rest()


@pytest.mark.process
@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="knows how Linux fills a pipe")
async def test_a_call_that_was_sent_is_reported_soon_even_if_nobody_reads_stderr() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as log, os.fdopen(writing, "w", encoding="utf-8") as stream:
        variables = {"CALLS_MCP_AUDIT_DATABASE": "stderr:", "CALLS_MCP_LOG_LEVEL": "ERROR"}
        pipe = Stream(stream)
        async with serving(pipe, **variables) as (emulator, agent):
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"
            first, _ = log.readline(), log.readline()
            room = len(first) + 100  # the record of the result does not fit any more
            size = fill(writing)
            log.read(size)
            os.write(writing, b"x" * (size - room))
            with anyio.fail_after(8):
                outcome = await agent.call("create_call", **placing(call_reason="again"))
            assert outcome["outcome"] == "done"
            assert "audit log" in outcome["warnings"][0]
            assert len([each for each in emulator.requests if each.method == "POST"]) == 2


@pytest.mark.process
@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--sandbox", "--transport", "http"],
        ["serve", "--sandbox", "--transport", "http", "--console", "0"],
        ["console", "--sandbox"],
        ["emulator"],
    ],
    ids=" ".join,
)
def test_a_signal_ends_a_server_whose_output_nobody_reads(command: list[str]) -> None:
    pipe, port = Pipe(), free_port()
    arguments = [sys.executable, "-m", "calls_mcp", *command, "--port", str(port)]
    environ = {**os.environ, "CALLS_MCP_STATE_URL": "memory:", "CALLS_MCP_HTTP_GRACE": "3"}
    with subprocess.Popen(  # noqa: S603  # our own program
        arguments, env=environ, stdin=subprocess.DEVNULL, stdout=pipe.stream, stderr=pipe.stream
    ) as process:
        try:
            wait_for_port(port)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            pipe.read()
            pipe.rest()


@pytest.mark.process
def test_a_wrong_setup_ends_a_server_whose_stderr_nobody_reads() -> None:
    pipe = Pipe()
    command = [sys.executable, "-m", "calls_mcp", "serve", "--host", "127.0.0.1"]
    with subprocess.Popen(  # noqa: S603  # our own program
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=pipe.stream
    ) as process:
        try:
            assert process.wait(40) == 2
        finally:
            process.kill()
            pipe.read()
            pipe.rest()


def test_a_print_and_a_traceback_do_not_wait_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_stderr(monkeypatch) as pipe:
        stderr.never_block()
        print("printed", file=sys.stderr, flush=True)  # noqa: T201  # as a library might
        traceback.print_exception(ValueError("raised"))
        pipe.read()
        stderr.flush(30)
    assert pipe.rest().startswith("printed\nValueError: raised\n")


def test_bytes_and_undecodable_text_are_written_and_the_writer_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with own_stderr(monkeypatch) as pipe:
        stderr.never_block()
        sys.stderr.buffer.write(b"bytes \xff\n")
        sys.stderr.buffer.write(memoryview(b"view\n"))
        print("lone \udcff", file=sys.stderr)  # noqa: T201  # as a library might
        with pytest.raises(TypeError, match="must be str, not bytes"):
            sys.stderr.write(b"raw")  # pyright: ignore[reportArgumentType]
        print("after", file=sys.stderr)  # noqa: T201
        pipe.read()
        stderr.flush(30)
    assert pipe.rest() == "bytes \\xff\nview\nlone \\udcff\nafter\n"


def test_a_long_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_stderr(monkeypatch) as pipe:
        stderr.write_soon("x" * 1_000_000)
        stderr.write_soon("after\n")
        pipe.read()
    assert re.fullmatch(r"x{65536}… \(934464 characters left out\)\nafter\n", pipe.rest())


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def wait_for_port(port: int) -> None:
    """Wait until something listens on a port of this machine."""
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError


@contextmanager
def own_stderr(monkeypatch: pytest.MonkeyPatch) -> Generator[Pipe]:
    """Make a full pipe the stderr of this process."""
    stderr.flush()
    pipe = Pipe()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", pipe.stream)
        yield pipe
        stderr.flush(30)


def test_excess_log_lines_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_stderr(monkeypatch) as pipe:
        for number in range(1500):
            stderr.write_soon(f"line {number}\n")
        pipe.read()
    written = pipe.rest()
    lines = [int(number) for number in re.findall(r"^line (\d+)$", written, re.MULTILINE)]
    dropped = [int(count) for count in re.findall(r"dropped (\d+) log line", written)]
    assert lines == sorted({*lines})
    assert dropped
    assert len(lines) + sum(dropped) == 1500


def test_a_job_that_timed_out_in_the_queue_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[str]()
    with own_stderr(monkeypatch) as pipe:
        stderr.write_soon("this one is being written\n")
        with pytest.raises(TimeoutError, match="stderr is not being read"):
            stderr.run_in_writer(lambda: done.append("too late"), 0.05)
        pipe.read()
        stderr.run_in_writer(lambda: done.append("in time"), 30)
    assert done == ["in time"]
    assert pipe.rest() == "this one is being written\n"

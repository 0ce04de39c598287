"""Install the clients for the tests, each in its own environment.

```
python -m tests.clients.install [NAME…]
```

It only needs Python, and skips clients that are already installed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.clients.pins import CLIENTS, TOOLS, Pin, node


def install(names: Sequence[str]) -> int:
    """Install these clients, or all. Return how many failed."""
    missing = [pin for name in names or CLIENTS if not (pin := CLIENTS[name]).is_installed]
    if missing and not TOOLS.is_installed:
        _install_tools()
    with ThreadPoolExecutor() as threads:
        return sum(not done for done in threads.map(_attempt, missing))


def _install_tools() -> None:
    shutil.rmtree(TOOLS.home, ignore_errors=True)
    venv.create(TOOLS.home, with_pip=True)
    _run(TOOLS.python, "-m", "pip", "install", "-q", *TOOLS.packages)
    TOOLS.mark()


def _attempt(pin: Pin) -> bool:
    shutil.rmtree(pin.home, ignore_errors=True)
    pin.home.mkdir(parents=True)
    try:
        _install_npm(pin) if pin.registry == "npm" else _install_pypi(pin)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{pin.name}: not installed\n{error.output}\n")
        return False
    pin.mark()
    sys.stdout.write(f"{pin.name} {pin.version}\n")
    return True


def _install_pypi(pin: Pin) -> None:
    uv = TOOLS.home / "bin" / "uv"
    _run(uv, "venv", "-q", "--allow-existing", "--no-project", "--python", sys.executable, pin.home)
    into = ("--python", pin.python, "--exclude-newer", pin.until)
    _run(uv, "pip", "install", "-q", *into, *pin.packages)


def _install_npm(pin: Pin) -> None:
    (pin.home / "package.json").write_text('{"private": true}\n', "utf-8")
    quietly = ("--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    _run(node(), npm, "install", *quietly, f"--before={pin.until}", *pin.packages, cwd=pin.home)


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a command, with our Node first on the PATH.

    Raises:
        CalledProcessError: It failed; `output` has its output.
    """
    path = f"{TOOLS.home / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    if TOOLS.is_installed:
        path = f"{node().parent}{os.pathsep}{path}"
    subprocess.run(  # noqa: S603  # our own commands
        command,
        check=True,
        cwd=cwd,
        encoding="utf-8",
        env={**os.environ, "PATH": path},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
    )


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.install", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CLIENTS))
    names: list[str] = parser.parse_args().names
    if unknown := set(names) - set(CLIENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. There are: {', '.join(CLIENTS)}")
    sys.exit(min(1, install(names)))


if __name__ == "__main__":
    _main()

"""Read settings from a file of `KEY=VALUE` lines into the environment."""

import os
import re
from pathlib import Path

from calls_mcp.errors import ConfigurationError

_LINE = re.compile(
    r"""(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*
    (?:'(?P<single>[^']*)'|"(?P<double>[^"\\]*)"|(?P<plain>[^'"\#\s](?:[^'"]*?[^'"\s])??)?)
    \s*(?:(?<![^\s='"])\#.*)?""",
    re.VERBOSE,
)


def load_env_file(name: str) -> None:
    """Set each variable in the file `name` that the environment does not have.

    Raises:
        ConfigurationError: The file can't be read, or a line is wrong. The message has the line's
            number and never its text, which may be a secret.
    """
    try:
        text = Path(name).read_text("utf-8-sig")
    except OSError as failure:
        raise ConfigurationError(f"--env-file {name}: {failure.strerror}.") from failure
    except UnicodeDecodeError:
        raise ConfigurationError(f"--env-file {name}: must be UTF-8.") from None
    for variable, value in _variables(name, text).items():
        os.environ.setdefault(variable, value)


def _variables(file: str, text: str) -> dict[str, str]:
    variables: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None or "\0" in line:
            raise ConfigurationError(
                f"--env-file {file}: line {number}: must be KEY=VALUE. Put single quotes around a "
                "value that contains # or quotation marks."
            )
        name = found["name"]
        if name in variables:
            raise ConfigurationError(f"--env-file {file}: line {number}: sets {name} again.")
        variables[name] = found["single"] or found["double"] or found["plain"] or ""
    return variables

"""A scenario out of a TOML file."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter, ValidationError

from calls_mcp.emulator.addresses import is_address
from calls_mcp.emulator.errors import StartError
from calls_mcp.emulator.scripts import Scenario, Script

OTHERWISE = "otherwise"


def _is_destination(text: str) -> str:
    if text != OTHERWISE and not is_address(text):
        raise ValueError(f"{text!r} is no number, SIP address or client, nor {OTHERWISE!r}")
    return text


SCRIPTS_BY_NUMBER = TypeAdapter(dict[Annotated[str, AfterValidator(_is_destination)], Script])


def load_scenario(path: str) -> Scenario:
    """The scenario in a file: a table for each number, and one named `otherwise`.

    ```toml
    ["+12025550123"]
    answer_after = 5
    talk_for = 90
    answered_by = "machine"
    price = -0.05
    ```

    Raises:
        StartError: The file can't be read, or is wrong.
    """
    try:
        tables = tomllib.loads(Path(path).read_text("utf-8"))
        scripts = SCRIPTS_BY_NUMBER.validate_python(tables)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StartError(f"--scenario {path}: {error}") from error
    except ValidationError as error:
        raise StartError(f"--scenario {path}: {_told(error)}") from error
    otherwise = scripts.pop(OTHERWISE, Script())
    return Scenario(scripts, otherwise)


def _told(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    return f"{where}: {first['msg']}"

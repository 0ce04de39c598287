"""The prompts: Markdown files with front matter, checked when the server starts."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import frontmatter
import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from calls_mcp.errors import CatalogError
from calls_mcp.observability.redaction import one_line
from calls_mcp.tools.catalog import PROMPTS

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")


_Text = Annotated[str, Field(strict=True, min_length=1)]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class PromptArgument:
    """What a prompt can be told; one of `choices`, if it has any.

    One that is not required is left out of the text if not given.
    """

    name: _Text
    description: _Text
    required: Annotated[bool, Field(strict=True)] = False
    choices: tuple[_Text, ...] = ()


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt; `text` has `{{ name }}` where an argument goes."""

    name: _Text
    title: _Text
    description: _Text
    arguments: tuple[PromptArgument, ...]
    text: _Text

    def names(self, tool: str) -> bool:
        """Whether its text has the model use a tool of this name."""
        return re.search(rf"\b{tool}\b", self.text) is not None

    def problems(self, given: Mapping[str, str]) -> Iterator[str]:
        """What is wrong with the arguments given."""
        for argument in self.arguments:
            value = given.get(argument.name)
            if argument.required and not value:
                yield f"{self.name} needs the argument {argument.name}: {argument.description}"
            if value and argument.choices and value not in argument.choices:
                yield f"{self.name} takes as {argument.name}: {', '.join(argument.choices)}"
        declared = {argument.name for argument in self.arguments}
        for name in given:
            if name not in declared:
                yield f"{self.name} has no argument {one_line(name, 40)!r}"

    def render(self, given: Mapping[str, str]) -> str:
        """The text with the arguments in it, `(not given)` for those that are not."""
        return _PLACEHOLDER.sub(lambda m: given.get(m[1]) or "(not given)", self.text)


_PROMPT = TypeAdapter(Prompt)


def load_prompts(directory: Path = PROMPTS) -> Mapping[str, Prompt]:
    """The prompts by name, in the order of their files.

    Raises:
        CatalogError: A file has no proper front matter, or uses an argument it does not declare.
    """
    prompts = [_read(file) for file in sorted(directory.glob("*.md"))]
    return {prompt.name: prompt for prompt in prompts}


def _read(file: Path) -> Prompt:
    try:
        post = frontmatter.loads(file.read_text("utf-8"))
        prompt = _PROMPT.validate_python({**post.metadata, "text": post.content})
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CatalogError(file.name, f"front matter: {'; '.join(wrong)}") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise CatalogError(file.name, f"front matter: {one_line(str(error), 300)}") from error
    return _checked(file, prompt)


def _checked(file: Path, prompt: Prompt) -> Prompt:
    if prompt.name != file.stem:
        raise CatalogError(file.name, f"name: must be {file.stem!r}, as the file is called")
    declared = {argument.name for argument in prompt.arguments}
    if len(declared) < len(prompt.arguments):
        raise CatalogError(file.name, "arguments: one is declared twice")
    used = {*_PLACEHOLDER.findall(prompt.text)}
    if declared != used:
        odd = ", ".join(sorted(declared ^ used))
        raise CatalogError(file.name, f"arguments: declared but not used, or the reverse: {odd}")
    return prompt

"""The prompts: Markdown files with front matter, checked when the server starts."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import frontmatter
import yaml

from calls_mcp.datafiles import PROMPTS
from calls_mcp.errors import CatalogError
from calls_mcp.redaction import one_line

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")


class _Head(TypedDict):
    name: str
    title: str
    description: str


class _Row(TypedDict):
    name: str
    description: str
    required: NotRequired[bool]


@dataclass(frozen=True, slots=True)
class PromptArgument:
    """What a prompt can be told. One that is not required is left out of the text if not given."""

    name: str
    description: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt; `text` has `{{ name }}` where an argument goes."""

    name: str
    title: str
    description: str
    arguments: tuple[PromptArgument, ...]
    text: str

    def problems(self, given: Mapping[str, str]) -> Iterator[str]:
        """What is wrong with the arguments given."""
        for argument in self.arguments:
            if argument.required and not given.get(argument.name):
                yield f"{self.name} needs the argument {argument.name}: {argument.description}"
        for name in {*given} - {argument.name for argument in self.arguments}:
            yield f"{self.name} has no argument {one_line(name, 40)!r}"

    def render(self, given: Mapping[str, str]) -> str:
        """The text with the arguments in it, `(not given)` for those that are not."""
        return _PLACEHOLDER.sub(lambda m: given.get(m[1]) or "(not given)", self.text)


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
        fields: dict[str, object] = dict(post.metadata)
        rows = cast("list[dict[str, object]]", fields.pop("arguments"))
        arguments = tuple(PromptArgument(**cast("_Row", row)) for row in rows)
        prompt = Prompt(**cast("_Head", fields), arguments=arguments, text=post.content)
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise CatalogError(file.name, "front matter", _problem(error)) from error
    return _checked(file, prompt)


def _problem(error: Exception) -> str:
    expected = "expected name, title, description and a list of arguments (name, description)"
    return f"{expected}; {one_line(str(error), 300)}"


def _checked(file: Path, prompt: Prompt) -> Prompt:
    if prompt.name != file.stem:
        raise CatalogError(file.name, "name", f"must be {file.stem!r}, as the file is called")
    declared = {argument.name for argument in prompt.arguments}
    used = {*_PLACEHOLDER.findall(prompt.text)}
    if declared != used:
        odd = ", ".join(sorted(declared ^ used))
        raise CatalogError(file.name, "arguments", f"declared but not used, or the reverse: {odd}")
    return prompt

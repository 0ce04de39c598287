"""The prompts: Markdown files with front matter."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import frontmatter
import mcp_types as types
import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from calls_mcp.errors import CatalogError
from calls_mcp.observability.redaction import one_line, quoted
from calls_mcp.server.permissions import Context, Permissions, invalid_params, require_first_page
from calls_mcp.tools.catalog import PROMPTS

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")


_Text = Annotated[str, Field(strict=True, min_length=1)]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class PromptArgument:
    """An argument of a prompt; its value is one of `choices`, if there are any."""

    name: _Text
    description: _Text
    required: Annotated[bool, Field(strict=True)] = False
    choices: tuple[_Text, ...] = ()


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt; `text` has `{{ name }}` in place of an argument."""

    name: _Text
    title: _Text
    description: _Text
    arguments: tuple[PromptArgument, ...]
    text: _Text

    def names(self, tool: str) -> bool:
        """Return whether its text names this tool."""
        return re.search(rf"\b{tool}\b", self.text) is not None

    def problems(self, given: Mapping[str, str]) -> Iterator[str]:
        """Yield the faults in the given arguments."""
        for argument in self.arguments:
            value = given.get(argument.name)
            if argument.required and not value:
                yield f"{argument.name} is required: {argument.description}"
            if value and argument.choices and value not in argument.choices:
                yield f"{argument.name} must be one of {', '.join(argument.choices)}"
        declared = {argument.name for argument in self.arguments}
        for name in given:
            if name not in declared:
                yield f"unknown argument {quoted(name, 40)}"

    def render(self, given: Mapping[str, str]) -> str:
        """Return the text with the arguments; a missing one is `(not given)`."""
        return _PLACEHOLDER.sub(lambda m: given.get(m[1]) or "(not given)", self.text)


_PROMPT = TypeAdapter(Prompt)


def load_prompts(directory: Path = PROMPTS) -> Mapping[str, Prompt]:
    """Return the prompts by name, in the order of their files.

    Raises:
        CatalogError: A file has invalid front matter, or uses an argument it does not declare.
    """
    prompts = [_read(file) for file in sorted(directory.glob("*.md"))]
    return {prompt.name: prompt for prompt in prompts}


class Prompts:
    """Serves the prompts whose tools the caller may use."""

    def __init__(self, permissions: Permissions) -> None:
        self._permissions = permissions
        self._prompts = load_prompts()

    async def list(
        self, _ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        """Return the prompts that the caller may use."""
        require_first_page(params)
        prompts = [
            types.Prompt(
                name=prompt.name,
                title=prompt.title,
                description=prompt.description,
                arguments=[
                    types.PromptArgument(
                        name=a.name, description=a.description, required=a.required
                    )
                    for a in prompt.arguments
                ],
            )
            for prompt in self._permitted().values()
        ]
        return types.ListPromptsResult(prompts=prompts)

    async def get(
        self, _ctx: Context, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        """Return a prompt with the given arguments.

        Raises:
            MCPError: The prompt does not exist, or the arguments are wrong.
        """
        prompt, given = self.prompt(params.name), params.arguments or {}
        if problems := [*prompt.problems(given)]:
            raise invalid_params("; ".join(problems))
        text = types.TextContent(text=prompt.render(given))
        message = types.PromptMessage(role="user", content=text)
        return types.GetPromptResult(description=prompt.description, messages=[message])

    def prompt(self, name: str) -> Prompt:
        """Return a prompt that the caller may use.

        Raises:
            MCPError: The prompt does not exist, or the caller may not use it.
        """
        prompts = self._permitted()
        if name not in prompts:
            raise invalid_params(
                f"Unknown prompt {quoted(name, 64)}. Available: {', '.join(prompts) or 'none'}"
            )
        return prompts[name]

    def _permitted(self) -> Mapping[str, Prompt]:
        denied = self._permissions.denied()
        return {k: p for k, p in self._prompts.items() if not any(map(p.names, denied))}


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
        raise CatalogError(file.name, f"name: must be {file.stem}, the name of the file")
    declared = {argument.name for argument in prompt.arguments}
    if len(declared) < len(prompt.arguments):
        raise CatalogError(file.name, "arguments: an argument is declared twice")
    used = {*_PLACEHOLDER.findall(prompt.text)}
    if declared != used:
        odd = ", ".join(sorted(declared ^ used))
        raise CatalogError(
            file.name, f"arguments: declared but not used, or used but not declared: {odd}"
        )
    return prompt

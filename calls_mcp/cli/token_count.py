"""How many tokens a model reads a text as."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import cast

_CHARACTERS = 3.8  # in a token of o200k, where the text is a definition of ours


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts by a tokenizer of this `name`; `is_exact` is whether it is one, or a rule of thumb."""

    name: str
    is_exact: bool
    count: Callable[[str], int]


def counter() -> Counter:
    """OpenAI's o200k if rs-bpe is installed (48 MB, so it is left to the user), or an estimate."""
    if find_spec("rs_bpe") is None:
        return Counter("estimate", is_exact=False, count=_estimate)
    from rs_bpe.bpe import openai  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]

    o200k = openai.o200k_base()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return Counter("o200k", is_exact=True, count=lambda text: cast("int", o200k.count(text)))  # pyright: ignore[reportUnknownMemberType]


def _estimate(text: str) -> int:
    return math.ceil(len(text) / _CHARACTERS)

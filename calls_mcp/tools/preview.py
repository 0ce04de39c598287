"""The preview of a change: what a person sees before they decide, as data and as text."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Risk:
    """Something unusual about a change: a label of a few words, and a sentence about it."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A change in words, and exactly.

    All texts are sentences, except `headline`, which is a phrase such as "Call +1 202 555 0171".

    Attributes:
        requester: The principal that requests the change, in quotes.
        facts: When and where it happens, and what it means.
        heard: What is heard or happens on the call, in order.
        details: The account, and notes on the arguments.
        arguments: The exact JSON value of each argument except TwiML, by name, and where it comes
            from if this is the policy. A text to speak that `heard` has exactly is not repeated.
        twiml: The exact TwiML, except that passwords are masked; or empty.
    """

    headline: str
    requester: str
    facts: tuple[str, ...] = ()
    heard: tuple[str, ...] = ()
    risks: tuple[Risk, ...] = ()
    details: tuple[str, ...] = ()
    arguments: tuple[tuple[str, str], ...] = ()
    twiml: str = ""

    @property
    def text(self) -> str:
        """The whole preview. Each line is a sentence or more, so that it can be shown as one."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.headline}."
        yield from self.facts
        if self.heard:
            yield " ".join(self.heard)
        yield from (f"{risk.label}: {risk.text}" for risk in self.risks)
        yield " ".join((f"Requested by {self.requester}.", *self.details))
        exact = ", ".join(f"{name} {value}" for name, value in self.arguments)
        yield f"Exact arguments: {exact}."
        if self.twiml:
            yield "Exact TwiML:"
            # With the bar, no line looks like one of the server.
            yield from (f"  | {line}" for line in self.twiml.splitlines())

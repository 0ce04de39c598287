"""Requests to the Calls API, encoded from validated arguments."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import quote

from calls_mcp.observability.redaction import secret_forms
from calls_mcp.tools.catalog import (
    Effect,
    Json,
    Location,
    Operation,
    address_kind,
    load_operations,
)
from calls_mcp.tools.validation import Arguments

Pair = tuple[str, str]

_LATEST = ("PageSize", "20")
_LATEST_OF_ALL = ("PageSize", "200")


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to the Calls API. `path` is percent-encoded; `query` and `form` are not.

    `secrets` are texts in it that must never be shown, in every encoding that may be echoed.
    """

    effect: Effect
    method: Literal["GET", "POST", "DELETE"]
    path: str
    account_sid: str
    sid: str = ""
    query: tuple[Pair, ...] = ()
    form: tuple[Pair, ...] = field(default=(), repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def fetch(cls, account_sid: str, sid: str) -> "Request":
        """Return the request that reads a call."""
        path = _path(load_operations()["fetch_call"], account_sid, sid)
        return cls("read", "GET", path, account_sid, sid)

    @property
    def is_urgent(self) -> bool:
        """Whether the request ends a live call, so the circuit breaker must not hold it back."""
        return self.effect == "change" and any(name == "Status" for name, _ in self.form)

    def as_fetch(self) -> "Request":
        """Return the request that reads the call that this request changes."""
        return replace(self, effect="read", method="GET", query=(), form=())

    def as_search(self) -> "Request":
        """Return the request that lists the latest calls, among which this new call must be.

        Only phone numbers are filters. The API changes other parties: it adds a domain to the
        caller of a SIP address, for example.
        """
        parties = tuple(pair for pair in self.form if pair[0] in ("To", "From"))
        is_between_numbers = address_kind(dict(parties).get("To")) == "phone number"
        query = (*parties, _LATEST) if is_between_numbers else (_LATEST_OF_ALL,)
        return replace(self, effect="read", method="GET", query=query, form=())

    def with_query(self, *pairs: Pair) -> "Request":
        """Return the request with `pairs` in its query, replacing those with the same names."""
        names = {name for name, _ in pairs}
        kept = tuple(pair for pair in self.query if pair[0] not in names)
        return replace(self, query=(*kept, *pairs))


def encode(arguments: Arguments, default_account: str) -> Request:
    """Return the request for arguments. They may name another account than the default."""
    operation = arguments.operation
    account_sid = str(arguments.values.get("account_sid", default_account))
    sid = str(arguments.values.get("sid", ""))
    return Request(
        effect=operation.effect,
        method=operation.method,
        path=_path(operation, account_sid, sid),
        account_sid=account_sid,
        sid=sid,
        query=tuple(_pairs(arguments, "query")),
        form=tuple(_pairs(arguments, "form")),
        secrets=tuple(_secrets(arguments)),
    )


def _path(operation: Operation, account_sid: str, sid: str) -> str:
    return operation.path.format(account_sid=quote(account_sid, safe=""), sid=quote(sid, safe=""))


def _pairs(arguments: Arguments, location: Location) -> Iterator[Pair]:
    for name, value in arguments.values.items():
        parameter = arguments.operation.parameters[name]
        if parameter.location == location:
            items = value if isinstance(value, list) else [value]
            yield from ((parameter.wire, _text(item)) for item in items)


def _secrets(arguments: Arguments) -> Iterator[str]:
    for name, value in arguments.values.items():
        if arguments.operation.parameters[name].secret:
            yield from secret_forms(str(value))


def _text(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)

"""The principals file (TOML): principals' bearer tokens, and their own accounts and policies.

A token is random. The file has its SHA-256 hash and when it expires.

[[tokens]]
principal = "support-agent"
sha256 = "…"
scopes = ["calls:read", "calls:place"]
expires = 2027-01-31T00:00:00Z

[principals.support-agent]
account_sid = "AC…"
auth_token_env = "SUPPORT_AUTH_TOKEN"
policy = "support.toml"
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    model_validator,
)
from pydantic_core import ErrorDetails
from starlette.authentication import AuthenticationError

from calls_mcp.errors import ConfigurationError, FileError
from calls_mcp.guard.policy.rules import load_policy
from calls_mcp.service.grants import (
    APPROVE,
    Grant,
    Overrides,
    Scope,
    is_operator,
    is_reserved,
)
from calls_mcp.tools.toml_files import checked, must_match, nearest, parse, places, read, reason

_log = logging.getLogger(__name__)

_PREFIX = "calls_"
_BYTES = 32  # random bytes: too many to guess, so an unsalted hash is enough


def valid_name(value: str) -> str:
    """Return the name of a principal.

    Raises:
        ValueError: It is not one. The message says what it must be.
    """
    if not re.fullmatch(r"[!#-\[\]-~]{1,255}", value):
        raise ValueError("must be ASCII without spaces, quotation marks or backslashes")
    if is_reserved(value):
        raise ValueError("must not be console or begin with console:")
    return value


def _without_tools_if_operator(scopes: frozenset[Scope]) -> frozenset[Scope]:
    if APPROVE in scopes and not is_operator(scopes):
        raise ValueError(
            f"{APPROVE} can't be combined with other scopes: a token that can request calls must "
            "not approve them"
        )
    return scopes


Name = Annotated[str, AfterValidator(valid_name)]
_Variable = Annotated[str, must_match("[A-Za-z_][A-Za-z0-9_]*", "the name of a variable")]
_Hash = Annotated[str, must_match("[0-9a-f]{64}", "64 hex digits in lower case")]
_AccountSid = Annotated[str, must_match("AC[0-9a-fA-F]{32}", "AC and 32 hex digits")]
_KeySid = Annotated[str, must_match("SK[0-9a-fA-F]{32}", "SK and 32 hex digits")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Token(_Strict):
    """The hash of a bearer token that is valid until `expires`."""

    principal: Name
    sha256: _Hash
    scopes: Annotated[
        frozenset[Scope], Field(min_length=1), AfterValidator(_without_tools_if_operator)
    ]
    expires: AwareDatetime


class _Principal(_Strict):
    """A principal's own account and policy. Paths are relative to the file's folder."""

    account_sid: _AccountSid | None = None
    auth_token_env: _Variable | None = None
    auth_token_file: Path | None = None
    api_key: _KeySid | None = None
    api_secret_env: _Variable | None = None
    api_secret_file: Path | None = None
    policy: Path | None = None

    @property
    def tokens(self) -> tuple[str | Path, ...]:
        return _given(self.auth_token_env, self.auth_token_file)

    @property
    def secrets(self) -> tuple[str | Path, ...]:
        return _given(self.api_secret_env, self.api_secret_file)

    @property
    def files(self) -> tuple[Path, ...]:
        given = (*self.tokens, *self.secrets, self.policy)
        return tuple(file for file in given if isinstance(file, Path))

    @model_validator(mode="after")
    def _has_one_credential(self) -> Self:
        has_key = self.api_key is not None
        if has_key != bool(self.secrets):
            raise ValueError("api_key must be given with api_secret_env or api_secret_file")
        wanted = 1 if self.account_sid is not None else 0
        if len(self.tokens) + len(self.secrets) != wanted:
            raise ValueError(
                "account_sid needs exactly one secret: auth_token_env, auth_token_file, or api_key "
                "with api_secret_env or api_secret_file"
            )
        return self


class Entries(_Strict):
    """The content of the file."""

    tokens: tuple[Token, ...] = ()
    principals: dict[Name, _Principal] = Field(default_factory=dict[str, _Principal])


@dataclass(frozen=True, slots=True)
class Principals:
    """All tokens, and the accounts and policies by principal."""

    tokens: tuple[Token, ...]
    overrides: Mapping[str, Overrides]


NO_PRINCIPALS = Principals((), {})


class PrincipalsMissing(AuthenticationError):
    """The principals file is missing or can't be read, so nobody can be authenticated now."""


class PrincipalsFile:
    """A principals file, reloaded when it or a file that it names changes.

    If the new content is wrong, this is logged, and the last valid content stays in use. If the
    file is missing or can't be read, this is logged, and nothing is in use.
    """

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            ConfigurationError: The file is wrong.
        """
        self._file = file
        self._named = _named(file)
        self._seen = self._state()
        self._principals: Principals | None = load_principals(file)

    def now(self) -> Principals:
        """Return the current principals.

        Raises:
            PrincipalsMissing: The file is missing or can't be read.
        """
        if self._state() != self._seen:
            self._named = _named(self._file) or self._named
            self._seen = self._state()
            self._reload()
        if self._principals is None:
            raise PrincipalsMissing
        return self._principals

    def _reload(self) -> None:
        try:
            self._principals = load_principals(self._file)
        except ConfigurationError as wrong:
            if isinstance(wrong.__cause__, OSError):
                self._principals = None
            consequence = (
                "tokens and principals are unchanged"
                if self._principals
                else "requests are refused until it can be read"
            )
            _log.error("Cannot reload the principals file, so %s: %s", consequence, wrong)
        else:
            _log.warning("Reloaded the principals file %s.", self._file)

    def _state(self) -> tuple[tuple[int, ...], ...]:
        return (*map(_state, (self._file, *self._named)),)


class FileVerifier:
    """Verifies tokens by the hashes in a principals file."""

    def __init__(self, file: PrincipalsFile) -> None:
        self._file = file

    async def verify_token(self, token: str) -> Grant | None:
        """Return what a token grants, in constant time; None if it is not valid.

        Raises:
            PrincipalsMissing: The file is missing or can't be read.
        """
        return self._granted(_digest(token))

    async def _renewed(self, digest: str) -> Grant | None:
        try:
            return self._granted(digest)
        except PrincipalsMissing:
            return None

    def _granted(self, digest: str) -> Grant | None:
        principals = self._file.now()
        known = [t for t in principals.tokens if hmac.compare_digest(t.sha256, digest)]
        entry = next((t for t in known if t.expires > datetime.now(UTC)), None)
        if entry is None:
            return None
        grant = Grant(
            client_id=entry.principal,
            subject=entry.principal,
            scopes=sorted(entry.scopes),
            expires_at=int(entry.expires.timestamp()),
        )
        renew = partial(self._renewed, digest)
        return grant.with_overrides(principals.overrides.get(entry.principal), renew)


def load_principals(file: Path) -> Principals:
    """Return the principals in `file`, with the policies and credentials that it names.

    Raises:
        ConfigurationError: The file has faults. The message lists all of them, without secrets.
    """
    text = read(file)
    entries, lines = read_entries(file, text), places(text)
    overrides: dict[str, Overrides] = {}
    wrong: list[str] = []
    for name, principal in entries.principals.items():
        try:
            overrides[name] = _overrides(principal, file.parent)
        except FileError as error:
            line = nearest(lines, ("principals", name))
            wrong += (f"{file}:{line}: principals.{name}: {each}" for each in error.problems)
    if wrong:
        raise FileError(wrong)
    return Principals(entries.tokens, overrides)


def _named(file: Path) -> tuple[Path, ...]:
    """Return the files that `file` names, even if they don't exist; none if it can't be read."""
    try:
        entries = read_entries(file, read(file))
    except ConfigurationError:
        return ()
    principals = entries.principals.values()
    return tuple(file.parent / name for principal in principals for name in principal.files)


def read_entries(file: Path, text: str) -> Entries:
    """Return the entries in `text`, the present or future content of `file`.

    Raises:
        FileError: The text has faults. The message lists all of them.
    """
    return checked(file, text, TypeAdapter(Entries), parse(file, text), _words)


def _overrides(principal: _Principal, folder: Path) -> Overrides:
    """Return the overrides of a principal.

    Raises:
        FileError: The policy or the secret can't be used, or both.
    """
    policy, secret, wrong = None, "", list[str]()
    try:
        policy = None if principal.policy is None else load_policy(folder / principal.policy)
    except FileError as error:
        wrong += error.problems
    try:
        secret = "".join(_secret(each, folder) for each in (*principal.tokens, *principal.secrets))
    except ConfigurationError as error:
        wrong.append(str(error))
    if wrong:
        raise FileError(wrong)
    if principal.account_sid is None:
        return Overrides(policy=policy)
    user = principal.api_key or principal.account_sid
    return Overrides(principal.account_sid, user, secret, policy)


def _secret(source: str | Path, folder: Path) -> str:
    """Return the value of an environment variable, or the content of a file without its newline."""
    if isinstance(source, Path):
        secret = read(folder / source).rstrip("\r\n")
    else:
        secret = os.environ.get(source, "")
    what = "file" if isinstance(source, Path) else "variable"
    if not secret:
        raise ConfigurationError(f"the {what} {source} is missing or empty")
    if secret != secret.strip():
        raise ConfigurationError(f"the {what} {source} has spaces or blank lines around the secret")
    return secret


def _given(*values: str | Path | None) -> tuple[str | Path, ...]:
    return tuple(value for value in values if value is not None)


def _words(error: ErrorDetails) -> str:
    place = ".".join(str(part) for part in error["loc"] if part != "[key]")
    return f"{place}: {reason(error)}"


def _state(file: Path) -> tuple[int, ...]:
    """Return values that change whenever the file does."""
    try:
        now = file.stat()
    except OSError:
        return ()
    return (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)


def new_token(principal: str, scopes: Collection[str], expires: datetime) -> tuple[str, str]:
    """Return a new token, and its lines for the principals file."""
    token = _PREFIX + secrets.token_urlsafe(_BYTES)
    lines = (
        "[[tokens]]",
        f'principal = "{principal}"',
        f'sha256 = "{_digest(token)}"',
        "scopes = [" + ", ".join(f'"{scope}"' for scope in sorted({*scopes})) + "]",
        f"expires = {expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    return token, "\n".join(lines) + "\n"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()

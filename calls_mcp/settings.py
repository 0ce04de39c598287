"""All settings. They come from environment variables.

They are read without pydantic-settings, which takes as long to load as all our modules that a start
needs.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from calls_mcp.errors import ConfigurationError
from calls_mcp.observability.redaction import base64_forms, secret_forms
from calls_mcp.tools.catalog import Confirm
from calls_mcp.tools.toml_files import reason

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_PLACE = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_LONGEST_LABEL = 63  # characters, of a host's name
_LABEL = re.compile("[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_SCHEME = re.compile(r"(?![A-Za-z]:)[^/\\]*:")  # but for a drive's letter
_SHORTEST_KEY = 32
_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Access:
    """The URL of the Calls API and the credentials; `app` is the API if it is in this process.

    `timeout` bounds each step of one HTTP exchange, `deadline` all attempts at it together, both
    in seconds.
    """

    base_url: str
    account_sid: str
    username: str
    password: str = field(repr=False)
    timeout: float
    deadline: float
    app: "ASGIApp | None" = field(default=None, repr=False, compare=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The password, in every form in which it may be sent: it must never be shown."""
        pair = f"{self.username}:{self.password}".encode(errors="surrogatepass")
        return (*secret_forms(self.password), *base64_forms(pair))

    @property
    def is_local(self) -> bool:
        """Whether the API is on this machine, and so not behind a proxy."""
        return self.app is not None or is_loopback(urlsplit(self.base_url).hostname)


def is_loopback(host: str | None) -> bool:
    """Return whether this host, a name or an address, is certainly this machine."""
    try:
        return ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _base_url(value: str) -> str:
    if not _is_plain_url(value):
        raise ValueError("must be an http(s) URL without credentials, query or fragment")
    url = urlsplit(value)
    if url.scheme == "http" and not is_loopback(url.hostname):
        raise ValueError("must be https unless it is on this machine, for credentials go there")
    return value.rstrip("/")


def _is_plain_url(value: str) -> bool:
    try:
        url = urlsplit(value)
        has_port = url.port != 0
    except ValueError:  # whose text repeats the value
        return False
    is_written_out = value.isascii() and value.isprintable() and " " not in value
    is_bare = not ("@" in url.netloc or url.query or url.fragment)
    is_host = all(0 < len(label) <= _LONGEST_LABEL for label in (url.hostname or "").split("."))
    return url.scheme in ("http", "https") and has_port and is_written_out and is_bare and is_host


def _sid(prefix: str) -> AfterValidator:
    pattern = re.compile(f"{prefix}[0-9a-fA-F]{{32}}")

    def validate(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"must be {prefix} and 32 hex digits")
        return value

    return AfterValidator(validate)


def _label(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise ValueError("must be lower-case letters, digits and hyphens, such as ie1")
    return value


def _audit_database(value: object) -> object:
    """Accept a path or the URL of one, as CALLS_MCP_STATE_URL does, but no other URL."""
    if not isinstance(value, str) or value == "stderr:":
        return value
    path = value.removeprefix(_SQLITE)
    if not path or path.lower() in ("stderr", "stdout") or _SCHEME.match(path):
        raise ValueError("must be a file's path, sqlite:///FILE or stderr:")
    return Path(path)


def _credential(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if not secret or secret != secret.strip() or not (secret.isascii() and secret.isprintable()):
        raise ValueError("must be plain characters, without spaces around them")
    return value


def _address(value: str) -> str:
    if not _PLACE.fullmatch(value):
        raise ValueError("must be HOST:PORT")
    return value


def _keys(value: SecretStr) -> SecretStr:
    keys = value.get_secret_value().split()
    if not keys or any(len(key) < _SHORTEST_KEY for key in keys) or len({*keys}) < len(keys):
        raise ValueError("must be different keys of 32 characters or more, with spaces between")
    return value


def _hosts(value: str) -> str:
    if not all(_HOST.fullmatch(host) for host in value.split()):
        raise ValueError("must be host names, with a port or without, with spaces between")
    return value.lower()


Credential = Annotated[SecretStr, AfterValidator(_credential)]


def _origin(value: str) -> str:
    url = urlsplit(_base_url(value))
    if url.path or value != value.lower():
        raise ValueError("must be https://HOST or https://HOST:PORT in small letters, and no more")
    return value.rstrip("/").removesuffix(":443")


def _exact_url(value: str) -> str:
    _base_url(value)
    return value  # unchanged: issuers and audiences are compared letter by letter


ExactUrl = Annotated[str, AfterValidator(_exact_url)]


def _named(prefix: str) -> Callable[[str], str]:
    return lambda field: prefix + field.upper()


class _Group(BaseModel):
    """A group of settings: a field's variable is its alias, or a prefix and its name."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Twilio(_Group, alias_generator=_named("TWILIO_")):
    """The Calls API: its address and the credentials."""

    account_sid: Annotated[str, _sid("AC")] | None = Field(
        None,
        description="The account whose calls these are. Required, except with `--sandbox`.",
    )
    auth_token: Credential | None = Field(
        None, description="The account's auth token. Not needed with an API key."
    )
    api_key: Annotated[str, _sid("SK")] | None = Field(
        None,
        description="SID of an API key, used instead of the auth token: it can be revoked alone.",
    )
    api_secret: Credential | None = Field(None, description="The API key's secret.")
    region: Annotated[str, AfterValidator(_label)] | None = Field(
        None, description="Region that processes the calls, such as `ie1`."
    )
    edge: Annotated[str, AfterValidator(_label)] | None = Field(
        None, description="Edge where requests enter the network, as `dublin`."
    )
    base_url: Annotated[str, AfterValidator(_base_url)] | None = Field(
        None,
        alias="CALLS_MCP_API_BASE_URL",
        description="Another place to send requests to, such as the emulator.",
    )
    timeout: float = Field(
        15,
        alias="CALLS_MCP_TIMEOUT",
        gt=0,
        le=600,
        description="Seconds for connecting, and for each wait for the API.",
    )
    deadline: float = Field(
        45,
        alias="CALLS_MCP_DEADLINE",
        gt=0,
        le=3600,
        description="Seconds for a tool call, retries and recovery included.",
    )

    def access(self) -> Access:
        """Return the address of the API and the credentials.

        Raises:
            ConfigurationError: Credentials are missing.
        """
        username, password = self._credentials()
        return Access(
            base_url=self.base_url or self._twilio_url(),
            account_sid=self.account_sid or "",
            username=username,
            password=password,
            timeout=self.timeout,
            deadline=self.deadline,
        )

    def _credentials(self) -> tuple[str, str]:
        pairs = ((self.api_key, self.api_secret), (self.account_sid, self.auth_token))
        complete = [(name, secret.get_secret_value()) for name, secret in pairs if name and secret]
        if self.account_sid and complete:
            return complete[0]
        raise ConfigurationError(self._missing())

    def _missing(self) -> str:
        missing = [] if self.account_sid else ["TWILIO_ACCOUNT_SID"]
        if bool(self.api_key) != bool(self.api_secret):
            missing.append("TWILIO_API_SECRET" if self.api_key else "TWILIO_API_KEY")
        elif not (self.api_key or self.auth_token):
            missing.append("TWILIO_AUTH_TOKEN (or TWILIO_API_KEY and TWILIO_API_SECRET)")
        return (
            f"Missing credentials: set {' and '.join(missing)}, or try it without any: "
            "calls-mcp serve --sandbox"
        )

    def _twilio_url(self) -> str:
        region = self.region or ("us1" if self.edge else None)
        labels = ("api", self.edge, region, "twilio.com")
        return "https://" + ".".join(label for label in labels if label)


class Guard(_Group, alias_generator=_named("CALLS_MCP_")):
    """Confirmation and policy of changes."""

    confirm: Confirm = Field(
        "all",
        description="What is confirmed, where the policy says `confirm`: `all` changes, "
        "`destructive` ones (update and delete, but not create), or `none`. With `operator`, the "
        "operator decides about all of those.",
    )
    policy: Path | None = Field(
        None, description="The operator's rules, in place of `config/policy.toml`."
    )
    confirm_ttl: float = Field(
        300, gt=0, le=600, description="Seconds for which a confirmation can be used."
    )
    operator_ttl: float = Field(
        900,
        gt=0,
        le=86_400,
        description="Seconds for which the operator can decide, where the policy says `operator`, "
        "and for which an approval can be acted on.",
    )
    operator_wait: float = Field(
        20,
        ge=0,
        le=300,
        description="Seconds that a repeated call waits for that decision, but at most half of "
        "`CALLS_MCP_DEADLINE`.",
    )
    read_only: bool = Field(default=False, description="`1` offers only fetch_call and list_calls.")
    secret_keys: Annotated[SecretStr, AfterValidator(_keys)] | None = Field(
        None,
        description="Keys that sign confirmations and cursors, with spaces between; the first "
        "signs, all are accepted; of 32 characters or more each. By default a key derived from the "
        "credentials, whose confirmations lapse once keys are set.",
    )

    def keys(self, access: Access) -> tuple[str, ...]:
        """Return the signing keys, of 32 characters or more each; the first one signs."""
        if self.secret_keys is not None:
            return tuple(self.secret_keys.get_secret_value().split())
        derived = f"calls-mcp keys\0{access.username}\0{access.password}"
        return (hashlib.sha256(derived.encode()).hexdigest(),)


class Console(_Group, alias_generator=_named("CALLS_MCP_CONSOLE_")):
    """The operator's console."""

    url: Annotated[str, AfterValidator(_origin)] | None = Field(
        None,
        description="Where browsers find the operator's console, like `https://calls.example.com`: "
        "agents' users are sent there, and a proxy before the console has this address.",
    )


class Storage(_Group, alias_generator=_named("CALLS_MCP_STATE_")):
    """Where confirmations, approval requests and counters are kept."""

    url: SecretStr | None = Field(
        None,
        description="Where confirmations, approval requests and counters are kept: "
        "`sqlite:///FILE`, `redis://HOST:PORT/0` (shared by replicas; extra `redis`) or `memory:` "
        "(lost when the server stops). By default `calls-mcp/calls.db` in the user's state "
        "directory, and `sandbox.db` next to it with `--sandbox`.",
    )

    @property
    def location(self) -> str | None:
        """The URL with its password; None for the default."""
        return self.url.get_secret_value() if self.url else None

    @property
    def is_memory(self) -> bool:
        """Whether the state is only in the memory of this process."""
        return self.location == "memory:"


class Audit(_Group, alias_generator=_named("CALLS_MCP_AUDIT_")):
    """The audit log."""

    database: Annotated[Path | Literal["stderr:"] | None, BeforeValidator(_audit_database)] = Field(
        None,
        description="Where the audit log is: an SQLite file (`FILE` or `sqlite:///FILE`), or "
        "`stderr:` for JSON lines on stderr, where logs are collected. By default the database "
        "that has the state; this user's own with Redis; stderr with `memory:`.",
    )
    numbers: Literal["whole", "masked"] = Field(
        "masked", description="Whether the record has telephone numbers `whole` or `masked`."
    )


class Results(_Group, alias_generator=_named("CALLS_MCP_RESULT_")):
    """What a tool returns."""

    bytes: int = Field(64_000, ge=4096, description="Largest structured result, in bytes of JSON.")


class Watch(_Group, alias_generator=_named("CALLS_MCP_WATCH_")):
    """Updates about live calls."""

    interval: float = Field(
        5,
        gt=0,
        description="Seconds between looks at a live call that a client has asked to be told of; "
        "more while they fail.",
    )
    limit: int = Field(
        100,
        alias="CALLS_MCP_WATCHES",
        ge=4,
        description="Calls that clients are told of at once, by each process; one principal gets "
        "a quarter of them.",
    )


class Auth(_Group, alias_generator=_named("CALLS_MCP_")):
    """Authentication over HTTP."""

    mode: Literal["none", "tokens", "oauth"] = Field(
        "none",
        alias="CALLS_MCP_AUTH",
        description="Who may come in over HTTP: on this machine anybody (`none`), whoever has a "
        "token that `CALLS_MCP_PRINCIPALS` lists (`tokens`), or one of the issuer's (`oauth`).",
    )
    principals: Path | None = Field(
        None,
        description="TOML file of hashed tokens, and of principals with an account or a policy of "
        "their own.",
    )
    resource_url: ExactUrl | None = Field(
        None,
        description="The URL by which clients know this server, such as "
        "`https://mcp.example.com/mcp`. For `oauth`.",
    )
    oauth_issuer: ExactUrl | None = Field(
        None, description="The authorization server whose access tokens are accepted, by its URL."
    )
    oauth_audience: str | None = Field(
        None, description="What tokens must have as `aud`; by default `CALLS_MCP_RESOURCE_URL`."
    )
    oauth_scope_claim: str = Field(
        "scope", description="The claim with a token's scopes, as a list or with spaces between."
    )
    oauth_principal_claim: str = Field(
        "sub", description="The claim that names a token's principal."
    )


class Http(_Group, alias_generator=_named("CALLS_MCP_HTTP_")):
    """The server over HTTP."""

    allowed_hosts: Annotated[str, AfterValidator(_hosts)] = Field(
        "",
        alias="CALLS_MCP_ALLOWED_HOSTS",
        description="Hosts by which HTTP clients know this server, with spaces between; requests "
        "that name others (Host, Origin) are refused. On a loopback address its own are known.",
    )
    stateless: bool = Field(
        default=False,
        description="`1` keeps no sessions for clients of earlier revisions: any replica serves "
        "any of their requests, and they confirm by token, for they can't be asked.",
    )
    sessions: int = Field(
        1000,
        ge=4,
        description="Sessions of earlier revisions that are open at once; one principal gets a "
        "quarter of them.",
    )
    body_bytes: int = Field(65_536, ge=4096, description="Largest body of an HTTP request.")
    header_bytes: int = Field(16_384, ge=1024, description="Largest head of an HTTP request.")
    rate: int = Field(
        600,
        ge=1,
        description="HTTP requests a minute of one principal, at all replicas that share a Redis.",
    )
    rate_in_all: int = Field(
        3000,
        ge=1,
        description="HTTP requests a minute of all principals, at all replicas that share a Redis.",
    )
    concurrency: int = Field(
        25, ge=1, description="HTTP requests of one principal that are served at once."
    )
    concurrency_in_all: int = Field(100, ge=1, description="HTTP requests that are served at once.")
    patience: float = Field(
        10,
        gt=0,
        description="Seconds that an HTTP client may take to send a request's body; a connection "
        "without a complete head is closed within twice as long.",
    )
    grace: float = Field(
        25,
        gt=0,
        description="Seconds from SIGTERM to the end, in which what is under way over HTTP is "
        "finished; what is not by four fifths of them is broken off.",
    )


class Logs(_Group, alias_generator=_named("CALLS_MCP_LOG_")):
    """What is logged to stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "WARNING", description="What is logged, to stderr: DEBUG, INFO, WARNING or ERROR."
    )
    format: Literal["text", "json"] = Field(
        "text", description="How it is logged: `text`, or `json`, a line for each record."
    )


class Telemetry(_Group, alias_generator=_named("CALLS_MCP_")):
    """Traces and metrics."""

    export: Literal["off", "otlp"] = Field(
        "off",
        alias="CALLS_MCP_TELEMETRY",
        description="`otlp` sends spans and metrics where the standard `OTEL_*` variables say, "
        "over http/protobuf (extra `otel`).",
    )
    metrics_address: Annotated[str, AfterValidator(_address)] | None = Field(
        None,
        description="Where Prometheus finds the metrics, such as `127.0.0.1:9464`, at /metrics "
        "and open to whoever can connect (extra `otel`).",
    )


class Settings(BaseModel):
    """All settings, in groups. A field's description is its documentation."""

    model_config = ConfigDict(frozen=True)

    twilio: Twilio
    guard: Guard
    console: Console
    storage: Storage
    audit: Audit
    results: Results
    watch: Watch
    auth: Auth
    http: Http
    logs: Logs
    telemetry: Telemetry

    @model_validator(mode="before")
    @classmethod
    def _grouped(cls, variables: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
        return dict.fromkeys(cls.model_fields, variables)

    @staticmethod
    def variables() -> dict[str, FieldInfo]:
        """Return each setting's field by its variable."""
        groups = _Group.__subclasses__()  # in their order here
        fields = (field for group in groups for field in group.model_fields.values())
        return {str(field.alias): field for field in fields}

    def values(self, *, given: bool = False) -> dict[str, object]:
        """Return each setting's value by its variable; with `given`, of those that were set."""
        groups: dict[str, dict[str, object]] = self.model_dump(by_alias=True, exclude_unset=given)
        return {variable: value for group in groups.values() for variable, value in group.items()}


_REQUIRED_FOR = {
    "none": (),
    "tokens": ("CALLS_MCP_PRINCIPALS",),
    "oauth": ("CALLS_MCP_OAUTH_ISSUER", "CALLS_MCP_RESOURCE_URL"),
}
_ONLY_FOR = {
    "CALLS_MCP_PRINCIPALS": ("tokens", "oauth"),
    "CALLS_MCP_RESOURCE_URL": ("oauth",),
    "CALLS_MCP_OAUTH_ISSUER": ("oauth",),
    "CALLS_MCP_OAUTH_AUDIENCE": ("oauth",),
    "CALLS_MCP_OAUTH_SCOPE_CLAIM": ("oauth",),
    "CALLS_MCP_OAUTH_PRINCIPAL_CLAIM": ("oauth",),
}


REMOVED = {
    "CALLS_MCP_AUDIT_FILE": "the audit log is a database now, and this was removed; for JSON lines "
    "run: calls-mcp audit export --follow"
}
_PREFIX = "CALLS_MCP_"
_MIN_SIMILARITY = 0.75  # between 0 and 1
_MESSAGES = {
    "bool_parsing": "must be 1 or 0",
    "float_parsing": "must be a number",
    "int_parsing": "must be a whole number",
}


class SettingsError(ConfigurationError):
    """Settings are wrong; `problems` name each of them and never its value."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"Wrong settings: {'; '.join(self.problems)}")


def _unknown(known: Collection[str]) -> Iterator[str]:
    """Yield the problems with variables that look like settings but are none."""
    names = [name.removeprefix(_PREFIX) for name in known if name.startswith(_PREFIX)]
    for name in sorted(os.environ):
        if removed := REMOVED.get(name.upper()):
            yield f"{name}: {removed}"
        elif name.upper().startswith(_PREFIX) and name.upper() not in known:
            close = get_close_matches(name.upper().removeprefix(_PREFIX), names, 1, _MIN_SIMILARITY)
            guess = f"; did you mean {_PREFIX}{close[0]}?" if close else ""
            yield f"{name}: there is no such setting{guess}"


def _contradictions(auth: str, given: Collection[str]) -> Iterator[str]:
    """Yield what the chosen authentication lacks, and what it would ignore."""
    for name in _REQUIRED_FOR[auth]:
        if name not in given:
            yield f"{name}: is needed with CALLS_MCP_AUTH={auth}"
    for name, modes in _ONLY_FOR.items():
        if name in given and auth not in modes:
            needed = " or ".join(f"CALLS_MCP_AUTH={mode}" for mode in modes)
            yield f"{name}: counts only with {needed}, and this is {auth}"


def _fault(error: ErrorDetails) -> str:
    words = _MESSAGES.get(error["type"]) or reason(error).replace("should be", "must be", 1)
    return f"{error['loc'][1]}: {words}"


def load_settings(overrides: Mapping[str, object] | None = None) -> Settings:
    """Return the settings in the environment, with `overrides` by their variables before them.

    An empty variable sets nothing. Names may be in small letters.

    Raises:
        SettingsError: Naming every variable that is wrong, and never its value.
    """
    unknown = [*_unknown(Settings.variables())]
    environment = {name.upper(): value for name, value in os.environ.items() if value}
    given = environment | {name.upper(): value for name, value in (overrides or {}).items()}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as invalid:
        raise SettingsError([*unknown, *map(_fault, invalid.errors())]) from None
    contradictions = _contradictions(settings.auth.mode, settings.values(given=True))
    if wrong := [*unknown, *contradictions]:
        raise SettingsError(wrong)
    return settings

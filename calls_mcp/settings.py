"""All settings, which come from environment variables.

pydantic-settings is not used, because importing it would double the time of a start.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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

from calls_mcp.errors import ConfigurationError, MissingCredentials
from calls_mcp.observability.redaction import base64_forms, secret_forms
from calls_mcp.tools.catalog import Confirm
from calls_mcp.tools.toml_files import reason

if TYPE_CHECKING:
    from starlette.types import ASGIApp

OUTCOME_GRACE = 5
"""A change without an outcome this many seconds after its deadline was interrupted."""

_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_ORIGIN = re.compile(rf"https?://{_HOST.pattern}")
_PLACE = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_LAST_PORT = 65_535
_LONGEST_LABEL = 63  # characters, of a host's name
_LABEL = re.compile("[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_SCHEME = re.compile(r"(?![A-Za-z]:)[^/\\]*:")  # but not a drive letter
_SHORTEST_KEY = 32
_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Access:
    """The URL of the Calls API and the credentials; `app` is the API if it runs in this process.

    `transcript` returns what happened in a call of the sandbox, by its SID: a line for each event.

    `timeout` limits each step of one HTTP exchange, and `deadline` all attempts together, both in
    seconds.
    """

    base_url: str
    account_sid: str
    username: str
    password: str = field(repr=False)
    timeout: float
    deadline: float
    app: "ASGIApp | None" = field(default=None, repr=False, compare=False)
    transcript: Callable[[str], Sequence[str]] | None = field(
        default=None, repr=False, compare=False
    )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return the password in all forms in which it is sent, so that they can be masked."""
        pair = f"{self.username}:{self.password}".encode(errors="surrogatepass")
        return (*secret_forms(self.password), *base64_forms(pair))

    @property
    def is_local(self) -> bool:
        """Return whether the API is on this machine, and therefore not behind a proxy."""
        return self.app is not None or is_loopback(urlsplit(self.base_url).hostname)


def is_loopback(host: str | None) -> bool:
    """Return whether this host name or address is certainly this machine."""
    try:
        return ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _base_url(value: str) -> str:
    if not _is_plain_url(value):
        raise ValueError("must be an http or https URL without credentials, query or fragment")
    url = urlsplit(value)
    if url.scheme == "http" and not is_loopback(url.hostname):
        raise ValueError(
            "must be https unless the host is this machine, because credentials are sent to it"
        )
    return value.rstrip("/")


def _is_plain_url(value: str) -> bool:
    try:
        url = urlsplit(value)
        has_port = url.port != 0
    except ValueError:  # its message contains the value, which may be secret
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
    """Return a path or `stderr:`; a path may be given as a URL, as in CALLS_MCP_STATE_URL."""
    if not isinstance(value, str) or value == "stderr:":
        return value
    path = value.removeprefix(_SQLITE)
    if not path or path.lower() in ("stderr", "stdout") or _SCHEME.match(path):
        raise ValueError("must be a file path, sqlite:///FILE or stderr:")
    return Path(path)


def _credential(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if not secret or secret != secret.strip() or not (secret.isascii() and secret.isprintable()):
        raise ValueError("must be printable ASCII without leading or trailing spaces")
    return value


def _address(value: str) -> str:
    if not _PLACE.fullmatch(value) or int(value.rpartition(":")[2]) > _LAST_PORT:
        raise ValueError("must be HOST:PORT")
    return value


def _keys(value: SecretStr) -> SecretStr:
    keys = value.get_secret_value().split()
    if not keys or any(len(key) < _SHORTEST_KEY for key in keys) or len({*keys}) < len(keys):
        raise ValueError("must be different keys of at least 32 characters, separated by spaces")
    return value


def _hosts(value: str) -> str:
    if not all(_HOST.fullmatch(host) for host in value.split()):
        raise ValueError("must be host names with an optional port, separated by spaces")
    return value.lower()


Credential = Annotated[SecretStr, AfterValidator(_credential)]


def _webhook(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if not _is_plain_url(url.partition("?")[0]) or not (url.isascii() and url.isprintable()):
        raise ValueError("must be an https URL without credentials or fragment")
    parts = urlsplit(url)
    if parts.fragment or (parts.scheme == "http" and not is_loopback(parts.hostname)):
        raise ValueError("must be https unless the host is this machine, without a fragment")
    return value


def _origin(value: str) -> str:
    url = urlsplit(_base_url(value))
    if url.path or value != value.lower():
        raise ValueError("must be https://HOST or https://HOST:PORT in lower case, without a path")
    return value.rstrip("/").removesuffix(":443")


def _exact_url(value: str) -> str:
    _base_url(value)
    return value  # unchanged, because issuers and audiences are compared exactly


def _origins(value: str) -> str:
    origins = value.split()
    if not all(_ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("must be origins such as https://app.example.com, separated by spaces")
    return " ".join(origins).lower()


ExactUrl = Annotated[str, AfterValidator(_exact_url)]


def _named(prefix: str) -> Callable[[str], str]:
    return lambda field: prefix + field.upper()


class _Group(BaseModel):
    """A group of settings. The variable of a field is its alias, or a prefix and its name."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class TwilioSettings(_Group, alias_generator=_named("TWILIO_")):
    """The URL of the Calls API, and the credentials."""

    account_sid: Annotated[str, _sid("AC")] | None = Field(
        None,
        description="The account that makes the calls. Required, except with `--sandbox`.",
    )
    auth_token: Credential | None = Field(
        None, description="The account's auth token. Not needed with an API key."
    )
    api_key: Annotated[str, _sid("SK")] | None = Field(
        None,
        description="SID of an API key, used instead of the auth token. Unlike the token, it can "
        "be revoked separately.",
    )
    api_secret: Credential | None = Field(None, description="The API key's secret.")
    region: Annotated[str, AfterValidator(_label)] | None = Field(
        None, description="Twilio region that processes the calls, such as `ie1`."
    )
    edge: Annotated[str, AfterValidator(_label)] | None = Field(
        None, description="Twilio edge location that receives the requests, such as `dublin`."
    )
    base_url: Annotated[str, AfterValidator(_base_url)] | None = Field(
        None,
        alias="CALLS_MCP_API_BASE_URL",
        description="URL of the API, if it is not Twilio's, such as the URL of an emulator.",
    )
    timeout: float = Field(
        15,
        alias="CALLS_MCP_TIMEOUT",
        gt=0,
        le=600,
        description="Seconds to wait for a connection, and for each response of the API.",
    )
    deadline: float = Field(
        45,
        alias="CALLS_MCP_DEADLINE",
        gt=0,
        le=3600,
        description="Seconds that a tool call may take, including retries and recovery.",
    )

    def access(self) -> Access:
        """Return the address of the API and the credentials.

        Raises:
            MissingCredentials: The settings have none.
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
        raise MissingCredentials(self._missing())

    def _missing(self) -> list[str]:
        missing = [] if self.account_sid else ["TWILIO_ACCOUNT_SID"]
        if bool(self.api_key) != bool(self.api_secret):
            missing.append("TWILIO_API_SECRET" if self.api_key else "TWILIO_API_KEY")
        elif not (self.api_key or self.auth_token):
            missing.append("TWILIO_AUTH_TOKEN (or TWILIO_API_KEY and TWILIO_API_SECRET)")
        return missing

    def _twilio_url(self) -> str:
        region = self.region or ("us1" if self.edge else None)
        labels = ("api", self.edge, region, "twilio.com")
        return "https://" + ".".join(label for label in labels if label)


class GuardSettings(_Group, alias_generator=_named("CALLS_MCP_")):
    """Policy, and confirmation of changes."""

    confirm: Confirm = Field(
        "all",
        description="Which changes the user must confirm, if the policy's `[confirm]` section says "
        "`confirm` for them: `all`, `destructive` (update and delete, but not create) or `none`. "
        "With `operator`, they need the operator's approval instead.",
    )
    policy: Path | None = Field(
        None,
        description="Policy file. Rules that it leaves out keep their values from "
        "`config/policy.toml`.",
    )
    confirm_ttl: float = Field(
        300, gt=0, le=600, description="Seconds after which a confirmation expires."
    )
    operator_ttl: float = Field(
        900,
        gt=0,
        le=86_400,
        description="Seconds after which an approval request expires. An unused approval, "
        "or a result that the agent did not get, expires when twice this time has passed since the "
        "request.",
    )
    operator_wait: float = Field(
        20,
        ge=0,
        le=300,
        description="Seconds that a retried tool call waits for the operator's decision. It waits "
        "for at most half of `CALLS_MCP_DEADLINE`.",
    )
    read_only: bool = Field(
        default=False,
        description="`1` refuses every change, including those in the console. The server then "
        "offers only `fetch_call` and `list_calls`.",
    )
    secret_keys: Annotated[SecretStr, AfterValidator(_keys)] | None = Field(
        None,
        description="Keys of at least 32 characters that sign confirmations and cursors, separated "
        "by spaces. The first one signs; all are accepted. By default, the key is derived from the "
        "credentials. When you first set keys, pending confirmations become invalid.",
    )

    def keys(self, access: Access) -> tuple[str, ...]:
        """Return the keys, of at least 32 characters each; the first one signs."""
        if self.secret_keys is not None:
            return tuple(self.secret_keys.get_secret_value().split())
        derived = f"calls-mcp keys\0{access.username}\0{access.password}"
        return (hashlib.sha256(derived.encode()).hexdigest(),)


class ConsoleSettings(_Group, alias_generator=_named("CALLS_MCP_CONSOLE_")):
    """The operator's console."""

    url: Annotated[str, AfterValidator(_origin)] | None = Field(
        None,
        description="Public URL of the operator's console, such as `https://calls.example.com`. "
        "Links to approval requests begin with it. Set it if a proxy is in front of the console.",
    )

    def approval_page(self, identifier: str) -> str | None:
        """Return the URL of the page of an approval request, if the URL of the console is known."""
        return f"{self.url}/approvals/{identifier}" if self.url else None


class ApprovalSettings(_Group, alias_generator=_named("CALLS_MCP_APPROVALS_")):
    """Notifications of approval requests."""

    webhook: Annotated[SecretStr, AfterValidator(_webhook)] | None = Field(
        None,
        description="URL that receives a JSON `POST` for each new approval request, such as an "
        "incoming webhook of Slack, Mattermost or Teams: see "
        "[Notifications](operator.md#notifications).",
    )
    webhook_secret: Credential | None = Field(
        None, description="Secret that signs these notifications with HMAC-SHA256."
    )
    numbers: Literal["whole", "masked"] = Field(
        "masked",
        description="Whether phone numbers are `whole` or `masked` in these notifications.",
    )


class StorageSettings(_Group, alias_generator=_named("CALLS_MCP_STATE_")):
    """The store of confirmations, approval requests and counters."""

    url: SecretStr | None = Field(
        None,
        description="Where confirmations, approval requests and counters are stored: "
        "`sqlite:///FILE`, `redis://HOST:PORT/0` (shared by replicas; needs the extra `redis`) or "
        "`memory:` (lost when the server stops). Defaults to `calls-mcp/calls.db` in the user's "
        "state directory, or `sandbox.db` in the same directory with `--sandbox`.",
    )

    @property
    def location(self) -> str | None:
        """Return the URL with its password; None for the default."""
        return self.url.get_secret_value() if self.url else None

    @property
    def is_external(self) -> bool:
        """Return whether the settings name a store outside this process."""
        return self.url is not None and not self.is_memory

    @property
    def is_memory(self) -> bool:
        """Return whether the state is only in the memory of this process."""
        return self.location == "memory:"


class AuditSettings(_Group, alias_generator=_named("CALLS_MCP_AUDIT_")):
    """The audit log."""

    database: Annotated[Path | Literal["stderr:"] | None, BeforeValidator(_audit_database)] = Field(
        None,
        description="Where the audit log is written: an SQLite file (`FILE` or `sqlite:///FILE`), "
        "or `stderr:` for JSON lines on stderr. Defaults to the SQLite file of "
        "`CALLS_MCP_STATE_URL`; with Redis, to the default SQLite file; with `memory:`, to stderr.",
    )
    numbers: Literal["whole", "masked"] = Field(
        "masked",
        description="Whether phone numbers are `whole` or `masked` in the audit log.",
    )


class ResultSettings(_Group, alias_generator=_named("CALLS_MCP_RESULT_")):
    """Tool results."""

    tokens: int = Field(
        20_000,
        ge=2000,
        description="Maximum size of a list in tokens: its text and structured content together.",
    )


class WatchSettings(_Group, alias_generator=_named("CALLS_MCP_WATCH_")):
    """Updates about live calls."""

    interval: float = Field(
        5,
        gt=0,
        description="Seconds between two reads of a live call that clients subscribed to. The "
        "interval grows while reads fail. While a client waits for a call (`wait_until`), it is "
        "at most 1 s until the call is answered, and at most 3 s afterwards.",
    )
    limit: int = Field(
        100,
        alias="CALLS_MCP_WATCHES",
        ge=4,
        description="Maximum number of subscriptions and waits (`wait_until`) in each process. One "
        "principal can use a quarter of them.",
    )


class AuthSettings(_Group, alias_generator=_named("CALLS_MCP_")):
    """Authentication over HTTP."""

    mode: Literal["none", "tokens", "oauth"] = Field(
        "none",
        alias="CALLS_MCP_AUTH",
        description="How HTTP clients authenticate: with a token listed in `CALLS_MCP_PRINCIPALS` "
        "(`tokens`), with an access token of `CALLS_MCP_OAUTH_ISSUER` (`oauth`), or not at all "
        "(`none`; then only this machine can connect).",
    )
    principals: Path | None = Field(
        None,
        description="TOML file with hashed tokens, and with the principals that have their own "
        "account or policy.",
    )
    resource_url: ExactUrl | None = Field(
        None,
        description="Public URL of this server, such as `https://mcp.example.com/mcp`. Required "
        "for `oauth`.",
    )
    oauth_issuer: ExactUrl | None = Field(
        None,
        description="URL of the authorization server that issues access tokens. Required for "
        "`oauth`.",
    )
    oauth_audience: str | None = Field(
        None,
        description="Required `aud` claim of access tokens. Defaults to `CALLS_MCP_RESOURCE_URL`.",
    )
    oauth_scope_claim: str = Field(
        "scope",
        description="Claim with the scopes of a token, as a list or separated by spaces.",
    )
    oauth_principal_claim: str = Field("sub", description="Claim with the principal of a token.")


class HttpSettings(_Group, alias_generator=_named("CALLS_MCP_HTTP_")):
    """The server over HTTP."""

    allowed_hosts: Annotated[str, AfterValidator(_hosts)] = Field(
        "",
        alias="CALLS_MCP_ALLOWED_HOSTS",
        description="Host names of this server, separated by spaces. Requests with other names in "
        "`Host` or `Origin` are refused. A server on a loopback address always accepts loopback "
        "names.",
    )
    browser_origins: Annotated[str, AfterValidator(_origins)] = Field(
        "",
        alias="CALLS_MCP_BROWSER_ORIGINS",
        description="Origins of the MCP clients that run in a browser, such as "
        "`https://app.example.com`, separated by spaces. Pages of other origins can't use the "
        "server.",
    )
    stateless: bool = Field(
        default=False,
        description="`1` keeps no sessions for clients of protocol versions before 2026-07-28. Any "
        "replica can then serve their requests, but they confirm with tokens, because the server "
        "can't ask their users.",
    )
    sessions: int = Field(
        1000,
        ge=4,
        description="Maximum number of open sessions. Only clients of protocol versions before "
        "2026-07-28 have sessions. One principal can use a quarter of them.",
    )
    session_idle: int = Field(
        1800, ge=1, description="Seconds after which an unused session is closed."
    )
    body_bytes: int = Field(
        65_536, ge=4096, description="Maximum size of the body of an HTTP request, in bytes."
    )
    header_bytes: int = Field(
        16_384, ge=1024, description="Maximum size of the headers of an HTTP request, in bytes."
    )
    rate: int = Field(
        600,
        ge=1,
        description="Maximum number of HTTP requests per minute by one principal. Replicas that "
        "share Redis count together.",
    )
    rate_in_all: int = Field(
        3000,
        ge=1,
        description="Maximum number of HTTP requests per minute by all principals. Replicas that "
        "share Redis count together.",
    )
    concurrency: int = Field(
        25, ge=1, description="Maximum number of concurrent HTTP requests by one principal."
    )
    concurrency_in_all: int = Field(
        100, ge=1, description="Maximum number of concurrent HTTP requests."
    )
    patience: float = Field(
        10,
        gt=0,
        description="Seconds that an HTTP client may take to send a request body. A connection "
        "without complete headers is closed within twice this time.",
    )
    grace: float = Field(
        25,
        gt=0,
        description="Seconds that the HTTP server may take to shut down after SIGTERM. Requests "
        "that are not done after four fifths of this time are canceled.",
    )


class LogSettings(_Group, alias_generator=_named("CALLS_MCP_LOG_")):
    """Logs on stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "WARNING",
        description="Minimum level of log messages: `DEBUG`, `INFO`, `WARNING` or `ERROR`.",
    )
    format: Literal["text", "json"] = Field(
        "text", description="Format of log messages: `text` or `json` (one object per line)."
    )


class TelemetrySettings(_Group, alias_generator=_named("CALLS_MCP_")):
    """Traces and metrics."""

    export: Literal["off", "otlp"] = Field(
        "off",
        alias="CALLS_MCP_TELEMETRY",
        description="`otlp` exports spans and metrics over http/protobuf, configured by the "
        "standard `OTEL_*` variables. Needs the extra `otel`.",
    )
    metrics_address: Annotated[str, AfterValidator(_address)] | None = Field(
        None,
        description="Address where Prometheus can read `/metrics`, such as `127.0.0.1:9464`. There "
        "is no authentication. Needs the extra `otel`.",
    )


class Settings(BaseModel):
    """All settings, in groups. The description of a field is its documentation."""

    model_config = ConfigDict(frozen=True)

    twilio: TwilioSettings
    guard: GuardSettings
    console: ConsoleSettings
    approvals: ApprovalSettings
    storage: StorageSettings
    audit: AuditSettings
    results: ResultSettings
    watch: WatchSettings
    auth: AuthSettings
    http: HttpSettings
    logs: LogSettings
    telemetry: TelemetrySettings

    @model_validator(mode="before")
    @classmethod
    def _grouped(cls, variables: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
        return dict.fromkeys(cls.model_fields, variables)

    @staticmethod
    def variables() -> dict[str, FieldInfo]:
        """Return the field of each setting by its variable."""
        groups = _Group.__subclasses__()  # in their order here
        fields = (field for group in groups for field in group.model_fields.values())
        return {str(field.alias): field for field in fields}

    def values(self, *, given: bool = False) -> dict[str, object]:
        """Return the value of each setting by its variable; with `given`, only if it was set."""
        groups: dict[str, dict[str, object]] = self.model_dump(by_alias=True, exclude_unset=given)
        return {variable: value for group in groups.values() for variable, value in group.items()}


HTTP_VARIABLES = frozenset(
    str(field.alias)
    for group in (AuthSettings, HttpSettings)
    for field in group.model_fields.values()
)
"""The settings that a server on stdio does not use."""

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
    "CALLS_MCP_AUDIT_FILE": "was removed, because the audit log is now a database; for JSON lines, "
    "run: calls-mcp audit export --follow"
}
_PREFIX = "CALLS_MCP_"
_MIN_SIMILARITY = 0.75  # between 0 and 1
_MESSAGES = {
    "bool_parsing": "must be 1 or 0",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "int_parsing": "must be a whole number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
}


class SettingsError(ConfigurationError):
    """Settings are wrong; each of `problems` names a variable, but never its value."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        start = "Invalid settings: " if len(self.problems) == 1 else "Invalid settings:\n- "
        super().__init__(start + "\n- ".join(self.problems))


def _unknown(known: Collection[str]) -> Iterator[str]:
    """Yield the problems with variables that look like settings, but are unknown."""
    names = {name.removeprefix(_PREFIX).removeprefix("TWILIO_"): name for name in known}
    names["SANDBOX"] = "the option --sandbox"
    for name in sorted(os.environ):
        if removed := REMOVED.get(name.upper()):
            yield f"{name}: {removed}"
        elif name.upper().startswith(_PREFIX) and name.upper() not in known:
            close = get_close_matches(name.upper().removeprefix(_PREFIX), names, 1, _MIN_SIMILARITY)
            guess = f"; did you mean {names[close[0]]}?" if close else ""
            yield f"{name}: unknown setting{guess}"


def _contradictions(auth: str, given: Collection[str]) -> Iterator[str]:
    """Yield the settings that the chosen authentication needs or would ignore."""
    for name in _REQUIRED_FOR[auth]:
        if name not in given:
            yield f"{name}: is required with CALLS_MCP_AUTH={auth}"
    for name, modes in _ONLY_FOR.items():
        if name in given and auth not in modes:
            yield f"{name}: is only used with CALLS_MCP_AUTH={' or '.join(modes)}, not {auth}"


def _fault(error: ErrorDetails) -> str:
    words = _MESSAGES.get(error["type"], "").format_map(error.get("ctx", {}))
    plain = reason(error).replace("should be", "must be", 1).replace('"', "")
    return f"{error['loc'][1]}: {words or plain}"


def load_settings(overrides: Mapping[str, object] | None = None) -> Settings:
    """Return the settings from the environment; `overrides`, by variable, take precedence.

    An empty variable counts as unset. Names can be in lower case.

    Raises:
        SettingsError: Names all variables that are wrong, but never their values.
    """
    unknown = [*_unknown(Settings.variables())]
    given = _environment() | {name.upper(): value for name, value in (overrides or {}).items()}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as invalid:
        wrong = [*unknown, *map(_fault, invalid.errors())]
        mode = str(given.get("CALLS_MCP_AUTH") or "none")
        if mode in _REQUIRED_FOR:
            wrong += _contradictions(mode, [name for name, value in given.items() if value])
        raise SettingsError(wrong) from None
    contradictions = _contradictions(settings.auth.mode, settings.values(given=True))
    if wrong := [*unknown, *contradictions]:
        raise SettingsError(wrong)
    return settings


def load_path(variable: str) -> Path | None:
    """Return the path in one variable, whatever the other settings are; None if it is not set."""
    given = _environment().get(variable)
    return Path(given) if given else None


def load_guard() -> GuardSettings:
    """Return the settings of the guard, whatever the other settings are.

    Raises:
        SettingsError: Names all variables of the guard that are wrong.
    """
    try:
        return GuardSettings.model_validate(_environment())
    except ValidationError as invalid:
        raise SettingsError([*map(_fault, invalid.errors())]) from None


def _environment() -> dict[str, str]:
    return {name.upper(): value for name, value in os.environ.items() if value}

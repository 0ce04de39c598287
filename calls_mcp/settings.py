"""What the operator sets, all of it by environment variable."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from calls_mcp.catalog import Confirm
from calls_mcp.errors import ConfigurationError
from calls_mcp.redaction import in_base64, spellings

_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_PLACE = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_LONGEST_LABEL = 63  # characters, of a host's name
_LABEL = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
_SHORTEST_KEY = 32


@dataclass(frozen=True, slots=True)
class Access:
    """Where the Calls API is and who we are to it.

    `timeout` bounds each step of one HTTP exchange, `deadline` all attempts at it together, both
    in seconds.
    """

    base_url: str
    account_sid: str
    username: str
    password: str = field(repr=False)
    timeout: float
    deadline: float

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of it must never be shown: the password, in each form that it may be sent in."""
        pair = f"{self.username}:{self.password}".encode(errors="surrogatepass")
        return (*spellings(self.password), *in_base64(pair))

    @property
    def is_local(self) -> bool:
        """Whether the API is on this machine, where no proxy leads."""
        return is_loopback(urlsplit(self.base_url).hostname)


def is_loopback(host: str | None) -> bool:
    """Whether this host, a name or an address, is surely this machine."""
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
    return value  # as it is: issuers and audiences are compared letter by letter


ExactUrl = Annotated[str, AfterValidator(_exact_url)]


class Settings(BaseModel):
    """The settings. A field's name in capitals is its variable; its description is its document."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    twilio_account_sid: str | None = Field(
        None,
        pattern="^AC[0-9a-fA-F]{32}$",
        description="The account whose calls these are. Required, except with `--sandbox`.",
    )
    twilio_auth_token: Credential | None = Field(
        None, description="The account's auth token. Not needed with an API key."
    )
    twilio_api_key: str | None = Field(
        None,
        pattern="^SK[0-9a-fA-F]{32}$",
        description="SID of an API key, used instead of the auth token: it can be revoked alone.",
    )
    twilio_api_secret: Credential | None = Field(None, description="The API key's secret.")
    twilio_region: str | None = Field(
        None, pattern=_LABEL, description="Region that processes the calls, such as `ie1`."
    )
    twilio_edge: str | None = Field(
        None, pattern=_LABEL, description="Edge where requests enter the network, as `dublin`."
    )
    calls_mcp_api_base_url: Annotated[str, AfterValidator(_base_url)] | None = Field(
        None, description="Another place to send requests to, such as the emulator."
    )
    calls_mcp_confirm: Confirm = Field(
        "all",
        description="What is confirmed, where the policy says `confirm`: `all` changes, "
        "`destructive` ones (update and delete, but not create), or `none`. With `operator`, the "
        "operator decides about all of those.",
    )
    calls_mcp_policy: Path | None = Field(
        None, description="The operator's rules, in place of `config/policy.toml`."
    )
    calls_mcp_confirm_ttl: float = Field(
        300, gt=0, le=600, description="Seconds for which a confirmation can be used."
    )
    calls_mcp_operator_ttl: float = Field(
        900,
        gt=0,
        le=86_400,
        description="Seconds for which the operator can decide, where the policy says `operator`, "
        "and for which an approval can be acted on.",
    )
    calls_mcp_operator_wait: float = Field(
        20,
        ge=0,
        le=300,
        description="Seconds that a repeated call waits for that decision, but at most half of "
        "`CALLS_MCP_DEADLINE`.",
    )
    calls_mcp_console_url: Annotated[str, AfterValidator(_origin)] | None = Field(
        None,
        description="Where browsers find the operator's console, like `https://calls.example.com`: "
        "agents' users are sent there, and a proxy before the console has this address.",
    )
    calls_mcp_read_only: bool = Field(
        default=False, description="`1` offers only fetch_call and list_calls."
    )
    calls_mcp_secret_keys: Annotated[SecretStr, AfterValidator(_keys)] | None = Field(
        None,
        description="Keys that sign confirmations and cursors, with spaces between; the first "
        "signs, all are accepted; of 32 characters or more each. By default a key derived from the "
        "credentials, whose confirmations lapse once keys are set.",
    )
    calls_mcp_state_url: SecretStr = Field(
        SecretStr("memory:"),
        description="Where confirmations are kept: `memory:`, `sqlite:///FILE` (they survive a "
        "restart) or `redis://HOST:PORT/0` (they are shared by replicas; extra `redis`).",
    )
    calls_mcp_audit_file: Path | None = Field(
        None, description="File of JSON lines that every attempted change is recorded in."
    )
    calls_mcp_audit_database: Path | None = Field(
        None, description="SQLite file for the same; with neither, the record goes to stderr."
    )
    calls_mcp_audit_numbers: Literal["whole", "masked"] = Field(
        "masked", description="Whether the record has telephone numbers `whole` or `masked`."
    )
    calls_mcp_result_bytes: int = Field(
        64_000, ge=4096, description="Largest structured result, in bytes of JSON."
    )
    calls_mcp_timeout: float = Field(
        15,
        gt=0,
        le=600,
        description="Seconds for connecting, and for each wait for the API.",
    )
    calls_mcp_deadline: float = Field(
        45,
        gt=0,
        le=3600,
        description="Seconds for a tool call, retries and recovery included.",
    )
    calls_mcp_watch_interval: float = Field(
        5,
        gt=0,
        description="Seconds between looks at a live call that a client has asked to be told of; "
        "more while they fail.",
    )
    calls_mcp_watches: int = Field(
        100,
        ge=4,
        description="Calls that clients are told of at once, by each process; one principal gets "
        "a quarter of them.",
    )
    calls_mcp_auth: Literal["none", "tokens", "oauth"] = Field(
        "none",
        description="Who may come in over HTTP: on this machine anybody (`none`), whoever has a "
        "token that `CALLS_MCP_PRINCIPALS` lists (`tokens`), or one of the issuer's (`oauth`).",
    )
    calls_mcp_principals: Path | None = Field(
        None,
        description="TOML file of hashed tokens, and of principals with an account or a policy of "
        "their own.",
    )
    calls_mcp_resource_url: ExactUrl | None = Field(
        None,
        description="The URL by which clients know this server, such as "
        "`https://mcp.example.com/mcp`. For `oauth`.",
    )
    calls_mcp_oauth_issuer: ExactUrl | None = Field(
        None, description="The authorization server whose access tokens are accepted, by its URL."
    )
    calls_mcp_oauth_audience: str | None = Field(
        None, description="What tokens must have as `aud`; by default `CALLS_MCP_RESOURCE_URL`."
    )
    calls_mcp_oauth_scope_claim: str = Field(
        "scope", description="The claim with a token's scopes, as a list or with spaces between."
    )
    calls_mcp_oauth_principal_claim: str = Field(
        "sub", description="The claim that names a token's principal."
    )
    calls_mcp_allowed_hosts: Annotated[str, AfterValidator(_hosts)] = Field(
        "",
        description="Hosts by which HTTP clients know this server, with spaces between; requests "
        "that name others (Host, Origin) are refused. On a loopback address its own are known.",
    )
    calls_mcp_http_stateless: bool = Field(
        default=False,
        description="`1` keeps no sessions for clients of earlier revisions: any replica serves "
        "any of their requests, and they confirm by token, for they can't be asked.",
    )
    calls_mcp_http_sessions: int = Field(
        1000,
        ge=4,
        description="Sessions of earlier revisions that are open at once; one principal gets a "
        "quarter of them.",
    )
    calls_mcp_http_body_bytes: int = Field(
        65_536, ge=4096, description="Largest body of an HTTP request."
    )
    calls_mcp_http_header_bytes: int = Field(
        16_384, ge=1024, description="Largest head of an HTTP request."
    )
    calls_mcp_http_rate: int = Field(
        600,
        ge=1,
        description="HTTP requests a minute of one principal, at all replicas that share a Redis.",
    )
    calls_mcp_http_rate_in_all: int = Field(
        3000,
        ge=1,
        description="HTTP requests a minute of all principals, at all replicas that share a Redis.",
    )
    calls_mcp_http_concurrency: int = Field(
        25, ge=1, description="HTTP requests of one principal that are served at once."
    )
    calls_mcp_http_concurrency_in_all: int = Field(
        100, ge=1, description="HTTP requests that are served at once."
    )
    calls_mcp_http_patience: float = Field(
        10,
        gt=0,
        description="Seconds that an HTTP client may take to send a request's head, and again to "
        "send its body.",
    )
    calls_mcp_http_grace: float = Field(
        25,
        gt=0,
        description="Seconds from SIGTERM to the end, in which what is under way over HTTP is "
        "finished; what is not by four fifths of them is broken off.",
    )
    calls_mcp_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "WARNING", description="What is logged, to stderr: DEBUG, INFO, WARNING or ERROR."
    )
    calls_mcp_log_format: Literal["text", "json"] = Field(
        "text", description="How it is logged: `text`, or `json`, a line for each record."
    )
    calls_mcp_telemetry: Literal["off", "otlp"] = Field(
        "off",
        description="`otlp` sends spans and metrics where the standard `OTEL_*` variables say, "
        "over http/protobuf (extra `otel`).",
    )
    calls_mcp_metrics_address: Annotated[str, AfterValidator(_address)] | None = Field(
        None,
        description="Where Prometheus finds the metrics, such as `127.0.0.1:9464`, at /metrics "
        "and open to whoever can connect (extra `otel`).",
    )

    def access(self) -> Access:
        """Where the API is and who we are to it.

        Raises:
            ConfigurationError: Credentials are missing.
        """
        username, password = self._credentials()
        return Access(
            base_url=self.calls_mcp_api_base_url or self._twilio(),
            account_sid=self.twilio_account_sid or "",
            username=username,
            password=password,
            timeout=self.calls_mcp_timeout,
            deadline=self.calls_mcp_deadline,
        )

    def keys(self, access: Access) -> tuple[str, ...]:
        """The keys that sign, the first one first; of 32 characters or more each."""
        if self.calls_mcp_secret_keys is not None:
            return tuple(self.calls_mcp_secret_keys.get_secret_value().split())
        derived = f"calls-mcp keys\0{access.username}\0{access.password}"
        return (hashlib.sha256(derived.encode()).hexdigest(),)

    def _credentials(self) -> tuple[str, str]:
        pairs = (
            (self.twilio_api_key, self.twilio_api_secret),
            (self.twilio_account_sid, self.twilio_auth_token),
        )
        complete = [(name, secret.get_secret_value()) for name, secret in pairs if name and secret]
        if self.twilio_account_sid and complete:
            return complete[0]
        raise ConfigurationError(self._missing())

    def _missing(self) -> str:
        missing = [] if self.twilio_account_sid else ["TWILIO_ACCOUNT_SID"]
        if bool(self.twilio_api_key) != bool(self.twilio_api_secret):
            missing.append("TWILIO_API_SECRET" if self.twilio_api_key else "TWILIO_API_KEY")
        elif not (self.twilio_api_key or self.twilio_auth_token):
            missing.append("TWILIO_AUTH_TOKEN (or TWILIO_API_KEY and TWILIO_API_SECRET)")
        return (
            f"Missing credentials: set {' and '.join(missing)}, or try it without any: "
            "calls-mcp serve --sandbox"
        )

    def _twilio(self) -> str:
        region = self.twilio_region or ("us1" if self.twilio_edge else None)
        labels = ("api", self.twilio_edge, region, "twilio.com")
        return "https://" + ".".join(label for label in labels if label)


def _given() -> dict[str, str]:
    """What the environment sets; an empty variable sets nothing."""
    known = Settings.model_fields
    return {
        name.lower(): value for name, value in os.environ.items() if value and name.lower() in known
    }


def _unknown() -> Iterator[str]:
    """What is wrong with variables that look like settings, and would be passed over."""
    known = [name.upper() for name in Settings.model_fields]
    for name in sorted(os.environ):
        if name.upper().startswith("CALLS_MCP_") and name.upper() not in known:
            close = get_close_matches(name.upper(), known, n=1)
            guess = f"; did you mean {close[0]}?" if close else ""
            yield f"{name}: there is no such setting{guess}"


_NEEDED = {
    "none": (),
    "tokens": ("calls_mcp_principals",),
    "oauth": ("calls_mcp_oauth_issuer", "calls_mcp_resource_url"),
}
_FOR = {
    "calls_mcp_principals": ("tokens", "oauth"),
    "calls_mcp_resource_url": ("oauth",),
    "calls_mcp_oauth_issuer": ("oauth",),
    "calls_mcp_oauth_audience": ("oauth",),
    "calls_mcp_oauth_scope_claim": ("oauth",),
    "calls_mcp_oauth_principal_claim": ("oauth",),
}


def _contradictions(settings: Settings) -> Iterator[str]:
    """What is missing for the chosen authentication, and what would be passed over with it."""
    auth = settings.calls_mcp_auth
    given = settings.model_fields_set
    for name in _NEEDED[auth]:
        if name not in given:
            yield f"{name.upper()}: is needed with CALLS_MCP_AUTH={auth}"
    for name, modes in _FOR.items():
        if name in given and auth not in modes:
            needed = " or ".join(f"CALLS_MCP_AUTH={mode}" for mode in modes)
            yield f"{name.upper()}: counts only with {needed}, and this is {auth}"


def load_settings(overrides: Mapping[str, object] | None = None) -> Settings:
    """The settings in the environment, with `overrides` before them.

    Raises:
        ConfigurationError: Naming every variable that is wrong, and never its value.
    """
    if unknown := [*_unknown()]:
        raise ConfigurationError("Wrong settings: " + "; ".join(unknown))
    try:
        settings = Settings.model_validate({**_given(), **(overrides or {})})
    except ValidationError as invalid:
        wrong = (f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in invalid.errors())
        raise ConfigurationError("Wrong settings: " + "; ".join(wrong)) from None
    if wrong := "; ".join(_contradictions(settings)):
        raise ConfigurationError(f"Wrong settings: {wrong}")
    return settings

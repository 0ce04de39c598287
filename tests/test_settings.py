"""Settings, and the messages about wrong ones."""

import traceback
from pathlib import Path

import pytest

from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import Settings, load_settings

ACCOUNT = "AC" + "0" * 32
KEY = "SK" + "0" * 32
CANARY = "canary-secret"


def test_an_account_sid_and_auth_token_are_enough() -> None:
    access = load_settings(
        {"twilio_account_sid": ACCOUNT, "twilio_auth_token": CANARY}
    ).twilio.access()
    assert access.base_url == "https://api.twilio.com"
    assert (access.username, access.password) == (ACCOUNT, CANARY)


def test_an_api_key_is_used_before_the_token() -> None:
    access = load_settings(
        {
            "twilio_account_sid": ACCOUNT,
            "twilio_auth_token": "token",
            "twilio_api_key": KEY,
            "twilio_api_secret": CANARY,
        }
    ).twilio.access()
    assert (access.account_sid, access.username, access.password) == (ACCOUNT, KEY, CANARY)


@pytest.mark.requirement("18")
@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN (or TWILIO_API_KEY and TWILIO_API_SEC"),
        ({"twilio_account_sid": ACCOUNT}, "set TWILIO_AUTH_TOKEN (or"),
        ({"twilio_auth_token": CANARY}, "set TWILIO_ACCOUNT_SID, or"),
        ({"twilio_account_sid": ACCOUNT, "twilio_api_key": KEY}, "set TWILIO_API_SECRET, or"),
        ({"twilio_account_sid": ACCOUNT, "twilio_api_secret": CANARY}, "set TWILIO_API_KEY, or"),
        ({"twilio_api_key": KEY, "twilio_api_secret": CANARY}, "set TWILIO_ACCOUNT_SID, or"),
    ],
)
def test_missing_credentials_are_named_and_the_sandbox_is_offered(
    given: dict[str, str], missing: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings(given).twilio.access()
    assert missing in str(error.value)
    assert "--sandbox" in str(error.value)
    assert CANARY not in str(error.value)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://calls.example.com:443/", "https://calls.example.com"),
        ("http://127.0.0.1:8090", "http://127.0.0.1:8090"),
    ],
)
def test_the_console_url_is_normalized(given: str, url: str) -> None:
    assert load_settings({"calls_mcp_console_url": given}).console.url == url


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"twilio_region": "ie1"}, "https://api.ie1.twilio.com"),
        ({"twilio_edge": "dublin"}, "https://api.dublin.us1.twilio.com"),
        ({"twilio_edge": "dublin", "twilio_region": "ie1"}, "https://api.dublin.ie1.twilio.com"),
        ({"calls_mcp_api_base_url": "http://127.0.0.1:4010/"}, "http://127.0.0.1:4010"),
        ({"calls_mcp_api_base_url": "https://proxy.example.com/x"}, "https://proxy.example.com/x"),
    ],
)
def test_the_api_url_follows_region_edge_and_base_url(given: dict[str, str], url: str) -> None:
    credentials = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": CANARY}
    assert load_settings(credentials | given).twilio.access().base_url == url


@pytest.mark.requirement("03", "16", "18", "31")
@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("twilio_account_sid", "AC123", "TWILIO_ACCOUNT_SID: must be AC and 32 hex digits"),
        ("twilio_account_sid", ACCOUNT + "\n", "TWILIO_ACCOUNT_SID"),
        ("twilio_api_key", ACCOUNT, "TWILIO_API_KEY: must be SK and 32 hex digits"),
        ("twilio_region", "ie1.evil.example/", "TWILIO_REGION"),
        ("twilio_edge", "evil.example#", "TWILIO_EDGE"),
        ("twilio_region", "x@y", "TWILIO_REGION"),
        ("twilio_region", "-a", "TWILIO_REGION"),
        ("twilio_region", "IE1", "TWILIO_REGION: must be lower-case letters, digits and hyphens"),
        ("twilio_region", "eu9\n", "TWILIO_REGION"),
        ("twilio_edge", "dublin?", "TWILIO_EDGE"),
        (
            "calls_mcp_confirm",
            "sometimes",
            "CALLS_MCP_CONFIRM: must be all, destructive, none or operator",
        ),
        ("calls_mcp_confirm_ttl", "60100", "must be at most 600"),
        ("calls_mcp_read_only", "perhaps", "CALLS_MCP_READ_ONLY: must be 1 or 0"),
        ("calls_mcp_timeout", "soon", "CALLS_MCP_TIMEOUT: must be a number"),
        ("calls_mcp_http_rate", "1.x", "CALLS_MCP_HTTP_RATE: must be a whole number"),
        ("calls_mcp_confirm_ttl", "-7", "CALLS_MCP_CONFIRM_TTL: must be greater than 0"),
        ("calls_mcp_result_tokens", "1234", "must be at least 2000"),
        ("calls_mcp_secret_keys", "short", "32 characters"),
        ("calls_mcp_secret_keys", "a" * 32 + " " + "a" * 32, "different"),
        (
            "calls_mcp_api_base_url",
            "http://api.example.com",
            "https unless the host is this machine",
        ),
        ("calls_mcp_api_base_url", "https://u:p@example.com", "without credentials"),
        ("calls_mcp_api_base_url", "ftp://example.com", "http or https URL"),
        ("calls_mcp_api_base_url", "file:///etc/passwd", "http or https URL"),
        ("calls_mcp_api_base_url", "https://api.twilio.com?x=1", "CALLS_MCP_API_BASE_URL"),
        ("calls_mcp_api_base_url", "http://127.0.0.1@evil.example/", "without credentials"),
        (
            "calls_mcp_api_base_url",
            "http://127.0.0.1.evil.example/",
            "https unless the host is this machine",
        ),
        ("calls_mcp_api_base_url", "http://:pw@127.0.0.1", "without credentials"),
        ("calls_mcp_api_base_url", "http://127.0.0.1#here", "fragment"),
        ("calls_mcp_api_base_url", "http://127.0.0.1:99999", "CALLS_MCP_API_BASE_URL"),
        (
            "calls_mcp_console_url",
            "http://calls.example.com",
            "https unless the host is this machine",
        ),
        ("calls_mcp_console_url", "https://calls.example.com/here", "without a path"),
        (
            "calls_mcp_approvals_webhook",
            "http://hooks.example.com/T/B/sEcret",
            "must be https unless",
        ),
        ("calls_mcp_approvals_webhook", "https://u:sEcret@hooks.example.com", "credentials"),
        ("calls_mcp_approvals_webhook", "https://hooks.example.com/?a=1#sEcret", "fragment"),
        ("calls_mcp_approvals_webhook", "hooks.example.com/sEcret", "https URL"),
        ("calls_mcp_console_url", "https://Calls.example.com", "lower case"),
        ("twilio_auth_token", " \t ", "TWILIO_AUTH_TOKEN: must be printable ASCII"),
        ("twilio_api_secret", "secret\n", "TWILIO_API_SECRET"),
        ("twilio_auth_token", "a\udcffb", "TWILIO_AUTH_TOKEN"),
        ("calls_mcp_metrics_address", "u:sEcret", "HOST:PORT"),
        ("calls_mcp_api_base_url", "https://u:p\u2100@example.com", "http or https URL"),
        ("calls_mcp_api_base_url", "https://a..b", "http or https URL"),
        ("calls_mcp_api_base_url", "https://" + "a" * 70, "http or https URL"),
        ("calls_mcp_api_base_url", "https://example.com/a b", "http or https URL"),
        ("calls_mcp_timeout", "inf", "must be a number"),
        ("calls_mcp_deadline", "inf", "must be a number"),
        ("calls_mcp_log_level", "LOUD", "CALLS_MCP_LOG_LEVEL"),
        ("calls_mcp_log_format", "xml", "CALLS_MCP_LOG_FORMAT"),
        ("calls_mcp_telemetry", "zipkin", "CALLS_MCP_TELEMETRY"),
        ("calls_mcp_metrics_address", "9464", "CALLS_MCP_METRICS_ADDRESS"),
        ("calls_mcp_metrics_address", "127.0.0.1:x", "CALLS_MCP_METRICS_ADDRESS"),
        ("calls_mcp_metrics_address", "127.0.0.1:65536", "must be HOST:PORT"),
        ("calls_mcp_http_patience", "inf", "CALLS_MCP_HTTP_PATIENCE: must be a number"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(name: str, value: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings({name: value})
    assert complaint in str(error.value)
    assert value not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    "value",
    [
        *("stderr", "STDERR:", "stdout", "Stdout:", "sqlite:///", "sqlite:a.db", ":memory:"),
        *("redis://127.0.0.1:1/0", "postgresql://h/d", "file:/a.db"),
    ],
)
def test_a_url_of_another_kind_is_not_a_file_of_the_audit_log(value: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings({"calls_mcp_audit_database": value})
    assert str(error.value) == (
        "Invalid settings: CALLS_MCP_AUDIT_DATABASE: must be a file path, sqlite:///FILE or stderr:"
    )


@pytest.mark.parametrize(
    ("value", "database"),
    [
        ("stderr:", "stderr:"),
        ("a.db", Path("a.db")),
        ("./a:b.db", Path("a:b.db")),
        (r"C:\logs\a.db", Path(r"C:\logs\a.db")),
        ("sqlite:///a.db", Path("a.db")),
        ("sqlite:////var/a.db", Path("/var/a.db")),
    ],
)
def test_the_audit_log_is_a_path_or_an_sqlite_url(value: str, database: object) -> None:
    assert load_settings({"calls_mcp_audit_database": value}).audit.database == database


def test_unknown_settings_and_wrong_values_are_reported_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CALLS_MCP_CONFRIM", "all")
    with pytest.raises(ConfigurationError) as error:
        load_settings({"calls_mcp_timeout": "-1"})
    assert str(error.value) == (
        "Invalid settings:\n- CALLS_MCP_CONFRIM: unknown setting; did you mean CALLS_MCP_CONFIRM?"
        "\n- CALLS_MCP_TIMEOUT: must be greater than 0"
    )
    with pytest.raises(
        ConfigurationError, match=r"CONFRIM: .*\n- CALLS_MCP_PRINCIPALS: is required"
    ):
        load_settings({"calls_mcp_auth": "tokens"})


def test_all_wrong_settings_are_reported_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"\n- CALLS_MCP_TIMEOUT:.*\n- CALLS_MCP_CONFIRM:"):
        load_settings({"calls_mcp_confirm": "x", "calls_mcp_timeout": "-1"})


def test_settings_come_from_the_environment_and_empty_ones_count_as_unset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CALLS_MCP_READ_ONLY", "1")
    monkeypatch.setenv("CALLS_MCP_CONFIRM", "")
    settings = load_settings()
    assert settings.guard.read_only is True
    assert settings.guard.confirm == "all"


def test_no_secret_is_shown_by_a_representation() -> None:
    settings = load_settings(
        {
            "twilio_account_sid": ACCOUNT,
            "twilio_auth_token": CANARY,
            "twilio_api_secret": CANARY,
            "calls_mcp_secret_keys": CANARY * 4,
        }
    )
    assert CANARY not in f"{settings!r} {settings} {settings.twilio.access()!r}"


def test_keys_are_derived_from_the_credentials_unless_they_are_set() -> None:
    credentials = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": CANARY}
    one, same = load_settings(credentials), load_settings(credentials)
    other = load_settings(credentials | {"twilio_auth_token": "other"})
    assert one.guard.keys(one.twilio.access()) == same.guard.keys(same.twilio.access())
    assert one.guard.keys(one.twilio.access()) != other.guard.keys(other.twilio.access())
    own = load_settings(credentials | {"calls_mcp_secret_keys": f"{'a' * 32} {'b' * 32}"})
    assert own.guard.keys(own.twilio.access()) == ("a" * 32, "b" * 32)


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("CALLS_MCP_READONLY", "; did you mean CALLS_MCP_READ_ONLY?"),
        ("calls_mcp_confim", "; did you mean CALLS_MCP_CONFIRM?"),
        ("CALLS_MCP_POLICYFILE", "; did you mean CALLS_MCP_POLICY?"),
        ("CALLS_MCP_STATE_URI", "; did you mean CALLS_MCP_STATE_URL?"),
        ("CALLS_MCP_HTTP_RATE_ALL", "; did you mean CALLS_MCP_HTTP_RATE_IN_ALL?"),
        ("CALLS_MCP_AUTH_TOKEN", "; did you mean TWILIO_AUTH_TOKEN?"),
        ("CALLS_MCP_ACCOUNT_SID", "; did you mean TWILIO_ACCOUNT_SID?"),
        ("CALLS_MCP_SANDBOX", "; did you mean the option --sandbox?"),
        ("CALLS_MCP_SANBOX", "; did you mean the option --sandbox?"),
        ("CALLS_MCP_ZZZZZZZZZZZZZZZZZZZZ", ""),
        ("CALLS_MCP_FOO", ""),
    ],
)
def test_an_unknown_setting_is_reported_with_the_nearest_spelling(
    monkeypatch: pytest.MonkeyPatch, name: str, guess: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError) as error:
        load_settings()
    assert str(error.value) == f"Invalid settings: {name}: unknown setting{guess}"


@pytest.mark.parametrize("name", [v for v in Settings.variables() if v.startswith("CALLS_MCP_")])
def test_a_setting_with_a_letter_left_out_doubled_or_swapped_is_recognized(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start = len("CALLS_MCP_")
    for i in range(start, len(name)):
        left_out, doubled = name[:i] + name[i + 1 :], name[:i] + name[i] + name[i:]
        swapped = name[:i] + name[i + 1 : i + 2] + name[i] + name[i + 2 :]
        for misspelled in {left_out, doubled, swapped} - Settings.variables().keys():
            monkeypatch.setenv(misspelled, "1")
            with pytest.raises(ConfigurationError) as error:
                load_settings()
            assert f"{misspelled}: unknown setting; did you mean {name}?" in str(error.value)
            monkeypatch.delenv(misspelled)


OAUTH = {
    "calls_mcp_auth": "oauth",
    "calls_mcp_oauth_issuer": "https://issuer.example.com/",
    "calls_mcp_resource_url": "https://calls.example.com/mcp",
}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (
            {"calls_mcp_auth": "tokens"},
            "CALLS_MCP_PRINCIPALS: is required with CALLS_MCP_AUTH=token",
        ),
        (
            {"calls_mcp_auth": "tokens", "calls_mcp_timeout": "x"},
            "CALLS_MCP_TIMEOUT: must be a number\n- CALLS_MCP_PRINCIPALS: is required with",
        ),
        (
            {"calls_mcp_auth": "oauth"},
            "CALLS_MCP_AUTH=oauth\n- CALLS_MCP_RESOURCE_URL: is required with CALLS_MCP_AUTH=oauth",
        ),
        (
            {"calls_mcp_principals": "principals.toml"},
            "CALLS_MCP_PRINCIPALS: is only used with CALLS_MCP_AUTH=tokens or oauth, not none",
        ),
        (
            OAUTH | {"calls_mcp_auth": "none"},
            "CALLS_MCP_OAUTH_ISSUER: is only used with CALLS_MCP_AUTH=oauth, not none",
        ),
        (
            {
                "calls_mcp_auth": "tokens",
                "calls_mcp_principals": "principals.toml",
                "calls_mcp_oauth_scope_claim": "scp",
            },
            "CALLS_MCP_OAUTH_SCOPE_CLAIM: is only used with CALLS_MCP_AUTH=oauth, not tokens",
        ),
        (OAUTH | {"calls_mcp_oauth_issuer": "http://issuer.example.com"}, "must be https"),
        (OAUTH | {"calls_mcp_resource_url": "https://calls.example.com/mcp#x"}, "fragment"),
        ({"calls_mcp_auth": "basic"}, "must be none, tokens or oauth"),
    ],
)
def test_settings_for_authentication_that_contradict_each_other_are_refused(
    given: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings(given)
    assert complaint in str(error.value)


def test_an_issuer_url_is_kept_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OAUTH.items():
        monkeypatch.setenv(name.upper(), value)
    assert load_settings().auth.oauth_issuer == "https://issuer.example.com/"

import pytest

from calls_mcp.emulator.testing import RunningEmulator, calls_api

__all__ = ["calls_api"]


@pytest.fixture
def account(calls_api: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> RunningEmulator:
    """An emulator that the environment leads to."""
    monkeypatch.setenv("CALLS_MCP_API_BASE_URL", calls_api.base_url)
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", calls_api.account_sid)
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", calls_api.auth_token)
    return calls_api

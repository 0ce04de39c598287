"""An emulator of Twilio's Calls API with real HTTP and calls in SQLite.

It implements the API on its own and shares no code with the rest of calls-mcp, so that tests
against it can find mistakes.
"""

from calls_mcp.emulator.api.middleware import Fault, LoggedRequest
from calls_mcp.emulator.api_errors import StartError
from calls_mcp.emulator.call_lifecycle import Call
from calls_mcp.emulator.call_store import CallStore
from calls_mcp.emulator.clock import Clock, ManualClock, accelerated
from calls_mcp.emulator.credentials import DEFAULT_ACCOUNT, Account
from calls_mcp.emulator.past_calls import past_calls
from calls_mcp.emulator.scenario import SCRIPTS, Scenario, Script
from calls_mcp.emulator.server import OWN_NUMBERS, Emulator

__all__ = [
    "DEFAULT_ACCOUNT",
    "OWN_NUMBERS",
    "SCRIPTS",
    "Account",
    "Call",
    "CallStore",
    "Clock",
    "Emulator",
    "Fault",
    "LoggedRequest",
    "ManualClock",
    "Scenario",
    "Script",
    "StartError",
    "accelerated",
    "past_calls",
]

"""A stateful stand-in for Twilio's Calls API, on real HTTP and SQLite.

It knows the API by itself and nothing of the rest of calls-mcp, so that it can contradict it.
"""

from calls_mcp.emulator.account import DEFAULT_ACCOUNT, Account
from calls_mcp.emulator.call import Call
from calls_mcp.emulator.clock import Clock, ManualClock, accelerated
from calls_mcp.emulator.command import Options, run, serve_forever
from calls_mcp.emulator.errors import StartError
from calls_mcp.emulator.history import seed_history
from calls_mcp.emulator.journal import Entry
from calls_mcp.emulator.scripts import SCRIPTS, Scenario, Script
from calls_mcp.emulator.server import OWN_NUMBERS, Emulator
from calls_mcp.emulator.store import CallStore

__all__ = [
    "DEFAULT_ACCOUNT",
    "OWN_NUMBERS",
    "SCRIPTS",
    "Account",
    "Call",
    "CallStore",
    "Clock",
    "Emulator",
    "Entry",
    "ManualClock",
    "Options",
    "Scenario",
    "Script",
    "StartError",
    "accelerated",
    "run",
    "seed_history",
    "serve_forever",
]

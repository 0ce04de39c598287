"""The Calls API over HTTP."""

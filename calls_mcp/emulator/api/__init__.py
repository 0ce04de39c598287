"""The HTTP API: Twilio's endpoints for calls, recordings and accounts, and the control API."""

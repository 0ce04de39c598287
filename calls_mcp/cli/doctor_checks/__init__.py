"""The checks of `calls-mcp doctor`: settings, files, the Calls API and the HTTP server.

They send one request to the API, for a list of one call, and write nothing.
"""

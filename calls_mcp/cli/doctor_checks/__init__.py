"""The checks of `calls-mcp doctor`: settings, files, the Calls API and the HTTP server.

They read a list of one call from the API, and write nothing.
"""

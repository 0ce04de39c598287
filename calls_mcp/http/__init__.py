"""The MCP server over HTTP. Nothing of it is loaded on stdio.

A request passes the checks of its head (`limits`), what may break it off (`shutdown`), its token
(`authentication`), the checks of its body and of how much is asked for (`limits`), its token's
scopes (`authentication`) and its session (`sessions`), and then reaches the SDK's app.
"""

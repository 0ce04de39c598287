"""The MCP server over HTTP. Nothing of it is loaded on stdio.

`asgi.McpEndpoint` takes a request through its checks: its head (`request_checks`), its token
(`authentication`), its body (`request_checks`), how much is asked for (`limits`) and the scopes of
its token (`authentication`). Then the SDK's app answers it.
"""

"""`python -m calls_mcp` is `calls-mcp`."""

import sys

from calls_mcp.cli import main

sys.exit(main())

"""`poolkeeper serve`, with all its code loaded, that waits for a line before it begins.

So a test with hundreds of starts need not wait for each to load the same modules.
"""

from __future__ import annotations

import sys

import poolkeeper_server.cli.serve
import poolkeeper_server.daemon  # noqa: F401 - to have it loaded
from poolkeeper.cli import main

if __name__ == "__main__":
    sys.stdin.readline()
    main()

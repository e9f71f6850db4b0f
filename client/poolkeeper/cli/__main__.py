"""`python -m poolkeeper.cli` is the `poolkeeper` command."""

import sys

from poolkeeper.cli import main

sys.exit(main())

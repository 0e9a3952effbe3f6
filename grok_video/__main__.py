"""`python -m grok_video`: the command line, where no script directory is on the path."""

from __future__ import annotations

import sys

from grok_video._cli import main

if __name__ == "__main__":
    sys.exit(main())

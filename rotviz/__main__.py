"""python -m rotviz: see rotviz.cli."""

import sys

from rotviz.cli import main

if __name__ == "__main__":
    sys.exit(main())

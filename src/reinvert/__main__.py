"""`python -m reinvert` is the command line."""

import sys

from reinvert.cli import main

if __name__ == "__main__":
    sys.exit(main())

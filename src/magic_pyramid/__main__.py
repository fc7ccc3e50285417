"""`python -m magic_pyramid`: the command line."""

import sys

from magic_pyramid.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m kdc` is `kdc`."""

import sys

from kdc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

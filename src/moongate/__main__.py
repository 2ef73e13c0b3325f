"""``python -m moongate``: the command line."""

import sys

from moongate.cli import main

sys.exit(main())

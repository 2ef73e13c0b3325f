"""CEL, the language of the rules in CRDs and of the filters of access logs.

The package ``cel`` also imports its own command line with its dependencies. That takes 24 MB and 0.1 s, more
than a third of what the core imports in total. moongate does not use it, so this module skips that import.
"""

from __future__ import annotations

import sys
from types import ModuleType

_COMMAND_LINE = "cel.cli"

if "cel" in sys.modules:
    import cel
else:
    sys.modules[_COMMAND_LINE] = ModuleType(_COMMAND_LINE)
    import cel

    # Another importer of the package's command line gets the real module.
    del sys.modules[_COMMAND_LINE], cel.cli

from cel.stdlib import add_stdlib_to_context  # noqa: E402 - not before the package is loaded as above

__all__ = ["add_stdlib_to_context", "cel"]

"""CEL, the language of the rules in CRDs and of the filters of access logs.

The package that speaks it loads its own command line, with prompts and tables: 24 MB and a tenth of a second,
more than a third of all that the core loads. Nothing here uses that, so it is left out.
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

    # Whoever wants it finds it as if nothing had happened.
    del sys.modules[_COMMAND_LINE], cel.cli

from cel.stdlib import add_stdlib_to_context  # noqa: E402 - not before the package is loaded as above

__all__ = ["add_stdlib_to_context", "cel"]

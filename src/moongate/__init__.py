"""A gateway: Gateway API and Envoy Gateway resources in, a running Envoy out."""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; `typing` itself takes longer than this module
if TYPE_CHECKING:
    from typing import Any

    from moongate.api.base import Ref
    from moongate.infra.binary import EnvoyMissingError
    from moongate.infra.ports import PortError
    from moongate.infra.process import EnvoyFailedError
    from moongate.infra.rundir import NoRunDirectoryError
    from moongate.problem import Problem
    from moongate.run import Laptop, ManifestError
    from moongate.translation import ConfigurationError, Translation, translate

__all__ = [
    "ConfigurationError",
    "EnvoyFailedError",
    "EnvoyMissingError",
    "Laptop",
    "ManifestError",
    "NoRunDirectoryError",
    "PortError",
    "Problem",
    "Ref",
    "Translation",
    "translate",
]

_HOMES = {
    "ConfigurationError": "moongate.translation",
    "EnvoyFailedError": "moongate.infra.process",
    "EnvoyMissingError": "moongate.infra.binary",
    "Laptop": "moongate.run",
    "ManifestError": "moongate.run",
    "NoRunDirectoryError": "moongate.infra.rundir",
    "PortError": "moongate.infra.ports",
    "Problem": "moongate.problem",
    "Ref": "moongate.api.base",
    "Translation": "moongate.translation",
    "translate": "moongate.translation",
}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use, so that ``moongate --help`` starts fast."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moongate' has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - slow, as above

    return getattr(importlib.import_module(home), name)

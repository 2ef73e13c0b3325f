"""Resources that exist in a manifest and are not in force, as the manifest has a fault.

What refers to such a resource says that it is refused, and why; not that it does not exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moongate.api.base import Ref
    from moongate.engine import Db


def refused(ref: Ref) -> tuple[str, Ref]:
    """The cell that says where the manifest of a resource is faulty, and how; or absent."""
    return ("refused", ref)


def absence(db: Db, ref: Ref) -> str:
    """Why a resource is not there, to follow its name; without a full stop."""
    fault: str | None = db.read(refused(ref))
    return "does not exist" if fault is None else f"is not in force, as its manifest has a fault ({fault})"

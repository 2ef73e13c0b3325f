"""Finding the one entry that Envoy refuses in a resource of thousands, and taking it alone out of force.

``quarantine`` takes what Envoys answer, ``answers`` keeps that for each of them as far as they differ, and
``search`` finds who is at fault.
"""

from __future__ import annotations

from moongate.quarantine.quarantine import Quarantine, Refusal

__all__ = ["Quarantine", "Refusal"]

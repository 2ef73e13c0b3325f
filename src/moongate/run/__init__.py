"""Wiring: the one package that knows every part. ``Laptop`` is a gateway of this process.

Theory of operation
===================
Batches come in from the files (or from ``Laptop.apply``), differences go out to the ADS server, and one
Envoy runs per Gateway. Between the two is the *pump* (``pump.py``): it settles the world in slices of a few
milliseconds and hands out what differs. Facts come back from the Envoys: they become part of the statuses,
and a route that Envoy refuses goes into quarantine.

``standalone.py`` is what ``moongate run`` does with a ``Laptop``: it serves until a signal comes.
"""

from moongate.run.laptop import Laptop, ManifestError
from moongate.run.standalone import LaptopOptions, run_laptop

__all__ = ["Laptop", "LaptopOptions", "ManifestError", "run_laptop"]

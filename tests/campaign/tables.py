"""All tables of the campaign, each once: whoever tries the faults takes them from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.campaign import (
    certificate_faults,
    conflict_faults,
    file_faults,
    kind_faults,
    reference_faults,
    refused_faults,
    yaml_faults,
)
from tests.campaign.fault import Fault

OF_CONTENT: Final[Mapping[str, tuple[Fault, ...]]] = {
    "yaml": yaml_faults.FAULTS,
    "field": kind_faults.FAULTS,
    "reference": reference_faults.FAULTS,
    "certificate": certificate_faults.FAULTS,
    "conflict": conflict_faults.FAULTS,
    "refused": refused_faults.FAULTS,
}
"""Faults that other text in the files makes, so that two of them can be made at once."""

ALL: Final[Mapping[str, tuple[Fault, ...]]] = {
    **OF_CONTENT,
    "file": file_faults.FAULTS,
    "edit": file_faults.EDITS,
}
"""With them, what is done to files and folders: an act, which needs the folder for itself."""

"""A folder of somebody who may not read everything."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

NOBODY = 65534


@pytest.fixture
def mine() -> Iterator[Path]:
    """A folder; meanwhile this process belongs to its owner, who is not root."""
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as name:
        folder = Path(name, "m")
        folder.mkdir()
        if os.geteuid() != 0:
            yield folder
            return
        Path(name).chmod(0o755)
        os.chown(folder, NOBODY, -1)
        # The loop imports it when it is needed, and this user may not be able to.
        assert concurrent.futures.ThreadPoolExecutor
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)

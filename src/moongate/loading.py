"""Loading many resources at once, without a look through all of them again and again."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def loading() -> Generator[None]:
    """Keep the garbage collector from the objects of the first load: they live as long as the process.

    To look through them again and again while they grow in number costs a tenth of a load of thousands of
    routes, or much more if it is done as often as by default.
    """
    gc.disable()
    gc.freeze()  # modules live as long, too
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()

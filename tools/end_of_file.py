"""Name the given files that do not end with exactly one newline; empty files are well."""

from __future__ import annotations

import sys
from pathlib import Path


def main(names: list[str]) -> int:
    bad = [name for name in names if not ends_well(Path(name).read_bytes())]
    for name in bad:
        print(f"{name}: does not end with exactly one newline.")
    return 1 if bad else 0


def ends_well(content: bytes) -> bool:
    """Whether the last line is ended once."""
    return not content or (content.endswith(b"\n") and not content.endswith((b"\n\n", b"\r\n")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

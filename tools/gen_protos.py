"""Write ``*_pb2.py`` and ``*_pb2.pyi`` beside the ``.proto`` files of ours.

They are committed, so that moongate installs without a compiler; a test says when they are stale.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "src"


def main() -> None:
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(SOURCES))


def generated() -> Mapping[Path, str]:
    """What the compiler makes of our files, each by the path where it belongs."""
    protos = [str(path.relative_to(SOURCES)) for path in sorted(SOURCES.rglob("*.proto"))]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={SOURCES}"]
        subprocess.run([*command, f"--python_out={folder}", f"--pyi_out={folder}", *protos], check=True)
        return {
            SOURCES / path.relative_to(folder): path.read_text(encoding="utf-8")
            for path in sorted(Path(folder).rglob("*_pb2.py*"))
        }


if __name__ == "__main__":
    main()

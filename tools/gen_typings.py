"""Write ``typings/``: stubs of the protobuf modules that moongate and its tests import.

xds-protos ships Python without types. Its descriptors say everything, so the stubs are rebuilt from them,
for the modules named in an import anywhere in the source, and for all that those depend on. pyright then
knows each message and its fields. The result depends on a pinned wheel and on our imports only: it is
ignored by git and made anew by ``make check`` whenever it differs.
"""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("src", "tests", "bench", "tools")
TYPED_ELSEWHERE = "google/protobuf/"
"""types-protobuf has the stubs of these."""
OURS = "moongate."
"""``gen_protos.py`` writes stubs beside these."""


def main() -> None:
    out = ROOT / "typings"
    modules = sorted({name for path in sources() for name in imported(path)})
    files: dict[str, FileDescriptorProto] = {}
    for module in modules:
        collect(importlib.import_module(module).DESCRIPTOR, files)
    names = [name for name in files if not name.startswith(TYPED_ELSEWHERE)]

    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch, "typings")
        fresh.mkdir()
        if names:
            descriptors = Path(scratch, "descriptors.pb")
            descriptors.write_bytes(FileDescriptorSet(file=files.values()).SerializeToString())
            command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={descriptors}"]
            subprocess.run([*command, f"--pyi_out={fresh}", *names], check=True)
        changed = replace(out, fresh)

    size = sum(path.stat().st_size for path in out.rglob("*.pyi")) / 1e6
    print(f"typings: {len(modules)} modules imported, {len(names)} stubs, {size:.1f} MB, {changed} changed")


def sources() -> Iterator[Path]:
    """Every Python file of ours."""
    for folder in SOURCES:
        yield from sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Protobuf modules that a file imports, in either form of the statement."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        match node:
            case ast.Import(names=names):
                candidates = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), names=names, level=0):
                candidates = [module, *(f"{module}.{alias.name}" for alias in names)]
            case _:
                continue
        yield from (name for name in candidates if name.endswith("_pb2") and not name.startswith(OURS))


def collect(file: FileDescriptor, files: dict[str, FileDescriptorProto]) -> None:
    """Add a file and all that it depends on, dependencies first, as protoc wants them."""
    if file.name in files:
        return
    for dependency in file.dependencies:
        collect(dependency, files)
    files[file.name] = FileDescriptorProto()
    file.CopyToProto(files[file.name])


def replace(out: Path, fresh: Path) -> int:
    """Make ``out`` equal to ``fresh`` and leave equal files alone; how many changed."""
    old = {path.relative_to(out): path for path in out.rglob("*.pyi")}
    new = {path.relative_to(fresh): path for path in fresh.rglob("*.pyi")}
    changed = [
        name for name, path in new.items() if name not in old or old[name].read_bytes() != path.read_bytes()
    ]
    gone = old.keys() - new.keys()
    for name in gone:
        old[name].unlink()
    for name in changed:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(new[name], out / name)
    return len(changed) + len(gone)


if __name__ == "__main__":
    main()

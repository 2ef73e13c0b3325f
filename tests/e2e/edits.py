"""How people and programs write files: each function brings a folder to the state that it is given.

What editors do is done by the same calls in the same order, as ``strace`` shows them. Where a real program is
there (vim, git, rsync, sed, cp), it is used itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Edit = Callable[[Path, Mapping[str, str]], None]


def write(path: Path, text: str, *, pieces: int = 1, sync: bool = False) -> None:
    """Empty a file and fill it, in so many writes."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        step = -(-len(text) // pieces)
        for start in range(0, len(text), step):
            file.write(text[start : start + step])
            file.flush()
        if sync:
            os.fsync(file.fileno())


def each(save: Callable[[Path, str], None]) -> Edit:
    """An edit of one file after another."""

    def edit(root: Path, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            save(root / name, text)

    return edit


def in_pieces(path: Path, text: str) -> None:
    """``helm template > FILE``: the shell empties the file, the program fills it bit by bit."""
    write(path, text, pieces=8)


def vim_by_rename(path: Path, text: str) -> None:
    """vim, ``backupcopy=no``: the old file is moved aside, and removed in the end."""
    swap, probe, backup = path.with_name(f".{path.name}.swp"), path.with_name("4913"), Path(f"{path}~")
    swap.write_text("b0VIM 9.0")
    probe.touch()
    probe.unlink()
    path.rename(backup)
    write(path, text, sync=True)
    backup.unlink()
    swap.unlink()


def vim_by_copy(path: Path, text: str) -> None:
    """vim, ``backupcopy=yes``: a copy is made aside, and the file itself is emptied and filled."""
    backup = Path(f"{path}~")
    shutil.copy2(path, backup)
    write(path, text, sync=True)
    backup.unlink()


def vs_code(path: Path, text: str) -> None:
    """VS Code with ``files.experimental.atomicSave``: a file beside it takes its place."""
    write(path.with_name(f"{path.name}.vsctmp"), text, sync=True)
    path.with_name(f"{path.name}.vsctmp").rename(path)


def jetbrains(path: Path, text: str) -> None:
    """IntelliJ's safe write: two renames, and for a moment there is no such file."""
    new, old = Path(f"{path}___jb_tmp___"), Path(f"{path}___jb_old___")
    write(new, text)
    path.rename(old)
    new.rename(path)
    old.unlink()


def emacs(path: Path, text: str) -> None:
    """Emacs: a lock that is a link to nowhere, and a backup by rename."""
    lock = path.with_name(f".#{path.name}")
    lock.symlink_to("ann@laptop.4711:1795850000")
    path.rename(f"{path}~")
    write(path, text, sync=True)
    lock.unlink()


def link_swap(root: Path, files: Mapping[str, str]) -> None:
    """A mounted ConfigMap: the files are links through a folder that is a link, which is swapped."""
    data = root / "..data"
    new = root / f"..{len(list(root.glob('..[0-9]*')))}"
    for name, text in files.items():
        write(new / name.replace("/", "-"), text)
    (root / "..tmp").symlink_to(new.name)
    (root / "..tmp").rename(data)
    for name in files:
        path = root / name
        if not path.is_symlink():
            path.parent.mkdir(exist_ok=True)
            (root / "..link").symlink_to(data / name.replace("/", "-"))
            (root / "..link").rename(path)


def rebuild(root: Path, files: Mapping[str, str]) -> None:
    """``rm -rf FOLDER/*``, and everything written anew."""
    for entry in list(root.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    each(write)(root, files)


def rebuild_all(root: Path, files: Mapping[str, str]) -> None:
    """``rm -rf FOLDER``, and everything written anew."""
    shutil.rmtree(root)
    root.mkdir()
    each(write)(root, files)


def replace(root: Path, files: Mapping[str, str]) -> None:
    """A folder that was built beside takes the place of the folder."""
    new = root.with_name("new")
    new.mkdir()
    each(write)(new, files)
    root.rename(root.with_name("old"))
    new.rename(root)
    shutil.rmtree(root.with_name("old"))


def other_names(root: Path, files: Mapping[str, str]) -> None:
    """All goes to files of other names, and then the old files are removed."""
    old = [path for path in root.rglob("*.yaml") if path.is_file()]
    stamp = f"{max((path.stat().st_mtime_ns for path in old), default=0):x}"
    for name, text in files.items():
        write(root / name.replace(".yaml", f"-{stamp}.yaml"), text)
    for path in old:
        path.unlink()


def in_one_file(root: Path, files: Mapping[str, str]) -> None:
    """``kustomize build > all.yaml``; the files that it takes the place of are removed."""
    write(root / "all.yaml", "\n---\n".join(files.values()), pieces=8)
    for path in root.rglob("*.yaml"):
        if path.name != "all.yaml":
            path.unlink()


def cp(root: Path, files: Mapping[str, str]) -> None:
    """``cp -r``, as one copies a whole folder over another."""
    new = root.with_name("new")
    new.mkdir()
    each(write)(new, files)
    _run("cp", "-r", f"{new}/.", str(root))
    shutil.rmtree(new)


def sed(root: Path, files: Mapping[str, str]) -> None:
    """``sed -i``: each file is written beside and renamed."""
    source = root.with_name("text")
    for name, text in files.items():
        source.write_text(text)
        _run("sed", "-n", "-i", f"1r {source}", str(root / name))


def git(root: Path, files: Mapping[str, str]) -> None:
    """``git checkout`` of another branch."""
    where = root.with_name("git")
    call = (
        "git",
        "--git-dir",
        str(where),
        "--work-tree",
        str(root),
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
    )
    if not where.exists():
        _run(*call, "init", "-q")
        _run(*call, "checkout", "-q", "-b", "first")
        _run(*call, "add", "-A")
        _run(*call, "commit", "-q", "-m", "first")
    branch = f"b{len(list((where / 'refs' / 'heads').iterdir()))}"
    other = root.with_name("other")
    aside = ("git", "--git-dir", str(where), "--work-tree", str(other), *call[5:])
    other.mkdir()
    each(write)(other, files)
    # Another work tree makes the commit, so that this one sees only the checkout.
    environment = {"GIT_INDEX_FILE": str(root.with_name("index"))}
    _run(*aside, "add", "-A", env=environment)
    tree = _run(*aside, "write-tree", env=environment).strip()
    commit = _run(*aside, "commit-tree", tree, "-m", branch, "-p", "HEAD").strip()
    _run(*aside, "branch", branch, commit)
    shutil.rmtree(other)
    root.with_name("index").unlink()
    _run(*call, "checkout", "-q", "-f", branch)


def rsync(root: Path, files: Mapping[str, str]) -> None:
    """``rsync -a --checksum --delete``, or its calls: hidden files beside, renamed one after another."""
    if shutil.which("rsync") is None:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(exist_ok=True)
            beside = path.with_name(f".{path.name}.a1B2c3")
            write(beside, text)
            beside.rename(path)
        return
    new = root.with_name("new")
    new.mkdir()
    each(write)(new, files)
    # Without --checksum, rsync leaves out what has the same size and was written in the same second.
    _run("rsync", "-a", "--checksum", "--delete", f"{new}/", f"{root}/")
    shutil.rmtree(new)


def vim(root: Path, files: Mapping[str, str]) -> None:
    """Real vim if there is one, ``:wall`` over all files."""
    if shutil.which("vim") is None:
        each(vim_by_rename)(root, files)
        return
    commands = ["set nocompatible hidden"]
    for n, (name, text) in enumerate(files.items()):
        source = root.with_name(f"text-{n}")
        source.write_text(text)
        commands += [f"e {root / name}", "%d _", f"call setline(1, readfile('{source}'))"]
    root.with_name("script.vim").write_text("\n".join([*commands, "wall", "qall!", ""]))
    _run("vim", "-u", "NONE", "-es", "-S", str(root.with_name("script.vim")))


def _run(*words: str, env: Mapping[str, str] | None = None) -> str:
    return subprocess.run(
        words, check=True, capture_output=True, text=True, env={**os.environ, **(env or {})}
    ).stdout


EDITS: Final[Mapping[str, Edit]] = {
    "a shell": each(write),
    "helm template > FILE": each(in_pieces),
    "vim": vim,
    "vim, by rename": each(vim_by_rename),
    "vim, by copy": each(vim_by_copy),
    "VS Code": each(vs_code),
    "IntelliJ": each(jetbrains),
    "Emacs": each(emacs),
    "sed -i": sed,
    "git checkout": git,
    "rsync": rsync,
    "cp -r": cp,
    "rm -rf FOLDER/*, and anew": rebuild,
    "rm -rf FOLDER, and anew": rebuild_all,
    "mv NEW FOLDER": replace,
    "files of other names": other_names,
    "kustomize build > all.yaml": in_one_file,
    "a mounted ConfigMap": link_swap,
}

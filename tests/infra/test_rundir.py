from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from moongate.infra.rundir import (
    MAX_SOCKET_PATH,
    EnvoyFiles,
    NoRunDirectoryError,
    RunDirectory,
    TakenError,
    kept,
    runs,
)
from tests.deadline import DEADLINE_S


def test_nothing_is_left_of_a_run_that_ended(base: Path) -> None:
    with RunDirectory(base) as run:
        (run.path / "xds.sock").touch()

    assert not base.exists()


def test_a_run_is_nobody_elses_business(base: Path) -> None:
    with RunDirectory(base) as run:
        assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
        assert stat.S_IMODE(run.path.parent.stat().st_mode) == 0o700


def test_runs_live_side_by_side(base: Path) -> None:
    """A start sweeps what is dead, and only that."""
    with RunDirectory(base) as first:
        with RunDirectory(base) as second:
            assert first.path != second.path
            assert first.path.is_dir()

        assert first.path.is_dir()


def test_a_dead_runs_folder_is_removed_by_the_next_start(base: Path) -> None:
    dead = dead_run(base)

    with RunDirectory(base):
        assert not dead.exists()


def test_what_still_runs_from_a_dead_folder_is_killed(base: Path) -> None:
    """For an Envoy that the kernel did not end with its parent: one with file capabilities."""
    dead = dead_run(base)
    orphan = sleeper(str(dead / "envoy.json"))
    files_in(dead).write_record(orphan.pid)

    with RunDirectory(base):
        assert orphan.wait(DEADLINE_S) < 0
        assert not dead.exists()


@pytest.mark.parametrize("fault", ["another command", "another start"])
def test_a_process_that_took_over_the_number_is_let_live(base: Path, fault: str) -> None:
    """Process ids are used again; a stranger must not be killed for that."""
    dead = dead_run(base)
    stranger = sleeper("elsewhere" if fault == "another command" else str(dead / "envoy.json"))
    started = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19])
    if fault == "another start":
        started += 1
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record = {"pid": stranger.pid, "started": started, "boot": boot}
    (dead / "envoy-0.pid").write_text(json.dumps(record))

    with RunDirectory(base):
        assert psutil.Process(stranger.pid).is_running()
        assert not dead.exists()

    stranger.kill()
    stranger.wait()


def test_files_that_are_not_ours_stay(base: Path) -> None:
    """A base may be named by hand."""
    (base / "notes").mkdir(parents=True)
    with RunDirectory(base):
        pass

    assert (base / "notes").is_dir()


def test_a_base_that_others_can_write_is_refused(base: Path) -> None:
    """They could put their own socket where Envoy looks for its control plane."""
    base.mkdir()
    base.chmod(0o777)

    with pytest.raises(NoRunDirectoryError, match="mode 777"), RunDirectory(base):
        pass


def test_a_base_too_long_for_sockets_is_refused(base: Path) -> None:
    long = base / ("x" * MAX_SOCKET_PATH)

    with pytest.raises(NoRunDirectoryError, match="too long by") as refusal, RunDirectory(long):
        pass
    # Who names a folder is not helped by a variable that is not read then.
    assert "XDG_RUNTIME_DIR" not in str(refusal.value)


def test_a_long_runtime_folder_is_passed_over(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the folder for temporary files serves."""
    long = base / ("x" * MAX_SOCKET_PATH)
    long.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))

    with RunDirectory() as run:
        assert not run.path.is_relative_to(long)


def test_the_runs_that_live_are_known(base: Path) -> None:
    """``moongate status`` asks them, and none that is dead or is no run."""
    dead_run(base)
    (base / "89abcdef").write_text("no folder")
    (base / "else").mkdir()
    with RunDirectory(base) as first, RunDirectory(base) as second:
        assert runs(base) == sorted([first.path, second.path])

    assert runs(base) == []


def test_runs_are_not_looked_for_where_others_could_pose_as_one(base: Path) -> None:
    with RunDirectory(base):
        base.chmod(0o777)

        assert runs(base) == []

        base.chmod(0o700)


def dead_run(base: Path) -> Path:
    """A folder as a killed moongate leaves it."""
    folder = base / "0123abcd"
    base.mkdir(mode=0o700)
    folder.mkdir(mode=0o700)
    (folder / "xds.sock").touch()
    return folder


def sleeper(*words: str) -> subprocess.Popen[bytes]:
    """A process with ``words`` in its command line, that waits to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; print(flush=True); signal.pause()", *words],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
    return process


def files_in(folder: Path) -> EnvoyFiles:
    """The files of an Envoy in the folder of a run."""
    suffixes = {"bootstrap": "json", "admin": "sock", "record": "pid", "access_log": "out", "log": "err"}
    named = {name: folder / f"envoy-0.{suffix}" for name, suffix in suffixes.items()}
    return EnvoyFiles(**named, xds=folder / "xds-0.sock")


def test_a_folder_that_is_kept_stays_as_long_as_an_envoy_of_it_runs(base: Path) -> None:
    """No other start sweeps it, and the next one of its kind takes it over."""
    with RunDirectory(base, keep=True) as run:
        envoy = run.envoy("default/eg")
        process = sleeper(str(envoy.bootstrap))
        envoy.write_record(process.pid)

    with RunDirectory(base):
        assert kept(base) == [base]
    with RunDirectory(base, keep=True) as later:
        assert later.path == run.path
        assert later.envoys() == [envoy]
        assert envoy.running() == process.pid
        assert kept(base) == []

    process.kill()
    process.wait()
    assert kept(base) == []
    with RunDirectory(base):
        assert not run.path.exists()


@pytest.mark.parametrize("record", [None, "", '{"pid": 1'], ids=["no", "an empty", "half a"])
def test_an_envoy_that_was_not_recorded_is_found(base: Path, record: str | None) -> None:
    """moongate was killed just after its start, or the disk was full: it must not go on for ever."""
    with RunDirectory(base, keep=True) as run:
        envoy = run.envoy("default/eg")
        envoy.bootstrap.touch()
        process = sleeper("--config-path", str(envoy.bootstrap))
        if record is not None:
            envoy.record.write_text(record)

    assert kept(base) == [base]
    with RunDirectory(base, keep=True) as later:
        assert later.envoys() == [envoy]
        assert envoy.running() == process.pid

    process.kill()
    process.wait()
    assert kept(base) == []


def test_a_folder_that_is_kept_has_one_moongate(base: Path) -> None:
    with (
        RunDirectory(base, keep=True),
        pytest.raises(TakenError, match="--run-dir"),
        RunDirectory(base, keep=True),
    ):
        pass


def test_an_envoy_of_another_boot_is_none_of_ours(base: Path) -> None:
    """A folder on a disk outlives the machine's restart, and process ids and start times come again."""
    with RunDirectory(base, keep=True) as run:
        envoy = run.envoy("default/eg")
        process = sleeper(str(envoy.bootstrap))
        envoy.write_record(process.pid)
        record = json.loads(envoy.record.read_text())
        envoy.record.write_text(json.dumps(record | {"boot": "another"}))

        assert envoy.running() is None

    assert not base.exists()
    process.kill()
    process.wait()


def test_a_base_may_be_named_from_where_one_is(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Envoy that outlives its moongate may be adopted from elsewhere."""
    monkeypatch.chdir(base.parent)

    with RunDirectory(Path(base.name)) as run:
        assert run.path.parent == base

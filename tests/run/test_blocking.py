from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import httpx
import pytest

import moongate
from moongate import Laptop, ManifestError, PortError, Ref
from tests.core import gateway, http
from tests.ports import free_port

EG = Ref("Gateway", "default", "eg", "gateway.networking.k8s.io")


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("moongate")]


@pytest.mark.envoy
@pytest.mark.parametrize("loop", [False, True])
def test_code_without_asyncio_has_a_gateway(loop: bool) -> None:
    """Also where an event loop runs already, as in a notebook or in a fixture of an async test."""

    def use() -> None:
        with Laptop() as running:
            port = free_port()
            running.apply(gateway(http("web", port=port), gatewayClassName="moongate"))
            running.served()

            assert running.urls() == (f"http://127.0.0.1:{port}",)
            assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 404
            status = running.status(EG)
            assert status is not None
            assert status["status"]["conditions"]
            assert running.report()["gateways"]
            assert threads()

            running.delete(EG)
            assert running.urls() == ()

    async def use_in_a_loop() -> None:
        use()

    asyncio.run(use_in_a_loop()) if loop else use()

    assert threads() == []


def test_errors_are_raised_in_the_callers_thread_and_nothing_is_left(folder: Path) -> None:
    """Those of a call, and those of the block itself."""
    with Laptop(run_dir=folder / "r", envoy=Path("/bin/true")) as running:
        with pytest.raises(ManifestError):
            running.apply("{")
        with pytest.raises(TypeError, match="hand over the text of the file"):
            running.apply(Path("shop.yaml"))  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError):
            running.delete(1)  # pyright: ignore[reportArgumentType]

    assert threads() == []
    assert not (folder / "r").exists()
    with pytest.raises(RuntimeError):
        running.apply("")


@pytest.mark.envoy
def test_a_port_of_another_program_is_an_error_also_without_asyncio() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder, Laptop() as running:
        port = holder.getsockname()[1]

        with pytest.raises(PortError, match=f"Port {port} is taken"):
            running.apply(gateway(http("web", port=port), gatewayClassName="moongate"))

        assert running.urls() == ()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_in_the_block_ends_it(folder: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), Laptop(run_dir=folder / "r", envoy=Path("/bin/true")):
        raise error

    assert threads() == []


def test_a_start_that_fails_leaves_no_thread(folder: Path) -> None:
    (folder / "r").touch()
    with pytest.raises(moongate.NoRunDirectoryError), Laptop(run_dir=folder / "r", envoy=Path("/bin/true")):
        pass

    assert threads() == []


def test_ctrl_c_in_the_block_prints_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As of somebody who ends pytest: only pytest says something about it."""
    with pytest.raises(KeyboardInterrupt), Laptop(run_dir=folder / "r", envoy=Path("/bin/true")):
        raise KeyboardInterrupt

    assert caplog.text == ""
    assert threads() == []


def test_a_laptop_is_for_one_block(folder: Path) -> None:
    """Who tries to enter it again, inside or afterwards, does no harm to what it serves."""
    laptop = Laptop(run_dir=folder / "r", envoy=Path("/bin/true"))
    with laptop as running:
        with pytest.raises(RuntimeError, match="one `with` block"):
            laptop.__enter__()
        assert running.urls() == ()

    with pytest.raises(RuntimeError, match="one `with` block"):
        laptop.__enter__()
    with pytest.raises(RuntimeError, match="within `with Laptop"):
        running.urls()
    assert threads() == []

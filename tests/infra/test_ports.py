from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from moongate.infra.ports import explain_bind_failure, port_holder
from tests.ports import free_port


def test_a_privileged_port_comes_with_two_ways_out() -> None:
    explanation = explain_bind_failure(
        "Error adding/updating listener(s) default/eg/http: cannot bind '0.0.0.0:80': Permission denied\n"
    )

    assert explanation is not None
    assert explanation.startswith("Port 80 is reserved for root")
    assert "8080" in explanation
    assert "net.ipv4.ip_unprivileged_port_start=80" in explanation


def test_a_taken_port_names_who_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        explanation = explain_bind_failure(f"cannot bind '0.0.0.0:{port}': Address already in use")

    assert explanation is not None
    assert f"(process {os.getpid()})" in explanation


def test_a_taken_port_of_udp_names_who_has_it() -> None:
    """The same number may be free for TCP."""
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", port))
        message = f"cannot bind '0.0.0.0:{port}': Address already in use"

        explanation = explain_bind_failure(message, is_udp=True)

        assert port_holder(port) is None
    assert explanation is not None
    assert explanation.startswith(f"Port {port} of UDP is taken by")
    assert f"(process {os.getpid()})" in explanation


def test_a_port_of_an_envoy_that_was_left_says_how_to_end_it(tmp_path: Path) -> None:
    """Who has ended moongate with --keep-envoys does not think of its Envoys as of another program."""
    envoy = tmp_path / "envoy"
    envoy.symlink_to(Path(sys.executable).resolve())
    serve = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen(
        [envoy, "-I", "-S", "-c", serve], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())

        explanation = explain_bind_failure(f"cannot bind '0.0.0.0:{port}': Address already in use")

        process.communicate("\n")

    assert explanation is not None
    assert f"is taken by envoy (process {process.pid})" in explanation
    assert "`moongate stop` ends it" in explanation


def test_a_port_of_an_own_envoy_names_its_gateway() -> None:
    """The user did not start that process, and must not end it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        message = f"cannot bind '0.0.0.0:{port}': Address already in use"

        explanation = explain_bind_failure(message, {os.getpid(): "default/web"})

    assert explanation is not None
    assert explanation.startswith(f"Port {port} is still open for default/web")
    assert "end it" not in explanation


def test_a_port_of_another_users_process_says_how_to_find_it() -> None:
    """Nobody listens on it any more, which looks the same as not being allowed to see who does."""
    explanation = explain_bind_failure("cannot bind '[::]:1': Address already in use")

    assert explanation is not None
    assert "sudo ss -ltnp 'sport = :1'" in explanation


def test_a_foreign_address_is_reported() -> None:
    explanation = explain_bind_failure("cannot bind '192.0.2.1:8080': Cannot assign requested address")

    assert explanation is not None
    assert explanation.startswith("No interface of this machine has the address 192.0.2.1")
    assert "--bind" in explanation
    assert "spec.addresses" in explanation


def test_an_unforeseen_reason_is_passed_on() -> None:
    explanation = explain_bind_failure("cannot bind '0.0.0.0:8080': Too many open files")

    assert explanation == "Port 8080 cannot be bound on 0.0.0.0: Too many open files."


@pytest.mark.parametrize(
    "message",
    [
        "",
        "no such filter",
        "Proto constraint validation failed",
        "Incorrect configuration: %cannot bind '127.0.0.1:22': Address already in use.",
    ],
)
def test_other_failures_are_left_to_others(message: str) -> None:
    assert explain_bind_failure(message) is None


def test_the_holder_of_an_ipv6_port_is_found() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        holder = port_holder(server.getsockname()[1])

    assert holder is not None
    assert holder[0] == os.getpid()

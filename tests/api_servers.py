"""A real API server of Kubernetes for a test, with an etcd of its own, and nothing else of a cluster.

Its programs, ``etcd`` and ``kube-apiserver``, are looked for in the folder that KUBEBUILDER_ASSETS names, as
those of other projects are (``setup-envtest`` fetches them), and on the PATH.
"""

from __future__ import annotations

import os
import secrets
import shutil
import ssl
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.core import key_bytes, new_key
from tests.deadline import DEADLINE_S
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

START_SECONDS = 180
"""A machine may be busy; alone it takes about ten seconds."""


class ApiServer:
    """The API of a cluster without nodes, to somebody who may do everything."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def define(self, crd: Mapping[str, Any]) -> None:
        """Make a kind known, and return when the server serves it."""
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        answer = self._client.post(path, json=crd, params={"fieldValidation": "Strict"})
        assert answer.status_code == 201, answer.json()["message"]
        name = crd["metadata"]["name"]
        _wait_until(lambda: "Established" in self._true_conditions(f"{path}/{name}"))
        assert "NonStructuralSchema" not in self._true_conditions(f"{path}/{name}")
        _wait_until(lambda: self._client.get(self._path(crd)).status_code == 200)

    def answer(self, crd: Mapping[str, Any], document: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """What is answered to who would create a resource: the status code, and the resource as it would be
        stored, or why not."""
        answer = self._client.post(
            self._path(crd), json=document, params={"dryRun": "All", "fieldValidation": "Strict"}
        )
        return answer.status_code, answer.json()

    def put_status(
        self, crd: Mapping[str, Any], document: Mapping[str, Any], status: Mapping[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        """Create a resource, give it a status, and delete it: what is answered to the status."""
        created = self._client.post(self._path(crd), json=document)
        assert created.status_code == 201, created.json()["message"]
        path = f"{self._path(crd)}/{document['metadata']['name']}"
        answer = self._client.put(f"{path}/status", json=created.json() | {"status": status})
        self._client.delete(path)
        return answer.status_code, answer.json()

    def _true_conditions(self, path: str) -> set[str]:
        conditions: list[dict[str, str]] | None = self._client.get(path).json()["status"]["conditions"]
        return {condition["type"] for condition in conditions or () if condition["status"] == "True"}

    def _path(self, crd: Mapping[str, Any]) -> str:
        spec = crd["spec"]
        version = spec["versions"][0]["name"]
        return f"/apis/{spec['group']}/{version}/namespaces/default/{spec['names']['plural']}"


@contextmanager
def api_server(folder: Path) -> Generator[ApiServer]:
    """An API server on loopback, until the block ends.

    Args:
        folder: for its data and certificates.
    """
    etcd, program = _program("etcd"), _program("kube-apiserver")
    data, peers, port = free_port(), free_port(), free_port()
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    key = new_key()
    (folder / "sa.key").write_bytes(key_bytes(key))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "sa.pub").write_bytes(public)
    with ExitStack() as running:
        running.enter_context(
            _running(
                folder / "etcd.log",
                etcd,
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{data}",
                f"--advertise-client-urls=http://127.0.0.1:{data}",
                f"--listen-peer-urls=http://127.0.0.1:{peers}",
                "--unsafe-no-fsync",
            )
        )
        process = running.enter_context(
            _running(
                folder / "kube-apiserver.log",
                program,
                f"--etcd-servers=http://127.0.0.1:{data}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
                f"--secure-port={port}",
                f"--cert-dir={folder}",
                f"--token-auth-file={folder / 'tokens.csv'}",
                f"--service-account-key-file={folder / 'sa.pub'}",
                f"--service-account-signing-key-file={folder / 'sa.key'}",
                "--service-account-issuer=https://localhost",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--disable-admission-plugins=ServiceAccount",
            )
        )
        certificate = folder / "apiserver.crt"
        _wait_until(certificate.exists, process)
        context = ssl.create_default_context(cafile=str(certificate))
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(
            base_url=f"https://127.0.0.1:{port}", headers=headers, verify=context, timeout=60, trust_env=False
        ) as client:
            _wait_until(lambda: _answers(client, "/readyz"), process)
            _wait_until(lambda: _answers(client, "/api/v1/namespaces/default"))
            yield ApiServer(client)


@contextmanager
def _running(log: Path, *command: str) -> Generator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def _wait_until(claim: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not claim():
        assert process is None or process.poll() is None, "The API server has ended; its log says why."
        assert time.monotonic() < deadline, "The API server is not ready; its log is beside its data."
        time.sleep(0.1)  # no event tells that a foreign process is ready


def _program(name: str) -> str:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    path = shutil.which(name, path=assets) if assets else shutil.which(name)
    if path is None:
        where = f"in {assets} (KUBEBUILDER_ASSETS)" if assets else "on the PATH, and no KUBEBUILDER_ASSETS"
        pytest.skip(f"There is no {name} {where}.")
    return path

"""What ``run`` and ``validate`` say of a folder, without a process and without an Envoy.

Up to the first answer of an Envoy, a run is what it is here: the same files, world, statuses and log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from moongate.cli.manifests import translated
from moongate.run.laptop import Laptop
from moongate.sources.files import Files
from tests.campaign.fault import HERE
from tests.campaign.healthy import FILES, in_base64, rendered
from tests.e2e.certificates import Authority

_PORTS = {"PORT": "18080", "TLS_PORT": "18443", "SIDE_PORT": "18081", "UPSTREAM": "18082"}


def values() -> Mapping[str, str]:
    """What stands for the names in the files of the healthy folder."""
    certificate = Authority().sign("secure.test")
    return {
        **_PORTS,
        "CERTIFICATE": in_base64(certificate.pem),
        "KEY": in_base64(certificate.key),
        "DIGEST": in_base64(hashlib.sha1(b"open sesame").digest()),
    }


def write(folder: Path, files: Mapping[str, str | bytes | None], values: Mapping[str, str]) -> None:
    """Write the healthy folder, with some files in another state."""
    for name, content in {**FILES, **files}.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif content is not None:
            (folder / name).write_text(rendered(content, values).replace(HERE, ""), encoding="utf-8")


def said_by_validate(folder: Path) -> set[str]:
    """The diagnostics of a folder, each as one line."""
    translation = translated([str(folder)], config=None, namespace="default", bind="localhost")
    return {_on_one_line(str(diagnostic)) for diagnostic in translation.diagnostics}


class Cold(Laptop):
    """A laptop without Envoys, which takes one state of files and observes once."""

    def take(self, files: Files) -> None:
        self._put(dict(self._base))
        self._log.places_from(files.folder)
        for _ in self._loading(files.load(), files):
            pass
        statuses = self.world.pull().statuses
        self.statuses.update(statuses)
        self._log.statuses(statuses)
        self._log.transitions(self.statuses.transitions())
        self._log.references(self.statuses)


def said_by_run(folder: Path) -> set[str]:
    """What a run that starts on a folder logs of it, each as one line in the form of ``validate``."""
    with structlog.testing.capture_logs() as events:
        Cold().take(Files([str(folder)]))
    assert not [event for event in events if event["event"].endswith(".more")], "not all of it is logged"
    return {line for event in events if (line := _line(event))}


def _line(event: Mapping[str, Any]) -> str:
    if event["log_level"] not in {"warning", "error"}:
        return ""
    if event["event"] == "manifest":
        return _on_one_line(event["message"])
    if event["event"] == "status.degraded":
        parts = (event.get("at"), event["resource"], event.get("field"), event["message"])
        return ": ".join(filter(None, parts))
    # What follows for requests: each diagnostic that leads to it says so itself.
    return "" if event["event"] == "requests.refused" else str(event)


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ")

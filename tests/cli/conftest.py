"""Commands run in this process, and manifests for them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog

from moongate.cli import main

SHOP = (Path(__file__).parent.parent / "cases" / "prelude.yaml").read_text(encoding="utf-8")
"""A Gateway on port 8080, and a route to a Service with one endpoint."""

ONLY_ENVOY_REFUSES = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: refused}
spec:
  parentRefs: [{name: gateway}]
  hostnames: [refused.example.com]
  rules:
  - backendRefs: [{name: shop, port: 80}]
  - matches: [{path: {value: /x}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x, value: "%NOSUCH(a)%"}]}
    backendRefs: [{name: shop, port: 80}]
"""
"""A route whose second rule has a value that only Envoy looks into."""


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def line_of(text: str, line: str) -> int:
    """Where a line of a text is, from 1."""
    return 1 + text.splitlines().index(line)


Command = Callable[..., Ended]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Runs ``moongate`` with some arguments; ``stdin`` is what is piped into it."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("MOONGATE_DEBUG", raising=False)

    def run(*arguments: str | Path, stdin: str = "") -> Ended:
        piped = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        monkeypatch.setattr("sys.stdin", piped)
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    yield run
    # A command that serves sets up logging for its process.
    structlog.reset_defaults()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder of sound manifests, in ``shop.yaml``."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.yaml").write_text(SHOP)
    return folder

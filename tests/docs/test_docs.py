"""What the documentation shows is true: manifests are accepted, links lead somewhere, commands exist.

Rules
=====
1. A page's ``yaml`` blocks are put in force one after another, as a reader would. One that is named after a
   file (``yaml shop/gateway.yaml``) replaces that file; one without a name replaces what it defines.
2. Pages of how-to start from the manifests in ``docs/how-to/shop``, which are those of the tutorial.
3. ``yaml broken`` is wrong on purpose and is taken back after it; ``yaml part`` is an excerpt, only parsed.
4. Certificates are made by the reader with openssl, so a TLS Secret that a page does not hold is made here,
   and so is a ConfigMap with an authority.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from moongate import Translation, translate
from moongate.attach.gateways import LAPTOP_CLASS
from moongate.cli.app import COMMANDS, app
from moongate.sources.folder import Folder
from tests.e2e.certificates import Authority
from tools.gen_reference import REFERENCE, pages

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
FEATURES = ROOT / "src" / "moongate" / "features"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
SHOP = sorted((DOCS / "how-to" / "shop").glob("*.yaml"))

Document = dict[str, Any]


class Block(NamedTuple):
    """A fenced block: the words after the fence, and the text."""

    words: tuple[str, ...]
    text: str
    line: int

    @property
    def id(self) -> str:
        return f"line {self.line}"


_BLOCK = re.compile(
    r"^(?P<fence>```+)(?P<words>[^`\n]*)\n(?P<body>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\]\((?P<to>[^)\s]+)\)")


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in its order."""
    text = page.read_text("utf-8")
    for block in _BLOCK.finditer(text):
        yield Block(tuple(block["words"].split()), block["body"], text.count("\n", 0, block.start()) + 1)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


MANIFESTS = [page for page in PAGES if any(block.words[:1] == ("yaml",) for block in blocks(page))]


@pytest.mark.parametrize("page", MANIFESTS, ids=name)
def test_the_manifests_of_a_page_are_accepted(page: Path) -> None:
    """Each block, on top of those before it, is without a fault, and every condition says so."""
    files = {path.name: path.read_text("utf-8") for path in SHOP} if page.parent.name == "how-to" else {}

    for number, block in enumerate(blocks(page)):
        if block.words[:1] != ("yaml",):
            continue
        what = block.words[1] if len(block.words) > 1 else f"block {number}.yaml"
        if what == "part":
            assert list(yaml.load_all(block.text, yaml.CSafeLoader)), f"line {block.line}"
        elif what == "broken":
            assert faults(laid_on(files, f"block {number}.yaml", block.text)), (
                f"line {block.line} is not wrong"
            )
        else:
            files = laid_on(files, what.removeprefix("shop/"), block.text)
            assert faults(files) == [], f"line {block.line}"


def laid_on(files: dict[str, str], path: str, text: str) -> dict[str, str]:
    """The files after a reader has done what a block says."""
    present = {identity(document) for document in documents(text)}
    kept: dict[str, str] = {}
    for other, before in files.items():
        left = [document for document in documents(before) if identity(document) not in present]
        if other != path and left:
            kept[other] = yaml.safe_dump_all(left)
    return {**kept, path: text}


def faults(files: dict[str, str]) -> list[str]:
    """What the loader says of files, what the translation says, and conditions that are not well."""
    folder = Folder()
    for path, text in files.items():
        folder.update(path, text)
    messages = [str(diagnostic) for diagnostic in folder.diagnostics() if diagnostic.severity != "info"]
    written = [document for text in files.values() for document in documents(text)]
    translated = translate([gateway_class(), *written, *certificates(written)])
    messages += [f"{ref}: {problem.path}: {problem.message}" for ref, problem in translated.problems]
    return messages + unwell(translated)


def unwell(translated: Translation) -> list[str]:
    """Conditions of statuses that keep something out of force."""
    return [
        f"{status['kind']} {status['metadata']['name']}: {condition['type']}: {condition['message']}"
        for status in translated.status
        for condition in conditions(status["status"])
        if (condition["status"] == "False")
        != (condition["type"] in ("Conflicted", "PartiallyInvalid", "Warning"))
    ]


def conditions(status: Any) -> Iterator[Document]:
    if isinstance(status, dict):
        for key, value in status.items():  # pyright: ignore[reportUnknownVariableType]
            yield from value if key == "conditions" else conditions(value)
    elif isinstance(status, (list, tuple)):
        for value in status:  # pyright: ignore[reportUnknownVariableType]
            yield from conditions(value)


def documents(text: str) -> list[Document]:
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def identity(document: Document) -> tuple[str, str, str]:
    metadata: Document = document.get("metadata", {})
    return document["kind"], metadata.get("namespace", "default"), metadata.get("name", "")


def gateway_class() -> Document:
    """What every laptop has."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": LAPTOP_CLASS},
        "spec": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
    }


def certificates(manifests: Iterable[Document]) -> list[Document]:
    """A Secret for each certificate that a listener names and the page leaves to the reader's openssl."""
    manifests = list(manifests)
    held = {identity(document) for document in manifests}
    named = {
        (document["metadata"].get("namespace", "default"), ref["name"], listener.get("hostname", "localhost"))
        for document in manifests
        if document["kind"] in ("Gateway", "ListenerSet")
        for listener in document["spec"]["listeners"]
        for ref in listener.get("tls", {}).get("certificateRefs", ())
    }
    authority = Authority()
    authorities = {
        ref["name"]
        for document in manifests
        if document["kind"] == "BackendTLSPolicy"
        for ref in document["spec"]["validation"].get("caCertificateRefs", ())
    } | {ref["name"] for document in manifests for ref in client_authorities(document)}
    return [
        *(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name},
                "data": {"ca.crt": authority.pem.decode()},
            }
            for name in sorted(authorities)
        ),
        *(
            authority.sign(hostname).secret(secret, ns)
            for ns, secret, hostname in sorted(named)
            if ("Secret", ns, secret) not in held and secret in (hostname, hostname.split(".")[0])
        ),
    ]


def client_authorities(document: Document) -> Iterator[Document]:
    """The references of a Gateway to authorities of clients."""
    frontend: Document = document.get("spec", {}).get("tls", {}).get("frontend", {})
    asked = [frontend.get("default", {}), *(each["tls"] for each in frontend.get("perPort", ()))]
    for each in asked:
        yield from each.get("validation", {}).get("caCertificateRefs", ())


@pytest.mark.parametrize("page", [*PAGES, *sorted(FEATURES.glob("*.md"))], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of this repository, and to a heading that it has; what is elsewhere is not looked up."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    lost: list[str] = []
    for link in _LINK.finditer(text):
        to, _, heading = link["to"].partition("#")
        if "://" in to:
            continue
        target = (page.parent / to).resolve() if to else page
        if not target.exists() or (heading and heading not in headings(target)):
            lost.append(link["to"])

    assert lost == []


def headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path) -> None:
    """Every ``moongate …`` in a block of shell is a command with these options."""
    lines = [
        line.removeprefix("$ ").split(" #")[0]
        for block in blocks(page)
        if block.words[:1] in (("sh",), ("console",))
        for line in block.text.splitlines()
        if line.startswith("$ ") or block.words[:1] == ("sh",)
    ]
    wrong: list[str] = []
    for line in lines:
        for command, rest in re.findall(r"\bmoongate ([a-z]+)\b([^|#;&]*)", line):
            if command not in COMMANDS:
                wrong.append(line)
                continue
            known = {n for argument in app[command].assemble_argument_collection() for n in argument.names}
            options = re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest)
            wrong += [f"{line}: {option}" for option in options if option not in known]

    assert wrong == []


@pytest.mark.parametrize("page", [*PAGES], ids=name)
def test_one_sentence_a_line(page: Path) -> None:
    """So that diffs are sentences; tables and lists of one line are left alone."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    long = [
        line
        for line in text.splitlines()
        if not line.startswith(("|", "- ", "#")) and re.search(r"[a-z`)]\. [A-Z][a-z]", line)
    ]

    assert long == []


@pytest.mark.parametrize("folder", [d for d in sorted(DOCS.iterdir()) if d.is_dir()], ids=lambda d: d.name)
def test_every_page_is_on_its_index(folder: Path) -> None:
    """A page that no index names is read by nobody."""
    index = (folder / "README.md").read_text("utf-8")

    missing = [
        page.name
        for page in folder.glob("*.md")
        if page.name != "README.md" and f"({page.name})" not in index
    ]

    assert missing == []


@pytest.mark.envoy
@pytest.mark.slow
def test_the_test_that_a_how_to_shows_passes(tmp_path: Path) -> None:
    """As a reader has it: a file, a folder of manifests, pytest with pytest-asyncio."""
    page = DOCS / "how-to" / "use-moongate-in-pytest.md"
    shown = [block for block in blocks(page) if block.words[:1] == ("python",)]
    for block in shown:
        (tmp_path / block.words[1]).write_text(block.text, "utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_generated_pages_are_fresh() -> None:
    """``python tools/gen_reference.py`` writes them."""
    stale = [page for page, text in pages().items() if (REFERENCE / page).read_text("utf-8") != text]

    assert stale == []


def test_every_log_event_is_in_the_reference() -> None:
    """Alerts are written against them."""
    page = (DOCS / "reference" / "log-events.md").read_text("utf-8")
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "src" / "moongate").rglob("*.py"))

    said = set(
        re.findall(
            r'"((?:manifests|status(?!\.sock)|gateway|envoy(?!\.string|\.transport)|run|core)\.[a-z_]+)"',
            sources,
        )
    ) | {"manifest"}

    assert sorted(event for event in said if f"| `{event}` |" not in page) == []


def test_the_unit_for_systemd_is_one(tmp_path: Path) -> None:
    """As systemd judges it, where there is one; the program of the unit is not on this machine."""
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("there is no systemd-analyze")
    [unit] = (b for b in blocks(DOCS / "how-to" / "run-on-a-server.md") if b.words[:1] == ("ini",))
    file = tmp_path / unit.words[1]
    file.write_text(unit.text.replace("/opt/moongate/bin/moongate", "/bin/true"), "utf-8")

    judged = subprocess.run([analyze, "verify", file], capture_output=True, text=True, check=False)

    assert (judged.returncode, judged.stderr) == (0, "")
    assert all(
        option in unit.text for option in ("KillMode=process", "--keep-envoys", "RuntimeDirectoryPreserve")
    )

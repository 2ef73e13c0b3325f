"""What a file seems to be that is no manifest, and what to do with it.

Files get into a folder by mistake: a page of HTML that a download was answered with, a template, the values
of a Helm chart, a file with the markers of a merge conflict. A parser only says where it failed.

Rules
=====
1. No message quotes the file: a part of it may be a secret.
2. A text is only looked at when it is no manifest, so what is in a string of a manifest is never mistaken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

HELM = (
    "This is a template of Helm, not a manifest: '{{' is for Helm to fill in. "
    "Render it first, with `helm template`, and load what it prints."
)
KUSTOMIZATION = (
    "This is a kustomization, which moongate does not apply: it reads the manifests beside it as they are "
    "written. To have it applied, load what `kubectl kustomize FOLDER` prints."
)
SOPS = "This file is encrypted with SOPS. Load what `sops --decrypt FILE` prints."
_CONFLICT = (
    "This is the marker of a merge conflict: keep one of the two sides, and remove the lines that begin with "
    "'<<<<<<<', '=======' and '>>>>>>>'."
)
_HTML = (
    "This is a page of HTML, not a manifest: the server that it came from answered with a page, perhaps of "
    "an error or a login. Fetch the file again, from the address of the file itself."
)
_XML = (
    "This is XML, not a manifest: the server that it came from may have answered with an error. Fetch the "
    "file again."
)
_ANSWER = "This is the error of a server, instead of the file that was fetched. Fetch the file again."
_PATCH = "This is a patch, as `diff` prints it, not a manifest. Apply it to its file with `git apply`."
_AWAY = "Move it out of the folder, or begin its name with a dot, so that it is not read."
_PEM = (
    "This is a certificate or a key in PEM, not a manifest. Put it into a Secret, which "
    "`kubectl create secret tls NAME --cert FILE --key FILE --dry-run=client -o yaml` prints."
)
_OUTPUT = (
    "This seems to be an error message of a program, not a manifest. Run the program again, and see why it "
    "failed."
)
_PATH = (
    "This is a path, not a manifest. Hand over what is in the file, in Python by `Path(…).read_text()`; "
    "on a command line, name the file itself."
)
_TEMPLATE = "This is a template, not a manifest: '{%' is for a program to fill in. Render it first."
_BINARY = "This is no text. Manifests are YAML or JSON, in UTF-8."
_CHART = "This is the description of a Helm chart. Load what `helm template FOLDER` prints."
_COMPOSE = f"This seems to be a file of Docker Compose, not a manifest. {_AWAY}"
_WORKFLOW = f"This seems to be a workflow of a CI system, not a manifest. {_AWAY}"
_OPENAPI = f"This is a description in OpenAPI, not a manifest. {_AWAY}"
_NO_MANIFEST = (
    "There is neither apiVersion nor kind, so this is no manifest. If it holds the values of a Helm chart, "
    f"load what `helm template` prints; otherwise: {_AWAY[0].lower()}{_AWAY[1:]}"
)


class Guess(NamedTuple):
    """What a text seems to be.

    Args:
        message: that, and what to do.
        offset: where it can be seen, in characters from the beginning of the text.
    """

    message: str
    offset: int


_TEXTS = (
    (re.compile(r"^(?:<{7}|>{7}|\|{7})(?: .*)?$", re.MULTILINE), _CONFLICT),
    (re.compile(r"\A\s*(?:<!--[\s\S]*?-->\s*)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE), _HTML),
    (re.compile(r"\A\s*<\??[A-Za-z]"), _XML),
    (re.compile(r"\A\s*[45]\d\d[: ]\s?[A-Z][A-Za-z ]*\s*\Z"), _ANSWER),
    (re.compile(r"\A(?:diff --git |Index: |--- .*\n\+\+\+ |\+\+\+ |@@ )"), _PATCH),
    (re.compile(r"\A#!"), f"This is a script, not a manifest. {_AWAY}"),
    (re.compile(r"\A\s*-----BEGIN [A-Z ]+-----"), _PEM),
    (re.compile(r"\A\s*(?:\S+\.(?:ya?ml|json)|(?:\.{1,2}|~)?/\S*|[\w.-]+/)\s*\Z"), _PATH),
    (re.compile(r"\A(?:[Ee]rror\b|ERROR\b|fatal:|[Uu]sage:|Traceback )"), _OUTPUT),
    (re.compile(r"\{%[-+ ]"), _TEMPLATE),
    (re.compile("\0"), _BINARY),
)


def seeming(text: str) -> Guess | None:
    """What a text seems to be that cannot be read as a manifest; ``None`` if nobody knows."""
    for pattern, message in _TEXTS:
        match = pattern.search(text)
        if match is not None:
            return Guess(message, match.start())
    return None


def seeming_of_object(document: Mapping[str, Any]) -> str | None:
    """What an object seems to be that lacks its apiVersion or its kind; ``None`` if nobody knows."""
    return next((message for looks_like, message in _OBJECTS if looks_like(document)), None)


def is_encrypted(document: Mapping[str, Any]) -> bool:
    """Whether the values of a manifest are encrypted with SOPS."""
    return isinstance(document.get("sops"), dict)


def is_kustomization(document: Mapping[str, Any]) -> bool:
    """Whether an object is for Kustomize, which does not ask for ``apiVersion`` and ``kind``."""
    if "apiVersion" in document or "kind" in document:
        return str(document.get("apiVersion")).startswith("kustomize.config.k8s.io/")
    return any(isinstance(document.get(field), list) for field in _OF_KUSTOMIZE)


_OF_KUSTOMIZE = (
    "bases",
    "components",
    "configMapGenerator",
    "generators",
    "patches",
    "patchesStrategicMerge",
    "resources",
    "secretGenerator",
    "transformers",
)
"""Fields of a kustomization that are lists; each has one of them."""


def _has(**types: type) -> Callable[[Mapping[str, Any]], bool]:
    return lambda document: all(isinstance(document.get(name), kind) for name, kind in types.items())


def _lacks(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda document: not set(names) & document.keys()


_OBJECTS: tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...] = (
    (_has(apiVersion=str, name=str, version=str), _CHART),
    (_has(services=dict), _COMPOSE),
    (_has(jobs=dict), _WORKFLOW),
    (_has(openapi=str), _OPENAPI),
    (_has(swagger=str), _OPENAPI),
    (_lacks("apiVersion", "kind"), _NO_MANIFEST),
)

"""What is no manifest is called what it is, with what to do, and is never quoted."""

from __future__ import annotations

import pytest

from moongate.sources.folder import Folder

MANIFEST = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n"
LIST = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  metadata: {}\n  kind: Secret\n"
CANARY = "c4n4ry"


def faults(text: str, name: str = "a.yaml") -> list[tuple[int, str, str]]:
    """Line, severity and message of each fault of a file."""
    folder = Folder()
    folder.update(name, text)
    return [(each.place.line, each.severity, each.problem.message) for each in folder.diagnostics()]


MISTAKES = [
    ("path", "../shop/c4n4ry.yaml", 1, "This is a path"),
    ("path of a file here", "c4n4ry.yml\n", 1, "This is a path"),
    ("path of a folder", "c4n4ry/", 1, "This is a path"),
    ("conflict", f"a: b\n<<<<<<< HEAD\n{MANIFEST}=======\n  name: b\n>>>>>>> b\n", 2, "conflict"),
    ("conflict of whole files", f"<<<<<<< HEAD\n{MANIFEST}=======\nx\n>>>>>>> b\n", 1, "conflict"),
    ("conflict in diff3", MANIFEST + "||||||| base\n", 5, "conflict"),
    ("HTML", "<!DOCTYPE html>\n<html><head><title>c4n4ry</title></head></html>\n", 1, "page of HTML"),
    ("HTML that YAML can split", "<html>\n<title>404: c4n4ry</title>\n", 1, "page of HTML"),
    ("HTML after a comment", "<!-- c4n4ry: a -->\n<HTML>\n", 1, "page of HTML"),
    ("XML", "<?xml version='1.0'?>\n<Error><Code>c4n4ry: a</Code></Error>\n", 1, "XML"),
    ("an answer without a file", "404: Not Found", 1, "error of a server"),
    ("an answer in words", "403 Forbidden\n", 1, "error of a server"),
    ("a patch", "--- a/a.yaml\n+++ b/a.yaml\n@@ -1 +1 @@\n-c4n4ry: v1\n+c4n4ry: v2\n", 1, "git apply"),
    ("a patch of git", "diff --git a/a b/a\nindex 1..2 100644\nc4n4ry: {\n", 1, "git apply"),
    ("a script", "#!/bin/sh\nexport c4n4ry=a\nkubectl apply -f - <<EOF\n", 2, "script"),
    ("a key", "-----BEGIN PRIVATE KEY-----\nc4n4ry\n-----END PRIVATE KEY-----\n", 1, "create secret"),
    ("an error", "Error: INSTALLATION FAILED: c4n4ry not there\n", 1, "error message of a program"),
    ("an error of kubectl", 'Error from server (NotFound): "c4n4ry"\n', 1, "error message of a program"),
    ("a traceback", 'Traceback (most recent call last):\n  File "c4n4ry", line 1\n', 1, "error message"),
    ("a template", "{% if c4n4ry %}\na: b\n{% endif %}\n", 1, "'{%' is for a program"),
    ("Helm", MANIFEST.replace("name: a", "name: {{ .c4n4ry }}"), 4, "helm template"),
    ("Helm in quotes", MANIFEST.replace("name: a", "name: '{{ .c4n4ry }}'"), 4, "helm template"),
    ("Helm in a list", LIST.format("{name: '{{ .c4n4ry }}'}"), 5, "helm template"),
    ("values", "replicas: 1\nimage:\n  repository: c4n4ry\n", 1, "neither apiVersion nor kind"),
    ("a chart", "apiVersion: v2\nname: c4n4ry\nversion: 0.1.0\n", 1, "Helm chart"),
    ("Compose", "services:\n  web:\n    image: c4n4ry\n", 1, "Docker Compose"),
    ("a workflow", "on: push\njobs:\n  c4n4ry: {runs-on: a}\n", 1, "CI system"),
    ("OpenAPI", "openapi: 3.1.0\ninfo: {title: c4n4ry}\n", 1, "OpenAPI"),
    ("SOPS", f"{MANIFEST}data: {{a: 'ENC[c4n4ry]'}}\nsops: {{age: []}}\n", 1, "sops --decrypt"),
    ("JSON that is cut off", '{"apiVersion": "v1",\n "kind": "Namespace", "c4n4ry": {', 2, "cut off"),
    ("JSON that is cut off in a string", '{"apiVersion": "v1",\n "kind": "c4n4ry', 2, "cut off"),
    ("a list of JSON that is cut off", '[{"apiVersion": "c4n4ry"},', 1, "cut off"),
    ("bytes", "\x00\x01c4n4ry\x00", 1, "no text"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "words"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
def test_a_file_that_is_no_manifest_is_called_what_it_is(text: str, line: int, words: str) -> None:
    ((at, severity, message),) = faults(text)

    assert (at, severity) == (line, "error")
    assert words in message
    assert CANARY not in message
    assert "This is not YAML" not in message


@pytest.mark.parametrize(
    "text", [row[1] for row in MISTAKES if row[0] in {"HTML", "conflict of whole files", "bytes"}]
)
def test_a_file_named_json_is_looked_at_likewise(text: str) -> None:
    yaml, json = faults(text), faults(text, "a.json")

    assert json == yaml


@pytest.mark.parametrize(
    "text",
    [
        "resources:\n- c4n4ry.yaml\n",
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamePrefix: c4n4ry\n",
        "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n",
        "patches: [{path: c4n4ry.yaml}]\nnamespace: c4n4ry\n",
    ],
)
def test_a_kustomization_is_no_fault_of_its_folder(text: str) -> None:
    """A folder may be for Kustomize and for moongate; but what Kustomize would change is not in force."""
    ((line, severity, message),) = faults(text, "kustomization.yaml")

    assert (line, severity) == (1, "warning")
    assert "kubectl kustomize" in message
    assert CANARY not in message


def test_what_looks_like_a_mistake_in_a_manifest_is_none() -> None:
    """A page of HTML, a script or a conflict may be the value of a field."""
    text = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: |\n    <html>\n"
        "  b: |\n    #!/bin/sh\n  c: |\n    <<<<<<< HEAD\n    =======\n    >>>>>>> b\n"
        "  d: '404: Not Found'\n  e: '{{ x }}{% y %}'\n"
        "  f: |\n    services: {}\n"
    )

    assert faults(text) == []

"""Manifests for tests of sources."""

from __future__ import annotations


def backend(name: str, port: object = 8080) -> str:
    """A Backend in nine lines; the port stands at 9:15."""
    return (
        "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
        "kind: Backend\n"
        "metadata:\n"
        f"  name: {name}\n"
        "spec:\n"
        "  endpoints:\n"
        "    - ip:\n"
        "        address: 127.0.0.1\n"
        f"        port: {port}\n"
    )


def stream(*documents: str) -> str:
    """Several documents as one file."""
    return "---\n".join(documents)

"""Where this machine has the certificates of the authorities that it trusts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "SSL_CERT_FILE"
"""The environment variable that names another file, as for OpenSSL and for Python."""

_USUAL: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine; the reference's
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


def authorities_file(files: tuple[str, ...] = _USUAL) -> str:
    """The file with them: the one that the environment names, else the first that exists.

    Args:
        files: where systems have it.

    Returns:
        the first of the files if none exists: Envoy then says that it is missing.
    """
    if named := os.environ.get(VARIABLE):
        return str(Path(named).absolute())
    return next((file for file in files if Path(file).is_file()), files[0])

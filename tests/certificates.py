"""A certificate for 127.0.0.1 that nobody but us vouches for."""

from __future__ import annotations

from pathlib import Path

import trustme


def make(folder: Path) -> tuple[Path, Path]:
    """Write `cert.pem`, which holds the certificate and its authority, and `key.pem`; return both."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems) + authority.cert_pem.bytes())
    key.write_bytes(issued.private_key_pem.bytes())
    return cert, key

"""Certificates for the servers of the tests: an authority for this run, and the certificates it signs."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Files in PEM: a certificate, its key, and the authority that signed it."""

    certificate: Path
    key: Path
    authority: Path


def identity(folder: Path, name: str, *, authority: trustme.CA) -> Identity:
    """A certificate for one host name or address. Its key is readable for its owner only, as PostgreSQL demands."""
    folder.mkdir(parents=True, exist_ok=True)
    made = authority.issue_cert(name)
    files = Identity(certificate=folder / "cert.pem", key=folder / "key.pem", authority=folder / "ca.pem")
    files.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    files.key.touch(mode=0o600)
    files.key.write_bytes(made.private_key_pem.bytes())
    files.authority.write_bytes(authority.cert_pem.bytes())
    return files

"""URLs of broker, database and endpoint: syntax, certificates, passwords.

Pure functions over URLs; `scanfleet.config.settings` calls them, nothing here connects to anything.
"""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

# libpq: encrypted, and with these the server's certificate is checked, with the last one its name too
VERIFIED = "verify-full"
ENCRYPTED = ("require", "verify-ca", VERIFIED)


def check_url(url: str, *, scheme: str) -> None:
    """Raise ValueError, which quotes nothing of the URL, for one that would be misread."""
    if scheme in ("sqlite", "filesystem"):
        return
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    if "@" in parts.path or "@" in parts.query or parts.fragment:
        raise ValueError(_UNREADABLE)
    if scheme in ("redis", "rediss") and parts.query:
        # kombu would read `?ssl_cert_reqs=none` there, and silently drop the check of the certificate.
        raise ValueError("options after '?' are not taken: certificates have their own settings (broker_ca_file)")


_UNREADABLE = "cannot be read: in user and password write @ : / ? # % as %40 %3A %2F %3F %23 %25"


def password_of(url: str) -> str | None:
    """Return the password as the URL has it, percent-encoded or not."""
    parts = urlsplit(url)
    return parts.password or next(iter(parse_qs(parts.query).get("password", ())), None)


def readable(path: Path) -> Path:
    """Return the path of a certificate or key file. Raises ValueError when it cannot be read."""
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def verified(url: str, ca_file: Path) -> str:
    """Return a PostgreSQL URL that requires encryption and a valid certificate. Raises ValueError."""
    parts = urlsplit(url)
    if not parts.scheme.startswith("postgresql"):
        raise ValueError("database_ca_file: only postgresql:// is encrypted: remove one of the two settings")
    given = parse_qs(parts.query)
    if given.get("sslmode", [VERIFIED]) != [VERIFIED] or "sslrootcert" in given:
        raise ValueError("database_ca_file: the URL contradicts it (sslmode, sslrootcert): set it in one place")
    options = [f"sslrootcert={quote(str(ca_file))}"]
    if "sslmode" not in given:
        options.insert(0, f"sslmode={VERIFIED}")
    return f"{url}{'&' if parts.query else '?'}{'&'.join(options)}"


def redis_tls(*, ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> dict[str, object]:
    """Return options for rediss://. Without them kombu encrypts and checks nothing."""
    options: dict[str, object] = {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }
    files = {"ssl_ca_certs": ca_file, "ssl_certfile": cert_file, "ssl_keyfile": key_file}
    return options | {name: str(path) for name, path in files.items() if path is not None}


def unencrypted(url: str) -> str | None:
    """Return why a connection could be read or redirected on the way. None: it is encrypted and checked, or local."""
    parts = urlsplit(url)
    if parts.scheme == "rediss" or not parts.hostname or _is_local(parts.hostname):
        return None
    if parts.scheme == "redis":
        return f"the broker at {parts.hostname} is reached without encryption: use rediss://"
    if parts.scheme == "http":
        return f"the endpoint at {parts.hostname} receives the key and the images without encryption: use https://"
    if parts.scheme.startswith("postgresql"):
        return _open_database(parts)
    return None


def _open_database(parts: SplitResult) -> str | None:
    mode = parse_qs(parts.query).get("sslmode", ["prefer"])[-1]
    if mode == VERIFIED:
        return None
    flaw = "its certificate is not checked" if mode in ENCRYPTED else "encryption is left to the server"
    return f"the database at {parts.hostname}: {flaw}: set database_ca_file, or sslmode=verify-full in database_url"


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("/")

"""HTTP/1.1 and HTTP/2, behind TLS as in a hosted project."""

import logging
import os
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mirror.devstack import SupabaseLite
from mirror.devstack.node import find_program
from mirror.errors import ConfigError, Unreachable
from mirror.sync.targets import http
from mirror.sync.targets.rest import RestTarget
from tests.support.rest import PACKAGE

StartTls = Callable[..., str]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1, and its key in the same directory."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "permission-mirror tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    path.with_suffix(".key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def start_tls(api: SupabaseLite, certificate: Path) -> Iterator[StartTls]:
    """Return a function that puts TLS in front of the API and returns the new URL."""
    started: list[subprocess.Popen[str]] = []

    def start(*, http2: bool) -> str:
        process = subprocess.Popen(
            [find_program("node"), str(PACKAGE / "tls.mjs")],
            env={
                "TLS_TO": api.url,
                "TLS_CERTIFICATE": str(certificate),
                "TLS_KEY": str(certificate.with_suffix(".key")),
                "TLS_HTTP2": "1" if http2 else "",
            },
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        return f"https://127.0.0.1:{process.stdout.readline().strip()}"

    yield start
    for process in started:
        # Node from the virtual environment is a program that starts the real one.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(autouse=True)
def authorities() -> Iterator[None]:
    """Each test reads the trusted authorities anew."""
    http.certificates.cache_clear()
    yield
    http.certificates.cache_clear()


@pytest.mark.parametrize(("http2", "version"), [(True, "2.0"), (False, "1.1")])
def test_a_target_uses_the_servers_http_version_and_logs_no_key(
    api: SupabaseLite,
    start_tls: StartTls,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    http2: bool,  # noqa: FBT001 - of the parameters above
    version: str,
) -> None:
    """The handshake chooses the version; the library for HTTP/2 would log every header."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    caplog.set_level(logging.DEBUG)
    target = RestTarget(start_tls(http2=http2), api.secret_key)
    assert target.describe().epoch == 0
    assert target.http.response is not None
    assert target.http.response.headers["x-asked-with"] == version
    target.close()
    assert api.secret_key not in caplog.text


def test_the_trusted_authorities_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain opens a client after each error, and to read them takes longer than to connect."""
    client, read = http.HttpClient(), []
    client.open().close()
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: read.append("read"))
    client.open().close()
    client.twin().open().close()
    assert read == []


def test_a_server_without_a_trusted_certificate_gets_no_key(
    api: SupabaseLite, start_tls: StartTls, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker in between has a certificate that no authority signed.

    A certificate of the target that is trusted only now is accepted without a restart.
    """
    target = RestTarget(start_tls(http2=True), api.secret_key)
    target.http.pause = lambda _: None
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        target.describe()
    target.close()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert target.describe().epoch == 0
    target.close()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_without_certificates_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    """It is missing, or has something else."""
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(ConfigError, match="SSL_CERT_FILE names no file with certificates"):
        http.HttpClient().open()

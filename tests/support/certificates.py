"""Certificates for TLS on this machine."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def write_certificate(path: Path, host: str = "localhost") -> Path:
    """A file with a key and a certificate that signs itself: for localhost, or for another host."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _write(path, key, _describe("localhost", key.public_key(), "localhost", host).sign(key, hashes.SHA256()))


@dataclass(frozen=True)
class Authority:
    """A private certificate authority; `file` is what its users are given."""

    file: Path
    key: ec.EllipticCurvePrivateKey

    def issue(self, path: Path, host: str = "localhost", *, days_left: int = 1) -> Path:
        """A file with a key and its certificate for the host; with -1 it expired a day ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.key.public_key()
        described = _describe(host, key.public_key(), NAME, host, days_left=days_left).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False
        )
        return _write(path, key, described.sign(self.key, hashes.SHA256()))


NAME = "Private authority"


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def create_authority(file: Path) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    may_sign = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    described = (
        _describe(NAME, key.public_key(), NAME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(may_sign, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    file.write_bytes(described.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return Authority(file, key)


def _describe(
    subject: str, key: ec.EllipticCurvePublicKey, issuer: str, host: str = "", *, days_left: int = 1
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(_name(issuer), _name(subject), key, x509.random_serial_number())
        .not_valid_before(now - timedelta(days=3))
        .not_valid_after(now + timedelta(days=days_left))
    )
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    if host == "localhost":
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False) if host else builder


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _write(path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Path:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path

"""TLS keys and certificates, and the pins that stand for them.

Promises: a pin is the SHA-256 of a public key's SubjectPublicKeyInfo as ``cryptography`` encodes it
anew, so that one key has one pin however a certificate spells it; keys other than Ed25519, P-256 and
RSA of 3072 bits or more have no pin and are refused; private keys are written 0600, durably, and never
over an existing file.

A certificate's names and dates carry no authority in Mastodon: what we make is self-signed, valid for
100 years, and known by its pin.
"""

import base64
import binascii
import datetime
import hashlib
import os
import stat
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mastodon.host.durable import StrPath, write_new

PIN_BYTES = 32
PIN_CHARACTERS = 43
SMALLEST_RSA = 3072
LARGEST_FILE = 256 * 1024
_LIFETIME = datetime.timedelta(days=36525)
_BACKDATED = datetime.timedelta(days=1)

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class CertificateError(Exception):
    """A key, certificate or pin was refused; the text says which and why."""


class KeyRefused(CertificateError):
    """The key is of a type or size that Mastodon does not accept: Ed25519, P-256, or RSA of 3072 bits and more."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key and a certificate for it."""

    key: PrivateKey
    certificate: x509.Certificate

    @property
    def pin(self) -> bytes:
        """The pin by which others know this identity."""
        return spki_pin(self.certificate)

    @property
    def expires_ns(self) -> int:
        """When the certificate ends; 0 for one that ended before 1970."""
        return max(0, int(self.certificate.not_valid_after_utc.timestamp())) * 10**9

    def key_pem(self) -> bytes:
        """The unencrypted private key, PKCS #8 in PEM."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)


def make_identity(name: str, now: datetime.datetime, *, names: tuple[str, ...] = ()) -> Identity:
    """A new Ed25519 key and its self-signed certificate; ``names`` are DNS names that it also bears."""
    key = ed25519.Ed25519PrivateKey.generate()
    return Identity(key, self_signed(key, name, now, names=names))


def self_signed(
    key: PrivateKey, name: str, now: datetime.datetime, *, names: tuple[str, ...] = ()
) -> x509.Certificate:
    """A certificate for ``key``, signed by itself, good on both ends of a connection."""
    accepted(key.public_key())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def accepted(key: object) -> PublicKey:
    """The public key if Mastodon accepts its type and size, else KeyRefused."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, ec.SECP256R1):
            return key
        raise KeyRefused(f"elliptic curve {key.curve.name}: use Ed25519 or P-256")
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size >= SMALLEST_RSA:
            return key
        raise KeyRefused(f"RSA with {key.key_size} bits: at least {SMALLEST_RSA} are needed")
    raise KeyRefused(f"{type(key).__name__}: use Ed25519, P-256, or RSA of {SMALLEST_RSA} bits or more")


def spki_pin(subject: x509.Certificate | PublicKey) -> bytes:
    """The 32-byte pin of a public key, or of a certificate's."""
    if isinstance(subject, x509.Certificate):
        try:
            key: object = subject.public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyRefused(f"the certificate's public key cannot be read: {error}") from error
    else:
        key = subject
    encoded = accepted(key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest()


def pin_of_der(der: bytes) -> bytes:
    """The pin of a certificate as TLS hands it over."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise CertificateError(f"not a certificate: {error}") from error
    return spki_pin(certificate)


def pin_text(pin: bytes) -> str:
    """A pin as people see it: 43 characters of base64url."""
    if len(pin) != PIN_BYTES:
        raise CertificateError(f"a pin has {PIN_BYTES} bytes, not {len(pin)}")
    return base64.urlsafe_b64encode(pin).rstrip(b"=").decode("ascii")


def parse_pin(text: str) -> bytes:
    """The pin that ``pin_text`` wrote; any other spelling of it is refused."""
    try:
        pin = base64.urlsafe_b64decode(text.encode("ascii") + b"=")
        if len(text) != PIN_CHARACTERS or pin_text(pin) != text:
            raise ValueError
    except (ValueError, binascii.Error, CertificateError) as error:
        raise CertificateError(f"{text[:60]!r} is no pin: expected {PIN_CHARACTERS} characters of base64url") from error
    return pin


def write_identity(identity: Identity, key_path: StrPath, certificate_path: StrPath) -> None:
    """Write both files 0600; existing ones are left alone (durable.AlreadyThere)."""
    write_new(key_path, identity.key_pem())
    write_new(certificate_path, identity.certificate_pem())


def load_identity(key_path: StrPath, certificate_path: StrPath) -> Identity:
    """Read a key and its certificate, and make sure that they belong together."""
    key = load_key(key_path)
    certificate = load_certificate(certificate_path)
    if spki_pin(certificate) != spki_pin(key.public_key()):
        names = os.fspath(certificate_path), os.fspath(key_path)
        raise CertificateError("{} is not the certificate of the key in {}".format(*names))
    return Identity(key, certificate)


def load_key(path: StrPath) -> PrivateKey:
    """Read an unencrypted private key in PEM that others cannot read."""
    name = os.fspath(path)
    data = _read(name, private=True)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise CertificateError(f"{name}: the private key is encrypted; give one without a passphrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{name}: no private key in PEM format was found") from error
    if not isinstance(key, PrivateKey):
        raise KeyRefused(f"{name}: {type(key).__name__}: use Ed25519, P-256, or RSA of {SMALLEST_RSA} bits or more")
    try:
        accepted(key.public_key())
    except KeyRefused as error:
        raise KeyRefused(f"{name}: {error}") from error
    return key


def load_certificate(path: StrPath) -> x509.Certificate:
    """Read the first certificate of a PEM file; its key must be of an accepted type."""
    name = os.fspath(path)
    data = _read(name, private=False)
    try:
        certificate = x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise CertificateError(f"{name}: no certificate in PEM format was found") from error
    try:
        spki_pin(certificate)
    except KeyRefused as error:
        raise KeyRefused(f"{name}: {error}") from error
    return certificate


def _read(name: str, *, private: bool) -> bytes:
    try:
        with open(name, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise CertificateError(f"{name}: {error.strerror}") from error
    if private and mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise CertificateError(f"{name}: others may use this private key; run: chmod 600 {name}")
    if len(data) > LARGEST_FILE:
        raise CertificateError(f"{name}: larger than {LARGEST_FILE} bytes, so it is no key or certificate")
    return data

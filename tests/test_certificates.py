"""Keys, certificates and pins."""

import datetime
import hashlib
import os
import stat

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.host import certificates
from mastodon.host.certificates import CertificateError, KeyRefused
from mastodon.host.durable import AlreadyThere

NOW = datetime.datetime(2025, 6, 1, tzinfo=datetime.UTC)


class Making(SynchronousTestCase):
    """Self-signed certificates."""

    def test_identity(self) -> None:
        """An identity is an Ed25519 key with a certificate that it signed itself, good for a century."""
        identity = certificates.make_identity("backup", NOW, names=("backup.example.org",))
        self.assertIsInstance(identity.key, ed25519.Ed25519PrivateKey)
        identity.certificate.verify_directly_issued_by(identity.certificate)
        self.assertLess(identity.certificate.not_valid_before_utc, NOW)
        self.assertGreater(identity.certificate.not_valid_after_utc.year, 2120)
        names = identity.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["backup.example.org"])

    def test_accepted_key_types(self) -> None:
        """Ed25519, P-256 and RSA of 3072 bits have pins; P-384, smaller RSA and Ed448 are refused."""
        for good in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 3072)):
            certificate = certificates.self_signed(good, "x", NOW)
            self.assertEqual(certificates.spki_pin(certificate), certificates.spki_pin(good.public_key()))
        weak_rsa = rsa.generate_private_key(65537, 2048)
        self.assertRaises(KeyRefused, certificates.self_signed, weak_rsa, "x", NOW)
        for bad in (ec.generate_private_key(ec.SECP384R1()), weak_rsa, ed448.Ed448PrivateKey.generate()):
            self.assertRaises(KeyRefused, certificates.accepted, bad.public_key())


class Pins(SynchronousTestCase):
    """What stands for a key."""

    def test_pin_is_the_hash_of_the_public_key(self) -> None:
        """A pin is SHA-256 of the SubjectPublicKeyInfo: two certificates of one key have the same."""
        identity = certificates.make_identity("one", NOW)
        other = certificates.self_signed(identity.key, "two", NOW)
        encoded = identity.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(identity.pin, hashlib.sha256(encoded).digest())
        self.assertEqual(certificates.spki_pin(other), identity.pin)
        self.assertEqual(certificates.pin_of_der(other.public_bytes(Encoding.DER)), identity.pin)

    def test_known_pin(self) -> None:
        """The pin of RFC 8032's first Ed25519 key, computed by hand from the SPKI's DER."""
        public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
        expected = hashlib.sha256(bytes.fromhex("302a300506032b6570032100") + public).digest()
        self.assertEqual(certificates.spki_pin(ed25519.Ed25519PublicKey.from_public_bytes(public)), expected)

    @given(st.binary(min_size=32, max_size=32))
    def test_text_round_trip(self, pin: bytes) -> None:
        """A pin's text reads back."""
        text = certificates.pin_text(pin)
        self.assertEqual(len(text), certificates.PIN_CHARACTERS)
        self.assertEqual(certificates.parse_pin(text), pin)

    def test_other_spellings_are_refused(self) -> None:
        """Padding, other alphabets, stray bits, spaces and other lengths are refused, so a pin has one text."""
        text = certificates.pin_text(bytes(range(32)))
        self.assertTrue(text.endswith("8"))
        bad = [text + "=", text[:-1], text + "A", text[:-1] + "9", " " + text[1:], "+" + text[1:], "é" + text[1:], ""]
        for spelling in bad:
            self.assertRaises(CertificateError, certificates.parse_pin, spelling)

    def test_rubbish_is_no_certificate(self) -> None:
        """Bytes that are no certificate are a typed error."""
        for rubbish in (b"", b"\x30\x82", os.urandom(200)):
            self.assertRaises(CertificateError, certificates.pin_of_der, rubbish)


class Files(SynchronousTestCase):
    """PEM files."""

    def setUp(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        self.key = os.path.join(directory, "key.pem")
        self.certificate = os.path.join(directory, "certificate.pem")
        self.identity = certificates.make_identity("x", NOW)

    def write_key(self, data: bytes, mode: int = 0o600) -> None:
        with open(self.key, "wb") as file:
            file.write(data)
        os.chmod(self.key, mode)

    def test_round_trip(self) -> None:
        """What was written reads back, 0600, and is not written over."""
        certificates.write_identity(self.identity, self.key, self.certificate)
        self.assertEqual(certificates.load_identity(self.key, self.certificate).pin, self.identity.pin)
        self.assertEqual(stat.S_IMODE(os.stat(self.key).st_mode), 0o600)
        self.assertRaises(AlreadyThere, certificates.write_identity, self.identity, self.key, self.certificate)

    def test_key_of_another_certificate(self) -> None:
        """A certificate that does not belong to the key is refused, naming both files."""
        other = certificates.make_identity("y", NOW)
        certificates.write_identity(self.identity, self.key, self.certificate)
        os.unlink(self.certificate)
        with open(self.certificate, "wb") as file:
            file.write(other.certificate_pem())
        error = self.assertRaises(CertificateError, certificates.load_identity, self.key, self.certificate)
        self.assertIn(self.key, str(error))

    def test_key_that_others_may_read(self) -> None:
        """A private key that everybody may read is refused, with the command that helps."""
        self.write_key(self.identity.key_pem(), 0o644)
        error = self.assertRaises(CertificateError, certificates.load_key, self.key)
        self.assertIn("chmod 600", str(error))

    def test_encrypted_key(self) -> None:
        """An encrypted key is refused in words, not with a traceback of the library's."""
        encrypted = self.identity.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
        self.write_key(encrypted)
        self.assertIn("encrypted", str(self.assertRaises(CertificateError, certificates.load_key, self.key)))

    def test_unusable_files(self) -> None:
        """Missing, empty, oversized and foreign files, and keys of other types, are refused with the file's name."""
        contents = [b"", self.identity.certificate_pem(), b"x" * (certificates.LARGEST_FILE + 1)]
        ed448_key = ed448.Ed448PrivateKey.generate()
        for key in (ec.generate_private_key(ec.SECP384R1()), ed448_key):
            contents.append(certificates.Identity(key, self.identity.certificate).key_pem())  # type: ignore[arg-type]
        errors = [self.assertRaises(CertificateError, certificates.load_key, self.key)]
        for content in contents:
            self.write_key(content)
            errors.append(self.assertRaises(CertificateError, certificates.load_key, self.key))
        self.write_key(self.identity.key_pem())
        errors.append(self.assertRaises(CertificateError, certificates.load_certificate, self.key))
        for error in errors:
            self.assertIn(self.key, str(error))

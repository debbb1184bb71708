"""The admin secret's file: printable, opened by its passphrase alone, and not weaker than the format allows."""

import base64

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import cbor
from mastodon.sealed.admin_secret import (
    FIRST_LINE,
    HEAD,
    LOG_N_LEAST,
    AdminSecret,
    decrypt_secret,
    encrypt_secret,
    successor_hash,
    tenant_id,
)
from mastodon.sealed.errors import Forged, FormatError, Malformed, Unsupported
from tests.hostile import accepted_flips

SECRET = bytes(range(32))
FILE = encrypt_secret(SECRET, b"passphrase", b"s" * 16, LOG_N_LEAST)


def packed(content: str) -> bytes:
    return base64.b64decode("".join(content.split("\n")[1:]))


def unpacked(data: bytes) -> str:
    return FIRST_LINE + "\n" + base64.b64encode(data).decode() + "\n"


def changed(offset: int, value: bytes) -> str:
    data = bytearray(packed(FILE))
    data[offset : offset + len(value)] = value
    return unpacked(bytes(data))


class AdminSecretFileTests(SynchronousTestCase):
    def test_round_trip(self):
        """The passphrase opens it, however its lines were wrapped and whatever blank stands around."""
        for content in (FILE, FILE.replace("\n", "\r\n"), "\n\n  " + FILE + "\n", unpacked(packed(FILE))):
            self.assertEqual(decrypt_secret(content, b"passphrase"), SECRET)
        self.assertLess(max(len(line) for line in FILE.split("\n")), 60)
        self.assertTrue(FILE.isascii())

    def test_wrong_passphrase(self):
        """Another passphrase is told plainly."""
        error = self.assertRaises(Forged, decrypt_secret, FILE, b"passphrase ")
        self.assertIn("passphrase", str(error))

    def test_default_is_expensive(self):
        """A file is made with N = 2^17 unless a test asks for less."""
        self.assertEqual(packed(encrypt_secret(SECRET, b"p", b"s" * 16))[10], 17)

    def test_weak_or_absurd_cost(self):
        """log N outside 15 to 20 is refused before any memory is spent."""
        for log_n in (0, 14, 21, 255):
            self.assertRaises(Malformed, decrypt_secret, changed(10, bytes([log_n])), b"passphrase")

    def test_later_files(self):
        """Later versions, suites, critical flags and extensions are Unsupported; ignorable flags are only sealed."""
        for offset in (4, 5, 6, 7):
            self.assertRaises(Unsupported, decrypt_secret, changed(offset, b"\x40"), b"passphrase")
        self.assertRaises(Forged, decrypt_secret, changed(8, b"\x40"), b"passphrase")
        data, extension = packed(FILE), cbor.encode([[1, b"x"]])
        longer = bytearray(data[: HEAD.size] + extension + data[HEAD.size :])
        longer[14:16] = len(extension).to_bytes(2, "big")
        self.assertRaises(Unsupported, decrypt_secret, unpacked(bytes(longer)), b"passphrase")

    def test_malformed(self):
        """What is not the file is Malformed."""
        data = packed(FILE)
        for content in (
            "", FIRST_LINE, FILE.replace("mastodon", "Mastodon"), FILE + "!", unpacked(data[:-1]),
            unpacked(data + b"x"),
            unpacked(b""), unpacked(data[:40]), changed(0, b"X"), changed(11, b"x"), changed(14, b"\xff\xff"),
            changed(14, b"\0\1"), FIRST_LINE + "\n" + "ä" * 40, FIRST_LINE + "\n\udc80", "x" * 20_000,
        ):  # fmt: skip
            self.assertRaises(Malformed, decrypt_secret, content, b"passphrase")

    def test_every_flip(self):
        """No bit of the file can change."""
        data = packed(FILE)
        self.assertEqual(
            accepted_flips(lambda one: decrypt_secret(unpacked(one), b"passphrase"), data, FormatError, 47), {}
        )


class AdminKeysTests(SynchronousTestCase):
    def test_keys(self):
        """Order key, book key and tenant follow from the secret; their hashes are kept apart."""
        one, same, other = AdminSecret(SECRET), AdminSecret(SECRET), AdminSecret(bytes(32))
        for name in ("order_public", "book_key", "tenant"):
            self.assertEqual(getattr(one, name), getattr(same, name))
            self.assertNotEqual(getattr(one, name), getattr(other, name))
        self.assertEqual(one.tenant, tenant_id(one.order_public))
        self.assertNotEqual(one.tenant, successor_hash(one.order_public))
        self.assertRaises(Malformed, AdminSecret, bytes(31))

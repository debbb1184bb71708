"""Envelopes, with the system's gpg, and messages made to deceive it."""

import atexit
import contextlib
import glob
import os
import shutil
import subprocess
from functools import cache
from unittest import SkipTest

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.host import openpgp
from mastodon.host.openpgp import (
    BadKeyFile,
    BadPassphrase,
    Damaged,
    GpgMissing,
    NoSecretKey,
    NotEncrypted,
    OpenPGPError,
    WrongPassphrase,
    export_minimal,
    new_passkey,
    open_sealed,
    read_passkey,
    seal,
)

PAYLOAD = bytes(range(256))


class Keyring:
    """A gpg home with keys of the tests' own, made once for all of them."""

    def __init__(self) -> None:
        self.home = openpgp._make_home()
        self.run("--passphrase", "", "--quick-gen-key", "Paper <paper@example.org>", "ed25519", "cert", "never")
        self.paper = self.fingerprints()[0]
        self.run("--passphrase", "", "--quick-add-key", self.paper, "cv25519", "encr", "never")
        self.run("--passphrase", "", "--quick-gen-key", "Signer <signer@example.org>", "ed25519", "sign", "never")
        self.run("--passphrase", "", "--quick-gen-key", "Other <other@example.org>", "rsa2048", "encr,cert", "never")
        self.run("--passphrase", "", "--faked-system-time", "20200101T000000",
                 "--quick-gen-key", "Old <old@example.org>", "rsa2048", "encr,cert", "20200201T000000")  # fmt: skip
        self.run("--passphrase", "locked", "--quick-gen-key", "Locked <l@example.org>", "rsa2048", "encr,cert", "never")

    def run(self, *arguments: str, data: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", self.home, "--batch", "--yes", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    def fingerprints(self) -> list[str]:
        listing = self.run("--list-keys", "--with-colons").decode().splitlines()
        return [line.split(":")[9] for line in listing if line.startswith("fpr:")]

    def public(self, *names: str, armor: bool = False) -> bytes:
        return self.run("--export", *(["--armor"] if armor else []), *names)

    def secret(self, name: str, passphrase: str = "", armor: bool = False) -> bytes:
        arguments = ["--passphrase", passphrase, "--export-secret-keys", *(["--armor"] if armor else []), name]
        return self.run(*arguments)

    def revoked(self) -> bytes:
        """The paper key with its own revocation certificate."""
        with open(os.path.join(self.home, "openpgp-revocs.d", f"{self.paper}.rev"), "rb") as file:
            certificate = file.read().replace(b":-----BEGIN", b"-----BEGIN")
        return self.public("paper@") + self.run("--dearmor", data=certificate[certificate.index(b"-----BEGIN") :])

    def remove(self) -> None:
        openpgp._stop_agent(self.home)
        shutil.rmtree(self.home, ignore_errors=True)


@cache
def shared_keyring() -> Keyring:
    """The keys, made when the first test asks for them."""
    keyring = Keyring()
    atexit.register(keyring.remove)
    return keyring


class OpenPGPCase(SynchronousTestCase):
    def setUp(self) -> None:
        if shutil.which("gpg") is None:
            raise SkipTest("gpg is not installed")
        self.keyring = shared_keyring()


class Sealing(OpenPGPCase):
    """Round trips."""

    def test_passphrase(self) -> None:
        """A message for a passphrase opens with it, and with no other."""
        message = seal(PAYLOAD, passphrase=b"correct horse")
        self.assertNotIn(PAYLOAD[:16], message)
        self.assertEqual(open_sealed(message, passphrase=b"correct horse"), PAYLOAD)
        self.assertRaises(WrongPassphrase, open_sealed, message, passphrase=b"correct horsf")

    def test_passphrase_of_any_bytes(self) -> None:
        """Bytes that are no UTF-8, spaces at the ends and the longest passphrase are taken as they are."""
        for passphrase in (b" \xff\xfe\x80 tab\t ", bytes(range(1, 10)), b"x" * openpgp.LONGEST_PASSPHRASE):
            message = seal(PAYLOAD, passphrase=passphrase)
            self.assertEqual(open_sealed(message, passphrase=passphrase), PAYLOAD)
            self.assertRaises(WrongPassphrase, open_sealed, message, passphrase=passphrase[:-1])

    def test_gpg_itself_opens_it(self) -> None:
        """The passphrase that the user would type into gpg opens the message too: nothing was shortened."""
        message = seal(PAYLOAD, passphrase=b"x" * 100)
        self.assertEqual(self.keyring.run("--passphrase", "x" * 100, "--decrypt", data=message), PAYLOAD)

    def test_public_keys(self) -> None:
        """A message for two keys opens with either private key, and with no passphrase."""
        keys = [self.keyring.public("paper@", armor=True), self.keyring.public("other@")]
        message = seal(PAYLOAD, recipients=keys)
        for name in ("paper@", "other@"):
            self.assertEqual(open_sealed(message, secret_keys=[self.keyring.secret(name)]), PAYLOAD)
        self.assertRaises(NoSecretKey, open_sealed, message, passphrase=b"anything")

    def test_both(self) -> None:
        """A message for a key and a passphrase opens with either."""
        message = seal(PAYLOAD, passphrase=b"pass", recipients=[self.keyring.public("paper@")])
        self.assertEqual(open_sealed(message, passphrase=b"pass"), PAYLOAD)
        self.assertEqual(open_sealed(message, secret_keys=[self.keyring.secret("paper@", armor=True)]), PAYLOAD)
        self.assertRaises(WrongPassphrase, open_sealed, message, passphrase=b"word")

    def test_a_home_that_is_named(self) -> None:
        """With a home directory its keyring is used, and left as it is."""
        message = seal(PAYLOAD, recipients=[self.keyring.public("paper@")])
        self.assertEqual(open_sealed(message, homedir=self.keyring.home), PAYLOAD)
        self.assertIn(self.keyring.paper, self.keyring.fingerprints())

    def test_the_users_own_keyring(self) -> None:
        """With nothing else the user's own keyring opens it."""
        message = seal(PAYLOAD, recipients=[self.keyring.public("paper@")])
        self.patch(os, "environ", {**os.environ, "GNUPGHOME": self.keyring.home})
        self.assertEqual(open_sealed(message), PAYLOAD)

    def test_a_locked_private_key(self) -> None:
        """The passphrase may be the private key's; a wrong one is told."""
        message = seal(PAYLOAD, recipients=[self.keyring.public("l@example")])
        locked = [self.keyring.secret("l@example", "locked")]
        self.assertEqual(open_sealed(message, passphrase=b"locked", secret_keys=locked), PAYLOAD)
        self.assertRaises(WrongPassphrase, open_sealed, message, passphrase=b"wrong", secret_keys=locked)

    def test_nothing_is_left_behind(self) -> None:
        """No home directory and no agent outlives a call, failed ones included."""
        homes: list[str] = []
        make_home = openpgp._make_home

        def noted() -> str:
            homes.append(make_home())
            return homes[-1]

        self.patch(openpgp, "_make_home", noted)
        message = seal(PAYLOAD, passphrase=b"pass", recipients=[self.keyring.public("paper@")])
        self.assertRaises(WrongPassphrase, open_sealed, message, passphrase=b"wrong")
        self.assertRaises(BadKeyFile, export_minimal, b"rubbish")
        self.assertEqual([os.path.exists(home) for home in homes], [False] * 3)
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                command = file.read()
                self.assertFalse([home for home in homes if os.fsencode(home) in command], command)

    def test_no_unencrypted_mode(self) -> None:
        """Neither passphrase nor recipient is refused, and so is an empty list besides no passphrase."""
        self.assertRaises(OpenPGPError, seal, PAYLOAD)
        self.assertRaises(OpenPGPError, seal, PAYLOAD, recipients=[])

    def test_gpg_is_missing(self) -> None:
        """Without gpg the error says what to install."""
        self.patch(os, "environ", {**os.environ, "PATH": self.mktemp()})
        self.assertIn("apt install gnupg", str(self.assertRaises(GpgMissing, seal, PAYLOAD, passphrase=b"x")))


class Attacks(OpenPGPCase):
    """Messages that are not what an envelope has to be."""

    def setUp(self) -> None:
        super().setUp()
        self.key = [self.keyring.secret("paper@")]
        self.good = seal(PAYLOAD, passphrase=b"pass", recipients=[self.keyring.public("paper@")])

    def refused(self, message: bytes, error: type[OpenPGPError] = NotEncrypted) -> None:
        self.assertRaises(error, open_sealed, message, passphrase=b"pass")
        self.assertRaises(error, open_sealed, message, secret_keys=self.key)

    def test_promise_p5_unencrypted_literal(self) -> None:
        """A plain literal packet, which gpg would print with exit 0, is refused."""
        literal = self.keyring.run("--store", "--compress-algo", "none", data=PAYLOAD)
        self.assertIn(PAYLOAD, self.keyring.run("--decrypt", data=literal))
        self.refused(literal)

    def test_promise_p5_compressed_literal(self) -> None:
        """The same inside a compressed packet."""
        self.refused(self.keyring.run("--store", data=PAYLOAD * 100))

    def test_promise_p5_signed_only(self) -> None:
        """A signature is no seal."""
        self.refused(self.keyring.run("--sign", "--local-user", "signer@", data=PAYLOAD))

    def test_promise_p5_something_before_or_behind(self) -> None:
        """A second message, a literal or a loose byte around a good one is refused."""
        literal = self.keyring.run("--store", "--compress-algo", "none", data=PAYLOAD)
        for message in (self.good + self.good, self.good + literal, literal + self.good, self.good + b"\0"):
            self.refused(message)

    def test_promise_p5_the_second_line_of_defence(self) -> None:
        """What the packet walk lets through, gpg's own report still has to confirm."""
        literal = self.keyring.run("--store", "--compress-algo", "none", data=PAYLOAD)
        self.patch(openpgp, "_session_packets", lambda message: (1, 1))
        for message in (literal, self.good + self.good, self.good + literal):
            self.assertRaises(OpenPGPError, open_sealed, message, passphrase=b"pass")

    def test_promise_p5_bomb(self) -> None:
        """A small message that unpacks to much more than the limit is refused, not cut."""
        bomb = self.keyring.run("--passphrase", "pass", "-z", "9", "--symmetric", data=bytes(20_000_000))
        self.assertLess(len(bomb), 100_000)
        self.assertRaises(Damaged, open_sealed, bomb, passphrase=b"pass")

    def test_the_limit_is_exact(self) -> None:
        """As many bytes as the limit open, one more does not."""
        message = seal(bytes(100), passphrase=b"pass")
        self.assertEqual(open_sealed(message, passphrase=b"pass", limit=100), bytes(100))
        self.assertRaises(Damaged, open_sealed, message, passphrase=b"pass", limit=99)

    def test_promise_p5_flipped_and_cut(self) -> None:
        """Altered where it matters or cut, a message is an error; altered elsewhere it opens to the same."""
        sealed_from = len(self.good) - len(PAYLOAD)
        opened = 0
        for place in [*range(0, len(self.good), len(self.good) // 12), len(self.good) - 1]:
            altered = bytearray(self.good)
            altered[place] ^= 1
            try:
                payload = open_sealed(bytes(altered), secret_keys=self.key)
            except OpenPGPError:
                continue
            opened += 1
            self.assertEqual(payload, PAYLOAD)
            self.assertLess(place, sealed_from)
        self.assertLess(opened, 6)
        self.refused(self.good[:-1])

    def test_foreign_recipient(self) -> None:
        """A message for somebody else's key names that key."""
        message = seal(PAYLOAD, recipients=[self.keyring.public("other@")])
        self.assertRaises(NoSecretKey, open_sealed, message, secret_keys=self.key)

    def test_rubbish(self) -> None:
        """Text, armor, nothing and too much are refused without gpg."""
        self.patch(openpgp, "_own_home", None)
        armored = b"-----BEGIN PGP MESSAGE-----\n\n-----END PGP MESSAGE-----\n"
        for message in (b"", b"hello", armored, b"\xd2\xff", b"\xcb", bytes(openpgp.LARGEST_MESSAGE + 1)):
            self.assertRaises(NotEncrypted, open_sealed, message, passphrase=b"pass")

    @given(st.binary(max_size=300))
    def test_the_packet_walk_ends(self, data: bytes) -> None:
        """Any bytes are walked through or refused with ValueError."""
        try:
            tags = list(openpgp._packets(data))
        except ValueError:
            return
        self.assertLessEqual(len(tags), len(data))


class KeyFiles(OpenPGPCase):
    """Recipients."""

    def test_export_is_deterministic(self) -> None:
        """Armor and order in the file change nothing; several keys come out one by one."""
        paper = export_minimal(self.keyring.public("paper@"))
        self.assertEqual(export_minimal(self.keyring.public("paper@", armor=True)), paper)
        both = export_minimal(self.keyring.public("paper@") + self.keyring.public("other@"))
        swapped = export_minimal(self.keyring.public("other@") + self.keyring.public("paper@"))
        self.assertEqual(both, swapped)
        self.assertEqual(len(both), 2)
        self.assertIn(paper[0], both)

    def test_an_export_is_a_recipient(self) -> None:
        """What was exported can be sealed to, and exports to itself."""
        exported = export_minimal(self.keyring.public("paper@", armor=True))
        self.assertEqual(export_minimal(exported[0]), exported)
        message = seal(PAYLOAD, recipients=exported)
        self.assertEqual(open_sealed(message, homedir=self.keyring.home), PAYLOAD)

    def test_private_keys_are_refused(self) -> None:
        """A private key given by mistake is refused, armored or not."""
        for armor in (False, True):
            error = self.assertRaises(BadKeyFile, export_minimal, self.keyring.secret("paper@", armor=armor))
            self.assertIn("private key", str(error))

    def test_unusable_keys_are_refused(self) -> None:
        """Expired, revoked and signing-only keys, and files without a key, are refused with the reason."""
        cases = [
            (self.keyring.public("old@"), "has expired"),
            (self.keyring.revoked(), "was revoked"),
            (self.keyring.public("signer@"), "no subkey that can encrypt"),
            (self.keyring.public("paper@") + self.keyring.public("old@"), "has expired"),
            (b"", "no OpenPGP public key"),
            (b"hello", "no OpenPGP public key"),
            (b"x" * (openpgp.LARGEST_KEY_FILE + 1), "no key file"),
        ]
        for key_file, reason in cases:
            self.assertIn(reason, str(self.assertRaises(BadKeyFile, export_minimal, key_file)))
            self.assertRaises(BadKeyFile, seal, PAYLOAD, passphrase=b"pass", recipients=[key_file])

    def test_a_public_key_opens_nothing(self) -> None:
        """A public key given as the private one is refused with what to give."""
        message = seal(PAYLOAD, recipients=[self.keyring.public("paper@")])
        error = self.assertRaises(BadKeyFile, open_sealed, message, secret_keys=[self.keyring.public("paper@")])
        self.assertIn("--export-secret-keys", str(error))


class Passkeys(SynchronousTestCase):
    """Passphrase files."""

    def test_one_newline_is_taken_off(self) -> None:
        """One newline at the end goes, everything else stays."""
        self.assertEqual(read_passkey(b"secret\n"), b"secret")
        self.assertEqual(read_passkey(b"secret"), b"secret")
        self.assertEqual(read_passkey(b" s\xc3\xa9cret \xff"), b" s\xc3\xa9cret \xff")

    def test_refused(self) -> None:
        """Empty files, line breaks and zero bytes inside, and what gpg could not take whole."""
        longest = openpgp.LONGEST_PASSPHRASE
        for data in (b"", b"\n", b"a\nb", b"a\n\n", b"a\r\n", b"a\0b", b"a\rb", b"x" * (longest + 1)):
            self.assertRaises(BadPassphrase, read_passkey, data)
            self.assertRaises(BadPassphrase, seal, b"", passphrase=data.removesuffix(b"\n") or b"")

    def test_new_passkey(self) -> None:
        """A generated passkey has seven groups of four letters and digits, and reads back."""
        passkey = new_passkey(lambda count: bytes(range(count)))
        self.assertRegex(passkey, r"^([a-z2-7]{4}-){6}[a-z2-7]{4}$")
        self.assertEqual(read_passkey(passkey.encode() + b"\n"), passkey.encode())
        self.assertNotEqual(new_passkey(), new_passkey())

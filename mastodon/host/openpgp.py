"""Envelopes: OpenPGP messages, sealed and opened by the system's gpg.

Promises:

* what is sealed is encrypted with AES-256 to exactly the recipients and the passphrase that were given;
  without either nothing is sealed;
* what is opened was one encrypted, intact message and nothing besides: a message is taken apart by its
  packets before gpg sees it, then gpg has to report exactly one DECRYPTION_OKAY and exit 0 (``gpg -d`` of
  an unencrypted message exits 0 as well, and one cut at the size limit says DECRYPTION_OKAY);
* gpg works in a home directory of its own, 0700, in memory where the system has such a place, removed
  afterwards together with its agent. The one exception is opening with neither passphrase nor key file:
  that is what the admin's own keyring, agent and smart card are for.

A passphrase is bytes, taken as they are (Latin-1 on the way through python-gnupg); NUL, CR and LF are
refused because gpg would use what stands before them.
"""

import base64
import contextlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum

import gnupg

LARGEST_MESSAGE = 1024 * 1024
LARGEST_KEY_FILE = 1024 * 1024
# gpg-agent answers longer ones with an error or, in some versions, a shortened passphrase.
LONGEST_PASSPHRASE = 250
# A Unix socket's path may have 107 bytes; gpg's longest is this behind the home directory.
_LONGEST_HOME = 107 - len("/S.gpg-agent.browser")

_SEALING = [
    "--cipher-algo", "AES256", "--s2k-cipher-algo", "AES256", "--s2k-digest-algo", "SHA512",
    "--s2k-mode", "3", "--s2k-count", "65011712", "--compress-algo", "none", "--no-encrypt-to",
]  # fmt: skip
_OFFLINE = ["--no-auto-key-retrieve", "--disable-dirmngr"]
_AES256 = "9"
_BAD_PASSPHRASE = 11  # libgpg-error's number


class OpenPGPError(Exception):
    """gpg could not do it, or what it was given is not acceptable; the text says which."""


class GpgMissing(OpenPGPError):
    """The system has no gpg: install it (Debian: apt install gnupg)."""


class WrongPassphrase(OpenPGPError):
    """The passphrase does not open this."""


class BadPassphrase(OpenPGPError):
    """The passphrase is empty, too long, or has bytes inside that gpg would stop at."""


class NotEncrypted(OpenPGPError):
    """Not one whole encrypted OpenPGP message."""


class NoSecretKey(OpenPGPError):
    """The message is encrypted to keys whose private halves are not here."""


class Damaged(OpenPGPError):
    """The message is encrypted, but altered, cut, or larger inside than is allowed."""


class BadKeyFile(OpenPGPError):
    """The file has no public key to which backups can be sealed; the text says why."""


class Packet(IntEnum):
    """The OpenPGP packets that matter here (RFC 4880, section 4.3)."""

    PUBLIC_KEY_SESSION = 1
    PASSPHRASE_SESSION = 3
    SECRET_KEY = 5
    SECRET_SUBKEY = 7
    INTEGRITY_PROTECTED = 18
    AUTHENTICATED = 20


def seal(payload: bytes, *, passphrase: bytes | None = None, recipients: Sequence[bytes] = ()) -> bytes:
    """Encrypt to a passphrase, to the public keys in ``recipients`` (contents of key files), or to both."""
    if passphrase is None and not recipients:
        raise BadKeyFile("neither passphrase nor recipient: there is no unencrypted mode")
    text = None if passphrase is None else _passphrase_text(passphrase)
    with _own_home() as gpg:
        fingerprints = sorted({each for keys in recipients for each in _import_recipients(gpg, keys)})
        if fingerprints:
            options = _SEALING + (["--symmetric"] if text is not None else [])
            result = gpg.encrypt(
                payload, fingerprints, passphrase=text, armor=False, always_trust=True, extra_args=options
            )
        else:
            result = gpg.encrypt(payload, None, symmetric="AES256", passphrase=text, armor=False, extra_args=_SEALING)
        message = bytes(result.data)
        status = _status(result.stderr)
    if result.returncode != 0 or not _values(status, "END_ENCRYPTION"):
        raise OpenPGPError(f"gpg could not encrypt: {_last_words(result.stderr)}")
    if [value.split()[-1] for value in _values(status, "BEGIN_ENCRYPTION")] != [_AES256]:
        raise OpenPGPError("gpg did not encrypt with AES-256")
    expected = len(fingerprints), int(text is not None)
    if _session_packets(message) != expected:
        raise OpenPGPError("gpg did not encrypt to exactly the passphrase and keys that were given")
    return message


def export_minimal(key_file: bytes) -> list[bytes]:
    """The public keys of a key file, each whole but without other people's signatures, in a fixed order.

    The same keys give the same bytes, armored or not, whatever else was in the file's order.
    """
    with _own_home() as gpg:
        exported = []
        for fingerprint in _import_recipients(gpg, key_file):
            key = bytes(gpg.export_keys(fingerprint, armor=False, minimal=True))
            if not key:
                raise BadKeyFile(f"gpg could not export the key {fingerprint}")
            exported.append(key)
        return exported


def open_sealed(
    message: bytes,
    *,
    passphrase: bytes | None = None,
    homedir: str | None = None,
    secret_keys: Sequence[bytes] = (),
    limit: int = 64 * 1024,
) -> bytes:
    """Decrypt a message of at most ``limit`` bytes inside.

    The passphrase opens the message, or the private keys in ``secret_keys`` (contents of key files).
    With ``homedir`` that gpg home directory is used; with nothing at all, the user's own.
    """
    public_key_packets, passphrase_packets = _session_packets(message)
    text = None if passphrase is None else _passphrase_text(passphrase)
    if passphrase is not None and not secret_keys and homedir is None and not passphrase_packets:
        raise NoSecretKey("the envelope is sealed to OpenPGP keys alone: no passphrase opens it, a private key does")
    with contextlib.ExitStack() as stack:
        if homedir is not None and not secret_keys:
            gpg = _gpg(homedir)
        elif secret_keys or passphrase is not None:
            gpg = stack.enter_context(_own_home())
            for key in secret_keys:
                _import_secret(gpg, key)
        else:
            gpg = _gpg(None)
        options = [*_OFFLINE, "--max-output", str(limit)]
        result = gpg.decrypt(message, passphrase=text, extra_args=options)
        payload = bytes(result.data)
        status = _status(result.stderr)
    decrypted = len(_values(status, "DECRYPTION_OKAY"))
    if result.returncode == 0 and decrypted == 1 and len(payload) <= limit:
        return payload
    if decrypted:
        raise Damaged(f"the envelope holds more than {limit} bytes, or is not one whole message")
    raise _failure(status, result.stderr, bool(public_key_packets), bool(passphrase_packets) and text is not None)


def read_passkey(data: bytes) -> bytes:
    """The passphrase in a passkey file: its bytes up to one newline at the end."""
    passkey = data.removesuffix(b"\n")
    _passphrase_text(passkey)
    return passkey


def new_passkey(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """A new passphrase with 140 random bits, in groups that can be read aloud."""
    letters = base64.b32encode(random_bytes(20)).decode("ascii").lower()
    return "-".join(letters[start : start + 4] for start in range(0, 28, 4))


def _passphrase_text(passphrase: bytes) -> str:
    if not passphrase:
        raise BadPassphrase("the passphrase is empty")
    if len(passphrase) > LONGEST_PASSPHRASE:
        raise BadPassphrase(f"the passphrase has more than {LONGEST_PASSPHRASE} bytes")
    if re.search(rb"[\0\r\n]", passphrase):
        raise BadPassphrase("the passphrase has a line break or zero byte inside: put it on one line, saved Unix style")
    return passphrase.decode("latin-1")


def _failure(status: list[tuple[str, str]], stderr: str, to_keys: bool, tried: bool) -> OpenPGPError:
    """Why a message that is well-formed outside could not be opened."""
    errors = [value.split() for value in _values(status, "ERROR")]
    codes = [(words[0], int(re.sub(r"\D.*", "", words[1]) or 0) & 0xFFFF) for words in errors if len(words) > 1]
    locked = [code for place, code in codes if place.startswith("pkdecrypt")]
    if tried and any(place.startswith("symkey_decrypt") for place, _ in codes):
        return WrongPassphrase("the passphrase does not open the envelope")
    if _BAD_PASSPHRASE in locked:
        return WrongPassphrase("the passphrase does not open the private key")
    if locked:
        return NoSecretKey(f"gpg could not use the private key: {_last_words(stderr, 'public key decryption failed')}")
    if to_keys and _values(status, "NO_SECKEY"):
        keys = ", ".join(value.split()[0] for value in _values(status, "NO_SECKEY"))
        return NoSecretKey(f"the envelope is sealed to keys whose private halves are not here: {keys}")
    return Damaged(f"gpg could not decrypt the envelope: {_last_words(stderr)}")


@contextlib.contextmanager
def _own_home() -> Iterator[gnupg.GPG]:
    home = _make_home()
    try:
        yield _gpg(home)
    finally:
        _stop_agent(home)
        # The agent removes its sockets while it goes: a name that is gone already is no error, a file that stays is.
        shutil.rmtree(home, ignore_errors=True)
        if os.path.exists(home):
            shutil.rmtree(home)


def _make_home() -> str:
    for parent in ("/dev/shm", tempfile.gettempdir(), "/tmp"):
        if os.access(parent, os.W_OK | os.X_OK) and len(os.fsencode(parent)) + 16 <= _LONGEST_HOME:
            return tempfile.mkdtemp(prefix="gpg-", dir=parent)
    raise OpenPGPError("no directory for temporary files with a short name could be written to (/dev/shm, /tmp)")


def _stop_agent(home: str) -> None:
    """Where there is /run/user/N, gpg keeps the sockets of other homes there, in a directory for each."""
    elsewhere = os.path.isdir(f"/run/user/{os.getuid()}")
    if not elsewhere and not os.path.exists(os.path.join(home, "S.gpg-agent")):
        return
    actions = [["--kill", "gpg-agent"]] + ([["--remove-socketdir"]] if elsewhere else [])
    for action in actions:
        with contextlib.suppress(OSError):
            subprocess.run(
                ["gpgconf", "--homedir", home, *action],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip


def _gpg(home: str | None) -> gnupg.GPG:
    if shutil.which("gpg") is None:
        raise GpgMissing("gpg is not installed; install it (Debian: apt install gnupg) and try again")
    environment = dict(os.environ)
    if "GPG_TTY" not in environment:
        with contextlib.suppress(OSError):
            environment["GPG_TTY"] = os.ttyname(0)  # where pinentry may ask
    try:
        options = ["--export-options", "no-export-attributes"]
        return gnupg.GPG(gnupghome=home, env=environment, options=options)
    except (OSError, ValueError) as error:
        raise OpenPGPError(f"gpg does not work here: {error}") from error


def _import_recipients(gpg: gnupg.GPG, key_file: bytes) -> list[str]:
    """Bring the public keys of one file into the home; their fingerprints, each good for encryption now."""
    if len(key_file) > LARGEST_KEY_FILE:
        raise BadKeyFile(f"larger than {LARGEST_KEY_FILE} bytes: that is no key file")
    if b"PRIVATE KEY BLOCK" in key_file or _holds_secret(key_file):
        raise BadKeyFile("this is a private key; give the public one (gpg --export --armor KEY)")
    result = gpg.import_keys(key_file)
    if any(value.split()[9] != "0" for value in _values(_status(result.stderr), "IMPORT_RES")):
        raise BadKeyFile("this is a private key; give the public one (gpg --export --armor KEY)")
    fingerprints = sorted({each for each in result.fingerprints if each})
    if not fingerprints:
        raise BadKeyFile("no OpenPGP public key was found in it (expected: gpg --export --armor KEY)")
    known = {key["fingerprint"]: key for key in gpg.list_keys(keys=fingerprints)}
    for fingerprint in fingerprints:
        if fingerprint not in known:
            raise BadKeyFile(f"gpg cannot use the key {fingerprint}")
        _demand_usable(known[fingerprint])
    return fingerprints


def _demand_usable(key: dict[str, str]) -> None:
    name = key["fingerprint"]
    reasons = {"r": "was revoked", "e": "has expired", "i": "is not valid", "d": "is disabled"}
    if key["trust"] in reasons:
        raise BadKeyFile(f"the key {name} {reasons[key['trust']]}")
    if "E" not in key["cap"]:  # a capital letter: of all its subkeys that are usable now
        raise BadKeyFile(f"the key {name} has no subkey that can encrypt now")


def _import_secret(gpg: gnupg.GPG, key_file: bytes) -> None:
    if len(key_file) > LARGEST_KEY_FILE:
        raise BadKeyFile(f"larger than {LARGEST_KEY_FILE} bytes: that is no key file")
    result = gpg.import_keys(key_file)
    if not any(value.split()[9] != "0" for value in _values(_status(result.stderr), "IMPORT_RES")):
        raise BadKeyFile("no OpenPGP private key was found in it (expected: gpg --export-secret-keys KEY)")


def _holds_secret(key_file: bytes) -> bool:
    """Whether a binary key file has private parts: they are not even shown to gpg."""
    with contextlib.suppress(ValueError):
        return any(tag in (Packet.SECRET_KEY, Packet.SECRET_SUBKEY) for tag in _packets(key_file))
    return False


def _session_packets(message: bytes) -> tuple[int, int]:
    """How many keys and passphrases open a message; NotEncrypted unless it is that and one sealed packet."""
    if len(message) > LARGEST_MESSAGE:
        raise NotEncrypted(f"larger than {LARGEST_MESSAGE} bytes: that is no envelope")
    try:
        tags = list(_packets(message))
    except ValueError as error:
        raise NotEncrypted(f"not a binary OpenPGP message: {error}") from error
    sessions = tags[:-1]
    if (
        not sessions
        or any(tag not in (Packet.PUBLIC_KEY_SESSION, Packet.PASSPHRASE_SESSION) for tag in sessions)
        or tags[-1] not in (Packet.INTEGRITY_PROTECTED, Packet.AUTHENTICATED)
    ):
        raise NotEncrypted("not one encrypted OpenPGP message and nothing besides")
    return sessions.count(Packet.PUBLIC_KEY_SESSION), sessions.count(Packet.PASSPHRASE_SESSION)


def _packets(data: bytes) -> Iterator[int]:
    """The tags of the packets that fill ``data`` exactly (RFC 4880, section 4.2)."""
    place = 0
    while place < len(data):
        head = data[place]
        if not head & 0x80:
            raise ValueError("a packet does not begin where it should")
        place += 1
        if head & 0x40:
            tag = head & 0x3F
            place = _skip_new(data, place)
        else:
            tag = head >> 2 & 0x0F
            size = (1, 2, 4, 0)[head & 3]
            if not size:
                raise ValueError("a packet without a length")
            place += size + int.from_bytes(_exactly(data, place, size))
        if place > len(data):
            raise ValueError("a packet is cut short")
        yield tag


def _skip_new(data: bytes, place: int) -> int:
    """The end of a new-format packet's body, whose length, perhaps in parts, begins at ``place``."""
    while True:
        first = _exactly(data, place, 1)[0]
        if first < 192:
            return place + 1 + first
        if first < 224:
            return place + 2 + ((first - 192) << 8) + _exactly(data, place + 1, 1)[0] + 192
        if first == 255:
            return place + 5 + int.from_bytes(_exactly(data, place + 1, 4))
        place += 1 + (1 << (first & 0x1F))


def _exactly(data: bytes, place: int, size: int) -> bytes:
    part = data[place : place + size]
    if len(part) != size:
        raise ValueError("a packet is cut short")
    return part


def _status(stderr: str) -> list[tuple[str, str]]:
    """gpg's machine-readable lines: keyword and the rest."""
    lines = [line.removeprefix("[GNUPG:] ") for line in stderr.split("\n") if line.startswith("[GNUPG:] ")]
    return [(keyword, rest) for keyword, _, rest in (line.strip().partition(" ") for line in lines)]


def _values(status: list[tuple[str, str]], keyword: str) -> list[str]:
    return [value for key, value in status if key == keyword]


def _last_words(stderr: str, about: str = "") -> str:
    lines = [line.removeprefix("gpg: ").strip() for line in stderr.split("\n") if line.startswith("gpg: " + about)]
    return lines[-1] if lines else "no reason was given"

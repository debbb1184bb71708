"""What opens envelopes: a passphrase, private keys in files, or gpg's own keyring with its agent and cards."""

import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mastodon.host.openpgp import OpenPGPError, open_sealed, read_passkey
from mastodon.restore.errors import RestoreError
from mastodon.restore.trust import EnvelopeClosed, OpenEnvelope

FILE_LIMIT = 1024 * 1024
ADMIN_PASSPHRASE = "the passphrase of the admin secret"


def with_passphrase(passphrase: bytes) -> OpenEnvelope:
    """Opens what is sealed to a passphrase."""

    def open_envelope(envelope: bytes) -> bytes:
        try:
            return open_sealed(envelope, passphrase=passphrase)
        except OpenPGPError as error:
            raise EnvelopeClosed(str(error)) from None

    return open_envelope


def with_secret_keys(keys: Sequence[bytes], passphrase: bytes | None = None) -> OpenEnvelope:
    """Opens what is sealed to OpenPGP keys whose private halves were given; ``passphrase`` unlocks them."""

    def open_envelope(envelope: bytes) -> bytes:
        try:
            return open_sealed(envelope, secret_keys=keys, passphrase=passphrase)
        except OpenPGPError as error:
            raise EnvelopeClosed(str(error)) from None

    return open_envelope


def with_keyring(homedir: str | None = None) -> OpenEnvelope:
    """Opens what the user's own gpg opens; it may ask for a PIN or passphrase."""

    def open_envelope(envelope: bytes) -> bytes:
        try:
            return open_sealed(envelope, homedir=homedir)
        except OpenPGPError as error:
            raise EnvelopeClosed(str(error)) from None

    return open_envelope


def choose_opener(passkey_file: Path | None, key_files: Sequence[Path], passkey: bytes = b"") -> OpenEnvelope:
    """The way that the options name: files first, then a passkey known otherwise, else the keyring."""
    passphrase = read_passphrase(passkey_file) if passkey_file is not None else None
    if key_files:
        return with_secret_keys([read_file(path) for path in key_files], passphrase)
    if passphrase is not None:
        return with_passphrase(passphrase)
    return with_passphrase(passkey) if passkey else with_keyring()


def read_passphrase(path: Path) -> bytes:
    """The passphrase in a file: its bytes up to one newline at the end. Raises RestoreError."""
    try:
        return read_passkey(read_file(path))
    except OpenPGPError as error:
        raise RestoreError(f"{path}: {error}") from None


def ask_passphrase(what: str, instead: str, *, twice: bool = False) -> bytes:
    """A passphrase typed at the terminal. Raises RestoreError where there is none, saying what to give ``instead``."""
    if not sys.stdin.isatty():
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            raise RestoreError(f"{what} is needed, and there is no terminal to ask at: give {instead}") from None
    try:
        text = getpass.getpass(f"{what[0].upper()}{what[1:]}: ")
        if twice and getpass.getpass("Once more: ") != text:
            raise RestoreError("the two passphrases differ: nothing was done")
    except EOFError:
        text = ""
    if not text:
        raise RestoreError(f"{what} is needed: type it, or give {instead}")
    return text.encode("utf-8", "surrogateescape")


def read_file(path: Path) -> bytes:
    """A small file's bytes. Raises RestoreError."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise RestoreError(f"{path}: {error.strerror}") from None
    if len(data) > FILE_LIMIT:
        raise RestoreError(f"{path}: larger than {FILE_LIMIT} bytes: that is not the file that was meant")
    return data

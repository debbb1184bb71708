"""The list of an admin's client keys, on the restore port.

protocol-spec.md §17.
"""

from dataclasses import dataclass
from typing import ClassVar

from mastodon.sealed.enrolment import Role
from mastodon.sealed.schema import choice, key, octets, text, unsigned
from mastodon.wire.restore_verbs import RestoreMessage, RestoreReply, RestoreVerb


@dataclass(frozen=True, slots=True)
class CertificatesRequest(RestoreMessage):
    """The tenant's registered client keys, in the order of registration."""

    KIND: ClassVar = RestoreVerb.CERTIFICATES

    request: int = key(0, unsigned(32))


@dataclass(frozen=True, slots=True)
class CertificateItem(RestoreMessage):
    """A registered client key, when it was registered by the server's time, and when it ends (0: it does not)."""

    KIND: ClassVar = RestoreReply.CERTIFICATE

    request: int = key(0, unsigned(32))
    pin: bytes = key(1, octets(32))
    role: Role = key(2, choice(Role))
    label: str = key(3, text(64))
    added_ns: int = key(4, unsigned())
    expires_ns: int = key(5, unsigned())

"""What the ports hear from peers and nobody answers: for whoever looks out (lookout.py). By itself nobody listens."""

from cryptography import x509

from mastodon.catalogue.interface import Certificate
from mastodon.wire.messages import Hello


class Heard:
    """Each is told as it happens, in the reactor's thread."""

    def checked_in(self, hello: Hello) -> None:
        """A machine proved who it is."""

    def too_old(self, hello: Hello) -> None:
        """A machine proved who it is, and cannot be spoken with."""

    def refused(self, port: str, host: str) -> None:
        """Somebody's credentials were wrong, from this address."""

    def came(self, registered: Certificate, shown: x509.Certificate) -> None:
        """A client with a registered key came, and showed this certificate for it."""

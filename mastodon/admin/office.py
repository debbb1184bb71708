"""The admin at work: connects, unlocks the admin secret when it must, reads and swaps the book, signs statements.

The secret is unlocked only where the book is read or written, or a statement made. A book older than the newest seen,
or of another history, is refused.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from mastodon.admin.cards import Cards, card_with_pairs
from mastodon.admin.home import Home, Server
from mastodon.host.socket_tls import TLSStream, connect
from mastodon.restore.edge import tell
from mastodon.restore.errors import NotThere, Refused, RestoreError
from mastodon.restore.keys import read_file
from mastodon.restore.memory import Memory
from mastodon.restore.server_source import ServerSource
from mastodon.sealed.admin_secret import AdminSecret, decrypt_secret
from mastodon.sealed.book import SALT_LENGTH, BookContent, Generation, make_book, open_book
from mastodon.sealed.errors import FormatError
from mastodon.sealed.record import record_hash
from mastodon.sealed.statement import LIFE_NS, Statement, StatementVerb
from mastodon.wire.restore_messages import WhoItem
from mastodon.wire.restore_verbs import ALPN

ATTEMPTS = 3
TIMEOUT_S = 60.0

Change = Callable[[BookContent], BookContent]


@dataclass(frozen=True, slots=True)
class ReadBook:
    """The newest book, verified and opened; version 0: there is none yet."""

    version: int
    hash: bytes
    content: BookContent


class Office:
    """What the commands share. ``passphrase`` asks for the admin secret's when it is needed."""

    def __init__(
        self, home: Home, passphrase: Callable[[], bytes], random_bytes: Callable[[int], bytes],
        source: ServerSource | None = None,
    ) -> None:  # fmt: skip
        self.home = home
        self._passphrase = passphrase
        self.random = random_bytes
        self._given_source = source

    @cached_property
    def cards(self) -> Cards:
        """The local cache of the book."""
        return Cards(self.home)

    @cached_property
    def memory(self) -> Memory:
        """The newest that was ever seen."""
        return Memory(self.home.heads)

    @cached_property
    def source(self) -> ServerSource:
        """The server; connected when it is first asked."""
        return self._given_source or server_source(self.home, self.home.server())

    def greet(self, *, allow_older: bool = False) -> WhoItem:
        """Who we are to the server, and how far its ledger is: one that went back is told."""
        who = self.source.who()
        if not self.memory.see_ledger(who.ledger_head, take=allow_older):
            tell(
                "the server's ledger is older, or another, than the one it showed before: ask the operator why. "
                "--allow-older takes this one from now on"
            )
        return who

    @cached_property
    def secret(self) -> AdminSecret:
        """The admin secret, unlocked. Raises RestoreError."""
        try:
            content = read_file(self.home.secret).decode("utf-8", "replace")
            secret = AdminSecret(decrypt_secret(content, self._passphrase()))
        except FormatError as error:
            raise RestoreError(f"{self.home.secret}: {error}") from None
        if secret.tenant != self.home.identity().tenant:
            raise RestoreError(f"{self.home.secret} is another admin's than the rest of {self.home.path}")
        return secret

    def read_book(self) -> ReadBook:
        """The newest book of the server. Raises RestoreError."""
        data = self.source.book()
        if not data:
            if self.memory.book is not None:
                self.memory.check_book(0, b"", b"")
            return ReadBook(0, b"", BookContent(()))
        secret = self.secret
        try:
            book, content = open_book(data, secret.tenant, secret.order_public, secret.book_key)
        except FormatError as error:
            raise RestoreError(f"the book that the server shows: {error}") from None
        digest = record_hash(data)
        self.memory.check_book(book.version, digest, book.previous)
        self.memory.remember_book(book.version, digest)
        for machine, sequence, head in content.heads:
            self.memory.learn_head(machine, sequence, head)
        self.cards.take_book(content)
        return ReadBook(book.version, digest, content)

    def change_book(self, change: Change) -> BookContent:
        """Swap the book for a changed one; read again where another device was first."""
        for _ in range(ATTEMPTS):
            read = self.read_book()
            content = change(read.content)
            if content == read.content:
                return content
            content = self._with_what_is_known(content)
            book = self._sealed(content, read)
            digest = record_hash(book)
            try:
                self.state(StatementVerb.SWAP_BOOK, digest, book)
            except Refused as error:
                if not error.conflict:
                    raise
                continue
            self.memory.remember_book(read.version + 1, digest)
            self.cards.take_book(content)
            return content
        raise Refused("the book is being changed by somebody else all the time; try again")

    def state(self, verb: StatementVerb, content: bytes, attachment: bytes = b"") -> None:
        """Sign a statement and have the server do it."""
        self.state_each(verb, [content], attachment)

    def state_each(self, verb: StatementVerb, contents: Iterable[bytes], attachment: bytes = b"") -> None:
        """Sign a statement for each content, one after the other, and have the server do them."""
        for counter, content in enumerate(contents, self.greet().counter + 1):
            statement = Statement(
                self.secret.tenant, self.source.server_pin, counter, time.time_ns() + LIFE_NS, verb, content
            )
            self.source.state(statement.sign(self.secret.order_key), attachment)

    def generation(self, machine: bytes) -> Generation:
        """A machine's generation, with its passkey, from the book. Raises NotThere."""
        for card in self.read_book().content.cards:
            for one in card.generations:
                if one.machine == machine:
                    return one
        raise NotThere("the book has no card of this machine")

    def close(self) -> None:
        """End the connection, if there is one."""
        if "source" in self.__dict__:
            self.source.close()

    def _sealed(self, content: BookContent, before: ReadBook) -> bytes:
        secret = self.secret
        try:
            return make_book(
                content, secret.tenant, before.version + 1, before.hash, secret.book_key, secret.order_key,
                self.random(SALT_LENGTH),
            )  # fmt: skip
        except FormatError as error:
            raise RestoreError(
                f"the book cannot hold {len(content.cards)} machines ({error}): one of an admin has room for about "
                "2,900; let a second admin have the others"
            ) from None

    def _with_what_is_known(self, content: BookContent) -> BookContent:
        """Adopted pairs and newest heads go along, so that another device starts with them."""
        cards = tuple(card_with_pairs(card, self.cards) for card in content.cards)
        heads = []
        for card in cards:
            for one in card.generations:
                seen = self.memory.head(one.machine)
                if seen is not None:
                    heads.append((one.machine, seen.sequence, seen.hash))
        return BookContent(cards, tuple(heads))


def server_source(home: Home, server: Server) -> ServerSource:
    """A connection to the server with this home's client certificate, made when it is needed."""

    def make() -> TLSStream:
        certificate = str(home.client_certificate), str(home.client_key)
        return connect(server.hosts, server.pins, ALPN, certificate, TIMEOUT_S)

    return ServerSource(make, tell=tell)

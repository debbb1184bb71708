"""What admins sign: statements that enrol, register, remove, swap and disable."""



from mastodon.daemon.errors import (
    Conflict,
    Disabled,
    NotAllowed,
    NotFound,
)
from mastodon.sealed.book import BookContent, make_book
from mastodon.sealed.ledger_entries import MachineState, Role
from mastodon.sealed.record import record_hash
from mastodon.sealed.statement import (
    CertificateContent,
    MachineContent,
    PinContent,
    StatementVerb,
    encode_content,
)
from tests.store_case import Admin, Machine, StoreCase


class StatementTests(StoreCase):
    """What admins sign."""

    def test_statements_are_checked(self) -> None:
        """Another signer, tenant, server, counter or time, an unknown verb, an attachment too many: refused."""
        content = Machine(2).enrolment(self.admin)
        other = Admin("alice", 7)
        other.counter = 100
        for statement in (
            other.statement(StatementVerb.ENROL, content, self.clock.now, tenant=self.admin.tenant),
            self.admin.statement(StatementVerb.ENROL, content, self.clock.now, tenant=other.tenant),
            self.admin.statement(StatementVerb.ENROL, content, self.clock.now, server=b"x" * 32),
            self.admin.statement(StatementVerb.ENROL, content, self.clock.now, counter=1),
            self.admin.statement(StatementVerb.ENROL, content, self.clock.now, counter=1 << 63),
            self.admin.statement(StatementVerb.ENROL, content, self.clock.now, expires_ns=self.clock.now),
            self.admin.statement(StatementVerb.ENROL, b"no enrolment", self.clock.now),
            self.admin.statement(StatementVerb.ERASE, b"", self.clock.now),
            self.admin.statement(StatementVerb.REGISTER_TICKET, b"", self.clock.now),
            b"no statement",
        ):
            self.refused(NotAllowed, self.store.execute, self.admin.tenant, self.admin.pin, statement, b"")
        attached = self.admin.statement(StatementVerb.ENROL, content, self.clock.now)
        self.refused(
            NotAllowed, lambda: self.wait(self.store.execute(self.admin.tenant, self.admin.pin, attached, b"x"))
        )
        self.assertIsNone(self.wait(self.store.account(Machine(2).id)))

    def test_a_statement_works_once(self) -> None:
        """A replayed statement is refused."""
        statement = self.admin.statement(StatementVerb.ENROL, Machine(2).enrolment(self.admin), self.clock.now)
        self.wait(self.store.execute(self.admin.tenant, self.admin.pin, statement, b""))
        self.refused(
            NotAllowed, lambda: self.wait(self.store.execute(self.admin.tenant, self.admin.pin, statement, b""))
        )

    def test_enrol_again_changes_nothing(self) -> None:
        """The same machine again is answered as done; by another tenant it is a conflict."""
        before = self.store.head
        self.enrol(self.machine)
        self.assertEqual(self.store.head, before)
        other = Admin("bob", 2)
        self.wait(self.store.add_admin(other.name, other.request()))
        self.refused(Conflict, lambda: self.enrol(self.machine, other))
        enrolment = self.machine.enrolment(self.admin)
        self.refused(NotAllowed, self.execute, StatementVerb.ENROL, enrolment, admin=other)

    def test_book_is_swapped_against_its_predecessor(self) -> None:
        """A book must follow the newest; who was second reads again."""
        secret = self.admin.secret

        def book(version: int, previous: bytes, salt: bytes) -> bytes:
            content = BookContent(())
            return make_book(content, secret.tenant, version, previous, secret.book_key, secret.order_key, salt * 16)

        first = book(1, b"", b"a")
        second, rival = book(2, record_hash(first), b"b"), book(2, record_hash(first), b"c")
        self.assertEqual(self.wait(self.store.book(self.admin.tenant)), b"")
        for one in (first, second):
            self.execute(StatementVerb.SWAP_BOOK, record_hash(one), one)
        self.execute(StatementVerb.SWAP_BOOK, record_hash(second), second)
        self.refused(Conflict, lambda: self.execute(StatementVerb.SWAP_BOOK, record_hash(rival), rival))
        self.refused(NotAllowed, lambda: self.execute(StatementVerb.SWAP_BOOK, record_hash(first), second))
        self.restart()
        self.assertEqual(self.wait(self.store.book(self.admin.tenant)), second)

    def test_removed_certificate_is_out_for_ever(self) -> None:
        """A removed key is not found, may say nothing, and is never registered again, by admin or operator."""
        content = encode_content(CertificateContent(b"c" * 32, Role.ADMIN, "second"))
        self.execute(StatementVerb.REGISTER_CERTIFICATE, content)
        self.assertIsNotNone(self.wait(self.store.certificate(b"c" * 32)))
        remove = encode_content(PinContent(b"c" * 32))
        self.execute(StatementVerb.REMOVE_CERTIFICATE, remove)
        self.assertIsNone(self.wait(self.store.certificate(b"c" * 32)))
        self.refused(NotAllowed, lambda: self.execute(StatementVerb.REGISTER_CERTIFICATE, content))
        self.refused(NotFound, lambda: self.execute(StatementVerb.REMOVE_CERTIFICATE, remove))
        statement = self.admin.statement(StatementVerb.ENROL, Machine(2).enrolment(self.admin), self.clock.now)
        self.refused(NotFound, lambda: self.wait(self.store.execute(self.admin.tenant, b"c" * 32, statement, b"")))
        self.refused(
            NotAllowed, lambda: self.wait(self.store.add_admin("alice", self.admin.request(client=b"c" * 32)))
        )
        self.restart()
        self.assertIsNone(self.wait(self.store.certificate(b"c" * 32)))

    def test_one_key_one_tenant_one_role(self) -> None:
        """A registered key is not registered for another role, and tickets come another way."""
        other = encode_content(CertificateContent(self.admin.pin, Role.MONITOR, "again"))
        self.refused(Conflict, lambda: self.execute(StatementVerb.REGISTER_CERTIFICATE, other))
        ticket = encode_content(CertificateContent(b"t" * 32, Role.TICKET, "t", b"m" * 32, b"r" * 32, 1))
        self.refused(NotAllowed, lambda: self.execute(StatementVerb.REGISTER_CERTIFICATE, ticket))

    def test_machine_states(self) -> None:
        """A disabled machine may not append until it is enabled; a closed one never again; all stays restorable."""
        blobs = self.machine.tree(b"one")
        self.send(blobs)
        self.commit(blobs[-1][0])
        content = encode_content(MachineContent(self.machine.id))
        self.execute(StatementVerb.DISABLE_MACHINE, content)
        self.refused(Disabled, lambda: self.send(self.machine.tree(b"two")))
        self.refused(Disabled, lambda: self.commit(blobs[-1][0]))
        self.execute(StatementVerb.ENABLE_MACHINE, content)
        self.epoch = self.store.machine_session(self.machine.id)
        self.send(self.machine.tree(b"two"))
        self.execute(StatementVerb.CLOSE_GENERATION, content)
        self.refused(NotAllowed, lambda: self.execute(StatementVerb.ENABLE_MACHINE, content))
        self.refused(Disabled, lambda: self.send(self.machine.tree(b"three")))
        self.assertIs(self.account().state, MachineState.CLOSED)
        self.assertEqual(self.fetch([blobs[0][0]]), blobs[0][2])



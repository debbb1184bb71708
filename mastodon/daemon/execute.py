"""Who may do what: statements signed by admins, and the operator's commands. All of it ends in the ledger.

Promises: one thing at a time; a statement is taken only if the tenant's order key signed it for this server, in time,
and newer than the last; what a statement says already holds is answered as done, without another entry; removal of a
certificate is terminal. Unknown and another tenant's machine give one answer.
"""

from collections.abc import Awaitable, Callable

from twisted.internet.defer import DeferredLock

from mastodon.catalogue.interface import Catalogue, Tenant
from mastodon.daemon.client_keys import LABEL_LIMIT, ClientKeys
from mastodon.daemon.errors import Conflict, NotAllowed, NotFound
from mastodon.daemon.ledger_writer import LedgerWriter
from mastodon.daemon.machine_states import MachineStates
from mastodon.daemon.policies import Changes, Policies
from mastodon.sealed.book import Book
from mastodon.sealed.enrolment import AdminRequest, Enrolment
from mastodon.sealed.errors import FormatError
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import (
    AdminAdded,
    BookSwapped,
    CertificateAdded,
    Event,
    MachineEnrolled,
    MachineState,
    Role,
)
from mastodon.sealed.record import record_hash
from mastodon.sealed.schema import clean_text
from mastodon.sealed.statement import (
    CertificateContent,
    MachineContent,
    PinContent,
    PolicyContent,
    Statement,
    StatementVerb,
    check_statement,
    decode_content,
)

COUNTER_MOST = (1 << 63) - 1
NAME_MOST = 64
STATES: dict[StatementVerb, MachineState] = {
    StatementVerb.DISABLE_MACHINE: MachineState.DISABLED,
    StatementVerb.ENABLE_MACHINE: MachineState.ACTIVE,
    StatementVerb.CLOSE_GENERATION: MachineState.CLOSED,
}


class Authority:
    """Lives in the reactor's thread."""

    def __init__(
        self, catalogue: Catalogue, ledger: LedgerWriter, servers: frozenset[bytes], now_ns: Callable[[], int]
    ) -> None:
        self._catalogue = catalogue
        self._ledger = ledger
        self._servers = servers
        self._now_ns = now_ns
        self._lock = DeferredLock()
        self.policies = Policies(catalogue, ledger, now_ns)
        self.keys = ClientKeys(catalogue, ledger)
        self.states = MachineStates(catalogue, ledger)

    async def execute(self, tenant: bytes, pin: bytes, statement: bytes, attachment: bytes) -> None:
        """Do what a statement says. Raises Refused."""
        async with self._lock:
            certificate = await self._catalogue.certificate(pin)
            row = await self._catalogue.tenant(tenant)
            if certificate is None or certificate.tenant != tenant or certificate.role is not Role.ADMIN or row is None:
                raise NotFound("unknown")
            try:
                said = check_statement(
                    statement, row.order_key, tenant, self._servers, row.counter, self._now_ns()
                )
                if said.counter > COUNTER_MOST:
                    raise NotAllowed("the statement's counter is out of bounds")
                do = VERBS.get(said.verb)
                if do is None:
                    raise NotAllowed(f"this release does not carry out {said.verb.name} statements")
                if attachment and said.verb is not StatementVerb.SWAP_BOOK:
                    raise NotAllowed("nothing is attached to this statement")
                await do(self, row, said, statement, attachment)
            except FormatError as error:
                raise NotAllowed(str(error)) from None

    async def _enrol(self, tenant: Tenant, said: Statement, statement: bytes, attachment: bytes) -> None:
        enrolment = Enrolment.open(said.content)
        if enrolment.tenant != tenant.tenant or not self._servers.intersection(enrolment.servers):
            raise NotAllowed("the enrolment is for another tenant or server")
        owner = await self._catalogue.owner(enrolment.machine)
        if owner is not None and owner != tenant.tenant:
            raise Conflict("this machine is enrolled already")
        if owner is None:
            if enrolment.origin is not None:
                await self._tell_split(tenant.tenant, enrolment.origin, enrolment.machine)
            await self._ledger.append(MachineEnrolled(said.content, statement))

    async def _tell_split(self, tenant: bytes, origin: bytes, machine: bytes) -> None:
        """Before the enrolment: a crash between the two must not keep it from being told."""
        if await self._catalogue.owner(origin) != tenant:
            raise NotFound("no such machine to split from")
        detail = f"one side goes on as machine {machine.hex()}, the other as before"
        before = await self._catalogue.newest_event(EventCode.SPLIT, tenant, origin)
        if before is None or before.detail != detail:
            await self._ledger.append(Event(int(EventCode.SPLIT), tenant, origin, detail))

    async def _swap_book(self, tenant: Tenant, said: Statement, statement: bytes, attachment: bytes) -> None:
        name = record_hash(attachment)
        if said.content != name:
            raise NotAllowed("the statement names another book than the one attached")
        book = Book.verify(attachment, tenant.order_key)
        version, newest, _ = await self._catalogue.book(tenant.tenant)
        if name == newest:
            return
        if book.tenant != tenant.tenant or book.version > COUNTER_MOST:
            raise NotAllowed("the book of another tenant, or of a version out of bounds")
        if book.version != version + 1 or book.previous != newest:
            raise Conflict(f"the newest book here is version {version}: read it, and make your change to that")
        await self._ledger.append(BookSwapped(attachment, statement))

    async def _register(self, tenant: Tenant, said: Statement, statement: bytes, attachment: bytes) -> None:
        wanted = decode_content(CertificateContent, said.content)
        entry = CertificateAdded(wanted.pin, tenant.tenant, wanted.role, wanted.label, statement)
        await self.keys.add(entry, _by(said))

    async def _remove(self, tenant: Tenant, said: Statement, statement: bytes, attachment: bytes) -> None:
        pin = decode_content(PinContent, said.content).pin
        await self.keys.remove(pin, tenant.tenant, statement, _by(said))

    async def _set_state(self, tenant: Tenant, said: Statement, statement: bytes, attachment: bytes) -> None:
        content = decode_content(MachineContent, said.content)
        await self.states.set(
            content.machine, STATES[said.verb], tenant.tenant, statement, _by(said), content.snapshot
        )

    async def _policy(self, tenant: Tenant, said: Statement, statement: bytes, attachment: bytes) -> None:
        content = decode_content(PolicyContent, said.content)
        await self.policies.change(tenant.tenant, content.machine, content.settings, statement, _by(said))

    # The operator's

    async def add_admin(self, name: str, request: bytes) -> Tenant:
        """Take an admin's request; doing it again changes nothing. Raises Refused."""
        async with self._lock:
            try:
                said = AdminRequest.open(request)
            except FormatError as error:
                what = f"the request cannot be taken ({error})"
                raise NotAllowed(f"{what}: give the file that `mastodon-admin init` wrote") from None
            if not name.isprintable() or not 0 < len(name.encode("utf-8")) <= NAME_MOST:
                raise NotAllowed(f"an admin's name has 1 to {NAME_MOST} printable characters")
            for known in await self._catalogue.tenants():
                if known.name == name and known.tenant != said.tenant:
                    raise Conflict(f"there is another admin of the name {name!r}")
                if known.name != name and known.tenant == said.tenant:
                    raise Conflict(f"this admin is registered already, as {known.name!r}")
            await self.keys.demand_fresh(said.client)
            is_new = await self._catalogue.tenant(said.tenant) is None
            if is_new:
                await self._ledger.append(AdminAdded(said.tenant, name, request))
            wanted = CertificateAdded(said.client, said.tenant, Role.ADMIN, said.label, b"")
            await self.keys.add(wanted, told=not is_new)
            row = await self._catalogue.tenant(said.tenant)
            assert row is not None
            return row

    async def set_policy(self, tenant: bytes, machine: bytes, changes: Changes) -> None:
        """Set values of the server's (b"", b""), an admin's or a machine's. Raises Refused."""
        async with self._lock:
            await self.policies.change(tenant, machine, changes)

    async def add_certificate(self, name: str, pin: bytes, role: Role, label: str) -> None:
        """Register a client key of the admin of this name, or (empty) the operator's own monitor. Raises Refused."""
        async with self._lock:
            tenant = b""
            if name:
                tenants = {one.name: one.tenant for one in await self._catalogue.tenants()}
                if name not in tenants:
                    raise NotFound(f"there is no admin {name!r}: `mastodon admin list` shows them")
                tenant = tenants[name]
            await self.keys.add(CertificateAdded(pin, tenant, role, clean_text(label, LABEL_LIMIT), b""))

    async def remove_certificate(self, pin: bytes) -> None:
        """For ever, at once. Raises Refused."""
        async with self._lock:
            if not await self._catalogue.is_removed(pin):
                await self.keys.remove(pin, None)

    async def set_state(self, machine: bytes, state: MachineState) -> None:
        """Disable or enable a machine. Raises Refused."""
        async with self._lock:
            await self.states.set(machine, state, None)


def _by(said: Statement) -> str:
    return f"statement {said.counter}"


Verb = Callable[[Authority, Tenant, Statement, bytes, bytes], Awaitable[None]]

# All that a statement can do in this release; the rest of StatementVerb is refused.
VERBS: dict[StatementVerb, Verb] = {
    StatementVerb.ENROL: Authority._enrol,
    StatementVerb.SWAP_BOOK: Authority._swap_book,
    StatementVerb.REGISTER_CERTIFICATE: Authority._register,
    StatementVerb.REMOVE_CERTIFICATE: Authority._remove,
    StatementVerb.DISABLE_MACHINE: Authority._set_state,
    StatementVerb.ENABLE_MACHINE: Authority._set_state,
    StatementVerb.CLOSE_GENERATION: Authority._set_state,
    StatementVerb.POLICY: Authority._policy,
}

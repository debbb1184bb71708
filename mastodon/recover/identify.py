"""Which machine is meant, and what proves its key: its URL, its whole id, the admin's book, or nothing.

The public key of an id comes from the ledger's enrolment; that it belongs to the id is checked, so a whole id that the
user brings proves as much as a URL. Without either, records still have to fit each other, but whoever had the spool
may have made them all: "origin unproven".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mastodon.host.spool_reader import LedgerRecords
from mastodon.restore.errors import NotThere, RestoreError
from mastodon.restore.trust import KnownMachine
from mastodon.sealed.admin_secret import AdminSecret
from mastodon.sealed.book import Book, BookContent, Card, Generation, open_book
from mastodon.sealed.errors import FormatError
from mastodon.sealed.machine_secret import MachineSecret, id_key_commitment, machine_id
from mastodon.sealed.url import MachineUrl

ID_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Identified:
    """A machine, and the passkey that the book keeps for it (empty: none)."""

    known: KnownMachine
    passkey: bytes = b""


def from_url(url: MachineUrl) -> Identified:
    """The machine whose URL this is: everything follows from its secret."""
    secret = MachineSecret(url.secret)
    commitment = id_key_commitment(secret.id_key)
    return Identified(
        KnownMachine(url.name, secret.machine_id, secret.public_key, commitment, order_keys=tuple(url.admins))
    )


def newest_book(records: LedgerRecords, secret: AdminSecret) -> BookContent:
    """The cards in the newest book that this admin secret signed and opens. Raises NotThere."""
    best: tuple[int, bytes] | None = None
    for data in records.books:
        try:
            version = Book.verify(data, secret.order_public).version
        except FormatError:
            continue
        if best is None or version > best[0]:
            best = version, data
    if best is None:
        raise NotThere("the ledgers in these spools have no book of this admin secret")
    return open_book(best[1], secret.tenant, secret.order_public, secret.book_key)[1]


def from_book(book: BookContent, secret: AdminSecret, wanted: str) -> Identified:
    """A machine by its card's name, or an id or its beginning; the generation is the id's, else the newest."""
    found: list[tuple[Card, Generation]] = []
    for card in book.cards:
        if card.name == wanted:
            found = [(card, card.current)]
            break
        found += [(card, one) for one in card.generations if wanted and one.machine.hex().startswith(wanted)]
    if not found and not wanted and len(book.cards) == 1:
        found = [(book.cards[0], book.cards[0].current)]
    if len(found) != 1:
        names = ", ".join(card.name for card in book.cards)
        if not wanted:
            raise NotThere(f"give --machine NAME; the book has: {names or 'no machine'}")
        raise NotThere(f"--machine {wanted}: {len(found)} cards of that name or id; the book has: {names}")
    card, generation = found[0]
    known = KnownMachine(
        card.name, generation.machine, generation.public_key, generation.id_key_commitment, generation.pairs,
        (secret.order_public,),
    )  # fmt: skip
    return Identified(known, generation.passkey)


def from_ledger(records: LedgerRecords, wanted: str) -> Identified:
    """A machine by its id, whole (proven) or its beginning, or the only one there is (unproven)."""
    if wanted.strip("0123456789abcdef"):
        raise RestoreError(
            f"--machine {wanted}: the spools know machines by id (64 hexadecimal digits); names stand in the admin's "
            "book: give --admin-secret, or see `mastodon-recover list`"
        )
    ids = sorted(machine for machine in records.machines if machine.hex().startswith(wanted))
    if len(ids) != 1:
        raise NotThere(_how_many(ids, wanted))
    machine = ids[0]
    enrolment = records.machines[machine].enrolment
    if enrolment is None:
        raise NotThere(
            f"the ledgers have lost the enrolment of machine {machine.hex()}, and with it its public key: give its URL "
            "(--url-file) or the admin secret"
        )
    if machine_id(enrolment.public_key) != machine:
        raise NotThere(f"the enrolment of machine {machine.hex()} has another machine's key")
    proven = len(wanted) == ID_CHARACTERS
    return Identified(KnownMachine(machine.hex()[:16], machine, enrolment.public_key, proven=proven))


def _how_many(ids: Sequence[bytes], wanted: str) -> str:
    if not ids:
        return f"the ledgers in these spools know no machine {wanted}".rstrip()
    shown = ", ".join(machine.hex()[:16] for machine in ids[:10])
    return f"{len(ids)} machines are meant ({shown}{', ...' if len(ids) > 10 else ''}): name one with --machine"

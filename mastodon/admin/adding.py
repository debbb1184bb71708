"""Machines on their way in: cards into the book first, by one swap for all, then the enrolments.

What was made for a machine is kept in the home, 0600, from before the first step until its URL is handed out, so that
every step can be repeated after any interruption. After that the machine's secret stays nowhere.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mastodon.admin.office import Office
from mastodon.restore.errors import RestoreError
from mastodon.sealed.book import BookContent, Card, Generation
from mastodon.sealed.enrolment import HANDLE_LENGTH, Enrolment
from mastodon.sealed.errors import FormatError
from mastodon.sealed.machine_secret import SECRET_LENGTH, MachineSecret, id_key_commitment
from mastodon.sealed.statement import StatementVerb
from mastodon.sealed.url import DEFAULT_PORT, MachineUrl, encode_key, parse_url

Origin = tuple[bytes, bytes]
"""The machine that one is split from, and the record hash of that one's newest snapshot."""


@dataclass(frozen=True, slots=True)
class Adding:
    """A machine that is being added; ``passkey`` is empty for one without, ``origin`` as in its card."""

    name: str
    url: MachineUrl
    secret: MachineSecret
    passkey: bytes
    handle: bytes
    time_ns: int
    origin: Origin | None = None


def begin_or_go_on(
    office: Office, names: Sequence[str], new_passkey: Callable[[], bytes], origin: Origin | None = None
) -> list[Adding]:
    """Those of ``names`` that have to be added: the begun ones as they are, new ones with a secret each."""
    begun = {name: _load(office, name) for name in names if office.home.pending(name).exists()}
    fresh = [name for name in names if name not in begun]
    if fresh:
        there = {card.name for card in office.read_book().content.cards}
        fresh = [name for name in fresh if name not in there]
    if fresh:
        make = _maker(office, origin)
        begun |= {name: make(name, new_passkey()) for name in fresh}
    return [begun[name] for name in names if name in begun]


def enter_and_enrol(office: Office, machines: Sequence[Adding]) -> list[Adding]:
    """Put cards into the book and enrol; gives those that were, which are all but names that another device took
    meanwhile: these are given up."""
    content = office.change_book(lambda book: _with_cards(book, machines))
    cards = {card.name: card for card in content.cards}
    mine = [one for one in machines if cards[one.name].current.machine == one.secret.machine_id]
    for one in machines:
        if one not in mine:
            hand_over(office, one)
    office.state_each(StatementVerb.ENROL, (_enrolment(office, one) for one in mine))
    return mine


def hand_over(office: Office, machine: Adding) -> None:
    """Its URL was handed out, or is not wanted: forget it here."""
    office.home.pending(machine.name).unlink()


def _maker(office: Office, origin: Origin | None) -> Callable[[str, bytes], Adding]:
    who = office.source.who()
    identity = office.home.identity()
    hosts = tuple(_host(text) for text in who.append_hosts)
    if not hosts:
        raise RestoreError("the server does not say where agents connect: the operator has to set `name`")

    def make(name: str, passkey: bytes) -> Adding:
        pins = who.servers, (identity.order_key, identity.successor)
        url = MachineUrl(name, office.random(SECRET_LENGTH), hosts, *pins)
        handle = office.random(HANDLE_LENGTH)
        one = Adding(name, url, MachineSecret(url.secret), passkey, handle, time.time_ns(), origin)
        fields: dict[str, Any] = {
            "url": str(url), "passkey": passkey.hex(), "handle": one.handle.hex(), "time_ns": one.time_ns,
        }  # fmt: skip
        if origin is not None:
            fields["origin"] = [part.hex() for part in origin]
        office.home.write(office.home.pending(name), fields)
        return one

    return make


def _load(office: Office, name: str) -> Adding:
    path = office.home.pending(name)
    fields = office.home.read(path, "remove it and run the command again")
    try:
        url = parse_url(fields["url"])
        passkey, handle = bytes.fromhex(fields["passkey"]), bytes.fromhex(fields["handle"])
        origin = _origin(fields.get("origin"))
        return Adding(name, url, MachineSecret(url.secret), passkey, handle, int(fields["time_ns"]), origin)
    except (KeyError, TypeError, ValueError, FormatError):
        raise RestoreError(f"{path}: damaged; remove it and run the command again") from None


def _origin(parts: Any) -> Origin | None:
    if parts is None:
        return None
    machine, head = parts
    return bytes.fromhex(machine), bytes.fromhex(head)


def _with_cards(book: BookContent, machines: Sequence[Adding]) -> BookContent:
    there = {card.name for card in book.cards}
    return BookContent((*book.cards, *(_card(one) for one in machines if one.name not in there)), book.heads)


def _card(machine: Adding) -> Card:
    secret = machine.secret
    generation = Generation(
        secret.machine_id, secret.public_key, secret.order_key.public_key, id_key_commitment(secret.id_key),
        machine.time_ns, (), machine.passkey,
    )  # fmt: skip
    return Card(machine.name, machine.handle, (generation,), machine.origin)


def _enrolment(office: Office, machine: Adding) -> bytes:
    secret = machine.secret
    enrolment = Enrolment(
        secret.machine_id, secret.public_key, office.secret.tenant, machine.url.servers, machine.handle, 0,
        machine.time_ns, machine.origin[0] if machine.origin is not None else None,
    )  # fmt: skip
    return enrolment.sign(secret.signing_key)


def _host(text: str) -> tuple[str, int]:
    """host:port as the server says it; the URL's own parser is the judge."""
    probe = f"mastodon://x:{encode_key(bytes(SECRET_LENGTH))}@{text}/"
    try:
        return parse_url(probe).hosts[0]
    except FormatError:
        raise RestoreError(
            f"the server names an address for agents that is none: {text!r} (port {DEFAULT_PORT}?)"
        ) from None

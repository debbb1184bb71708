"""``mastodon-admin machine show``: one machine, its newest snapshot, generations and sealing pairs.

Gaps, forks, jumps and an older newest snapshot than was seen are shown with it; the last makes the exit code 3.
"""

from typing import Any

import click

from mastodon.admin.machine_add import crontab_line
from mastodon.admin.machine_list import machine_fields, machines_on_server
from mastodon.admin.office import Office
from mastodon.admin.options import office_command, output_options
from mastodon.host.times import show_time
from mastodon.restore.actions import Output
from mastodon.restore.errors import NotThere, WentBack
from mastodon.restore.history import called
from mastodon.restore.keys import with_keyring
from mastodon.restore.present import to_json
from mastodon.restore.session import Session
from mastodon.restore.source import all_pairs
from mastodon.restore.trust import BelievedPair

STRANGERS_SHOWN = 16
"""A hostile machine may make very many pairs, and each may be large."""


@click.command("show")
@click.argument("name")
@output_options
@office_command
def machine_show(office: Office, name: str, out: Output) -> int:
    """Show the machine NAME (or the beginning of its id)."""
    card, generation = office.cards.find(name)
    fields = machine_fields(card.name, generation.machine, machines_on_server(office))
    fields["crontab"] = crontab_line(card.name, generation.machine, generation.has_passkey)
    fields["generations"] = [one.machine.hex() for one in card.generations]
    if card.origin:
        fields["split_from"] = _split_from(office, card.origin)
    warnings: list[str] = []
    known, _ = office.cards.known(name, office.home.identity().order_key)
    session = Session(office.source, known, with_keyring(), office.memory, warnings.append)
    code = _history(session, fields, warnings, out)
    fields["pairs"], fields["more_pairs"] = _pairs(session)
    fields["warnings"] = warnings
    if out.json:
        out.say(to_json(fields))
        return code
    for key in ("name", "machine", "enrolled", "state", "snapshots", "kept_bytes", "split_from", "crontab"):
        if key in fields:
            out.say(f"{key.replace('_', ' ')}: {fields[key]}")
    if "newest" in fields:
        out.say(f"newest shown: {fields['newest']}")
    for pair in fields["pairs"]:
        adopted = "adopted" if pair["adopted"] else "not adopted"
        when = show_time(pair["time_ns"])
        out.say(f"sealing pair {pair['number']}: {pair['pair']}, {when}, {pair['mode']}, {adopted}")
    if fields["more_pairs"]:
        out.say(f"and {fields['more_pairs']} more sealing pairs, not adopted")
    for warning in warnings:
        out.tell(warning)
    return code


def _split_from(office: Office, origin: bytes) -> str:
    """The machine whose history it shares until the split, by name if its card is here."""
    names = {one.machine: card.name for card in office.cards.cards for one in card.generations}
    return f"{names.get(origin, 'a machine without a card here')} ({origin.hex()})"


def _history(session: Session, fields: dict[str, Any], warnings: list[str], out: Output) -> int:
    """Put what the history shows among the fields; the exit code."""
    try:
        history = session.history
    except NotThere:
        return 0  # not enrolled here: said already
    except WentBack as error:
        warnings.append(str(error))
        return error.exit_code
    if session.given_up:
        warnings.append(session.given_up)
    fields["forked"], fields["gaps"] = history.forked, [list(gap) for gap in history.gaps]
    if history.newest is not None:
        fields["newest_sequence"] = history.newest.record.sequence
        fields["newest_time_ns"] = history.newest.record.time_ns
        fields["newest"] = called(history.newest, out.now_ns())
    return 0


def _pairs(session: Session) -> tuple[list[dict[str, Any]], int]:
    """The adopted pairs and the first of the others, and how many there are besides."""
    known = session.known
    shown: list[dict[str, Any]] = []
    strangers = 0
    try:
        for listed in all_pairs(session.source, known.machine):
            adopted = (listed.pair, listed.hash) in known.pairs
            strangers += not adopted
            if adopted or strangers <= STRANGERS_SHOWN:
                pair = session.trust.pair(listed.pair)
                shown += [_fields(pair, known.pairs)] if pair is not None else []
    except NotThere:
        return [], 0
    return shown, max(0, strangers - STRANGERS_SHOWN)


def _fields(pair: BelievedPair, adopted: tuple[tuple[bytes, bytes], ...]) -> dict[str, Any]:
    return {
        "number": pair.record.number,
        "pair": pair.record.pair.hex(),
        "time_ns": pair.record.time_ns,
        "mode": pair.record.mode.name.lower(),
        "recipients": len(pair.record.recipients),
        "adopted": (pair.record.pair, pair.hash) in adopted,
    }

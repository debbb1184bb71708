"""Whose rows in the old listing are not believed: entries that are looked at as if they had changed."""

from collections.abc import Callable, Collection

import cbor2

from mastodon_agent.records import NO_ROW, ROW_SIZE
from mastodon_agent.state import StatePage

PLACES, DELTA = 8, 18


def rows_reader(missing: Collection[bytes], reread: bool) -> Callable[[StatePage], bytes]:
    """Gives a page's rows. Those of files in ``missing`` blobs fit nothing; with ``reread``, no row does.

    What is missing inside a map does not show in the page, so files in maps are then read again as well.
    """
    if reread:
        return lambda page: bytes(page.count * ROW_SIZE)
    if not missing:
        return StatePage.rows
    lost = frozenset(missing)
    return lambda page: _without(page, lost)


def _without(page: StatePage, missing: frozenset[bytes]) -> bytes:
    maps = set(page.maps())
    doubtful = {index for index, id in enumerate(page.references()) if index in maps or id in missing}
    rows = page.rows()
    if not doubtful:
        return rows
    believed = bytearray(rows)
    index = 0
    for _, _, bodies in cbor2.loads(page.plaintext())[2]:
        for body in bodies:
            base = body[DELTA][3] if DELTA in body else ()
            if not doubtful.isdisjoint([*body.get(PLACES, ())[::3], *base[::3]]):
                believed[index * ROW_SIZE : (index + 1) * ROW_SIZE] = NO_ROW
            index += 1
    return bytes(believed)

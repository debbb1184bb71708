"""Whose rows in the old listing are not believed: entries that are looked at as if they had changed."""

from collections.abc import Callable, Collection

from mastodon_agent.records import NO_ROW, ROW_SIZE
from mastodon_agent.state import StatePage


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
    for entries in page.entries().sections:
        for entry in entries:
            if not doubtful.isdisjoint(entry.all_places[::3]):
                believed[index * ROW_SIZE : (index + 1) * ROW_SIZE] = NO_ROW
            index += 1
    return bytes(believed)

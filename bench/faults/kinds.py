"""All kinds of faults by name; what stands before or behind its first dash names a group."""

from collections.abc import Callable

from bench.faults import derived, disks, kills, losses, sabotage, spools
from bench.faults.point import Point

Kind = Callable[[Point], None]
KILLS: dict[str, Kind] = {
    "kill-daemon": kills.kill_daemon,
    "kill-agent": kills.kill_agent,
    "kill-restore": kills.kill_restore,
}
OTHERS: dict[str, Kind] = {
    "cut-append": kills.cut_append,
    "cut-restore": kills.cut_restore,
    **disks.KINDS,
    "power-server": losses.power_server,
    "power-agent": losses.power_agent,
    "power-restore": losses.power_restore,
    "torn-pack": losses.torn_pack,
    "torn-ledger": losses.torn_ledger,
    "torn-catalogue": losses.torn_catalogue,
    "spool-returns": spools.spool_returns,
    "spool-unmounted": spools.spool_unmounted,
    "spool-stays-older": spools.spool_stays_older,
    "catalogue-deleted": derived.catalogue_deleted,
    "catalogue-corrupt": derived.catalogue_corrupt,
    "catalogue-cut": derived.catalogue_cut,
    "catalogue-older": derived.catalogue_older,
    "state-deleted": derived.state_deleted,
    "state-corrupt": derived.state_corrupt,
    "state-older": derived.state_older,
}
FAULTS: dict[str, Kind] = {**KILLS, **OTHERS}
KINDS: dict[str, Kind] = {**FAULTS, **sabotage.KINDS}


def chosen(words: str) -> list[str]:
    """The kinds in a comma-separated list of names, groups, ``kills``, ``others``, ``all``. Raises ValueError."""
    found: list[str] = []
    for word in words.split(","):
        named = {"all": list(FAULTS), "kills": list(KILLS), "others": list(OTHERS)}.get(word)
        named = named or [
            name for name in KINDS if name == word or word in (name.split("-", 1)[0], name.split("-", 1)[1])
        ]
        if not named:
            raise ValueError(f"no kind of fault is called {word!r}; there are: {', '.join(KINDS)}")
        found += [name for name in named if name not in found]
    return found

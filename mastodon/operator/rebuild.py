"""``mastodon rebuild``: the catalogue made anew from the spools alone, accounts and revocations included (P10)."""

import click

from mastodon.catalogue.sqlite import remove_files
from mastodon.daemon.opening import CATALOGUE, StateLock
from mastodon.operator.reach import configuration, opened, plain_errors


@click.command()
@click.option("--confirm", metavar="HEAD", help="The ledger's head, as an earlier run printed it, is the right one.")
@click.pass_context
def rebuild(context: click.Context, confirm: str | None) -> None:
    """Make the catalogue anew from the spools. Stop the daemon first.

    When nothing vouches for the ledger (its signed head beside the catalogue is gone, or it went back in time),
    credentials stay disabled until the head is confirmed: compare it with the newest that your clients remember.
    """
    config = configuration(context)
    with plain_errors():
        lock = StateLock(config.state)
        remove_files(config.state / CATALOGUE)
        lock.release()
        with opened(config) as (store, mainland):
            if confirm is not None and store.locked:
                mainland.wait(store.confirm(confirm))
            totals, head, locked = mainland.wait(store.totals()), store.head_text(), store.locked
            offline = [one.offline for one in store.list_spools() if one.offline]
    click.echo(
        f"Rebuilt: {totals.tenants} admins, {totals.machines} machines, {totals.snapshots} snapshots, "
        f"{totals.packs} packs with {totals.blobs} blobs, {totals.bytes:,} bytes."
    )
    click.echo(f"Ledger's head: {head}")
    for reason in offline:
        click.echo(f"Offline: {reason}", err=True)
    if locked:
        raise click.ClickException(locked)

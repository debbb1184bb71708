"""``mastodon check``: one pass over checksums and chains, on all spools, and the catalogue held against them.

Nothing is changed. Exit status 1 when anything is damaged or missing. The daemon may run meanwhile.
"""

import click
from twisted.internet.defer import Deferred

from mastodon.catalogue.lane import OwnMainland
from mastodon.catalogue.sqlite import SqliteCatalogue
from mastodon.daemon.inspection import Inspection
from mastodon.daemon.opening import CATALOGUE
from mastodon.operator.reach import configuration, plain_errors


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Print only what is wrong.")
@click.pass_context
def check(context: click.Context, quiet: bool) -> None:
    """Read every pack and ledger, verify all checksums, signatures and chains, compare with the catalogue."""
    config = configuration(context)
    mainland = OwnMainland()
    with plain_errors():
        catalogue = None
        if (config.state / CATALOGUE).exists():
            catalogue = SqliteCatalogue(config.state / CATALOGUE, mainland)
        inspection = Inspection(config, catalogue, lambda line: None if quiet else click.echo(line))
        try:
            mainland.wait(Deferred.fromCoroutine(inspection.run()))
        finally:
            if catalogue is not None:
                mainland.wait(catalogue.close())
    for line in inspection.damage:
        click.echo(f"DAMAGE: {line}", err=True)
    if inspection.damage:
        raise click.ClickException(f"{len(inspection.damage)} things are damaged or missing")
    if not quiet:
        click.echo("All is well.")

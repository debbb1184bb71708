"""How a command reaches the store: through a running daemon, else by opening the store itself.

What goes wrong becomes one line that says what to do; nobody sees a traceback.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from twisted.internet.defer import Deferred

from mastodon.catalogue.interface import CatalogueError
from mastodon.catalogue.lane import OwnMainland
from mastodon.daemon.commands import run_command
from mastodon.daemon.config import Config, ConfigError, load_config
from mastodon.daemon.control import ask_daemon
from mastodon.daemon.errors import Refused, StoreError
from mastodon.daemon.store import Store, open_store
from mastodon.host.certificates import CertificateError
from mastodon.host.durable import DiskError

USUAL_CONFIG = "/etc/mastodon/mastodon.toml"


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn every foreseen error into one line for the operator."""
    try:
        yield
    except (ConfigError, StoreError, Refused, CertificateError, CatalogueError, DiskError) as error:
        raise click.ClickException(str(error)) from None
    except BrokenPipeError:
        raise  # whoever reads our output has seen enough: click ends quietly
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from None


def configuration(context: click.Context) -> Config:
    """The configuration that --config names."""
    with plain_errors():
        return load_config(Path(context.find_root().params["config"]).absolute())


def ask(config: Config, command: str, **arguments: Any) -> Any:
    """Do a command, by the daemon if it runs."""
    with plain_errors():
        try:
            return ask_daemon(config.state, command, arguments)
        except (FileNotFoundError, ConnectionRefusedError):
            with opened(config) as (store, mainland):
                return mainland.wait(Deferred.fromCoroutine(run_command(store, command, arguments)))


@contextlib.contextmanager
def opened(config: Config) -> Iterator[tuple[Store, OwnMainland]]:
    """The store itself, while no daemon has it."""
    mainland = OwnMainland()
    store = open_store(config, mainland, time.time_ns)
    mainland.wait(store.start())
    try:
        yield store, mainland
    finally:
        mainland.wait(store.stop())

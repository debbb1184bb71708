"""A group of commands that are imported when they are asked for.

A run needs one of them, and what the others import would cost it more time than all that the shorter ones do.
"""

import gc
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LateGroup(click.Group):
    """``places``: by the name of a command its module and, behind a colon, what it is called there."""

    def __init__(self, *arguments: Any, places: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places = places

    def list_commands(self, context: click.Context) -> list[str]:
        """All names, in order."""
        return sorted({*super().list_commands(context), *self._places})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of a name, imported now."""
        place = self._places.get(name)
        if place is None:
            return super().get_command(context, name)
        module, _, attribute = place.partition(":")
        gc.disable()  # nothing that is imported is garbage, and to look costs a twentieth
        try:
            command = getattr(import_module(module), attribute)
        finally:
            gc.enable()
        assert isinstance(command, click.Command)  # the table is ours; a test walks all of it
        return command

"""A machine's id, as the operator types it: the whole of it or its beginning, which the store looks up."""

import re

import click

_DIGITS = re.compile(r"[0-9a-f]{8,64}", re.ASCII)


class MachineId(click.ParamType[str]):
    """8 to 64 hexadecimal digits; in small letters."""

    name = "machine"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """What was typed."""
        typed = str(value).lower()
        if not _DIGITS.fullmatch(typed):
            text = "give the id's 64 hexadecimal digits, or at least the first 8: `mastodon machine list` shows them"
            self.fail(text, parameter, context)
        return typed


MACHINE_ID = MachineId()

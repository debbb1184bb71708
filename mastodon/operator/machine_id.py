"""A machine's id, as the operator types it."""

import click


class MachineId(click.ParamType[str]):
    """64 hexadecimal digits; in small letters."""

    name = "machine"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """What was typed."""
        try:
            known = len(bytes.fromhex(str(value))) == 32
        except ValueError:
            known = False
        if not known:
            self.fail("a machine's id has 64 hexadecimal digits: `mastodon watch show` lists them", parameter, context)
        return str(value).lower()


MACHINE_ID = MachineId()

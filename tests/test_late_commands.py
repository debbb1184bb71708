"""Commands that are imported when they are asked for."""

import subprocess
import sys

import click
from twisted.trial.unittest import SynchronousTestCase

from mastodon.admin.main import COMMANDS, MACHINE_COMMANDS, cli, machine

LOADED = """
import sys
from mastodon.admin.main import run
run(["restore", "--help"])
print(*(name for name in sys.modules if name.startswith("mastodon.admin.")), file=sys.stderr)
"""


class LateCommandTests(SynchronousTestCase):
    def test_each_is_there_under_its_name(self):
        """Whatever the tables name can be had, and is called what they call it."""
        for group, places in ((cli, COMMANDS), (machine, MACHINE_COMMANDS)):
            context = click.Context(group)
            for name in places:
                command = group.get_command(context, name)
                self.assertEqual(command and command.name, name)
                self.assertIn(name, group.list_commands(context))

    def test_unknown(self):
        """What no table names is no command."""
        self.assertIsNone(cli.get_command(click.Context(cli), "nothing"))
        self.assertEqual(machine, cli.get_command(click.Context(cli), "machine"))

    def test_others_are_not_imported(self):
        """A run imports its own command and no other."""
        done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
        self.assertIn("mastodon.admin.restore", done.stderr.split())
        others = {place.partition(":")[0] for place in (*COMMANDS.values(), *MACHINE_COMMANDS.values())}
        self.assertEqual(others & set(done.stderr.split()), {"mastodon.admin.restore"})

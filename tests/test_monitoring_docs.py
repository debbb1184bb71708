"""What is given to Prometheus and Grafana beside the documentation fits the figures that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.metrics import HELP
from mastodon.sealed.events import EventCode
from mastodon.wire.status_messages import WatchState

DOCS = Path(__file__).resolve().parent.parent / "docs"
FOLDER = DOCS / "monitoring"
FIGURE = re.compile(r"\bmastodon_([a-z_]+)")


class FiguresTests(SynchronousTestCase):
    """Names, states and conditions."""

    def test_figures_exist(self) -> None:
        """Rules and dashboard ask for figures, states and conditions that there are."""
        for file in ("alerts.yml", "alerts_test.yml", "grafana.json"):
            text = (FOLDER / file).read_text("utf-8")
            self.assertLessEqual(set(FIGURE.findall(text)), set(HELP), file)
            states = {one.name.lower() for one in WatchState}
            self.assertLessEqual(set(re.findall(r'state=\\?"(\w+)', text)), states, file)
        codes = {one.name.lower() for one in EventCode}
        (named,) = re.findall(r'condition!~"([^"]*)"', (FOLDER / "alerts.yml").read_text("utf-8"))
        self.assertLessEqual(set(named.split("|")), codes)

    def test_every_figure_is_documented(self) -> None:
        """The table names each figure."""
        table = (DOCS / "monitoring.md").read_text("utf-8")
        for name in HELP:
            short = name.removesuffix("timestamp_seconds")
            self.assertTrue(f"`{name}`" in table or f"`{short}`" in table, name)

    def test_dashboard(self) -> None:
        """It is JSON, its panels have numbers of their own and none lies over another."""
        panels = json.loads((FOLDER / "grafana.json").read_text("utf-8"))["panels"]
        self.assertEqual(len({one["id"] for one in panels}), len(panels))
        taken: set[tuple[int, int]] = set()
        for place in (one["gridPos"] for one in panels):
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            self.assertFalse(taken & cells)
            self.assertLessEqual(place["x"] + place["w"], 24)
            taken |= cells

    def test_rules(self) -> None:
        """promtool, where there is one, takes the rules, and each fires when it should."""
        promtool = shutil.which("promtool")
        if promtool is None:
            raise SkipTest("there is no promtool here")
        done = subprocess.run(
            [promtool, "test", "rules", FOLDER / "alerts_test.yml"], capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

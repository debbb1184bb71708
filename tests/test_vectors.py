"""The checked-in test vectors: what they say holds, and making them again gives the same bytes."""

import json

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import errors as sealed_errors
from mastodon.wire import errors as wire_errors
from tests.make_vectors import FILES, FOLDER, content
from tests.vector_checks import CHECKS, outcome

NAMES = {"success", *vars(sealed_errors), *vars(wire_errors)}


class VectorTests(SynchronousTestCase):
    def test_each_has_its_outcome(self):
        """Every vector gives the value that it names, or exactly the error class."""
        checked = set()
        for name in FILES:
            for one in json.loads((FOLDER / f"{name}.json").read_text("ascii")):
                expected = {key: one[key] for key in ("outcome", "value") if key in one}
                self.assertEqual(outcome(one["check"], one["arguments"]), expected, f"{name}: {one['name']}")
                self.assertIn(one["outcome"], NAMES, one["name"])
                checked.add((one["check"], one["outcome"] == "success"))
        self.assertEqual({check for check, good in checked if good}, set(CHECKS), "a success of each")

    def test_made_again_they_are_the_same(self):
        """``python -m tests.make_vectors`` would change nothing."""
        for name in FILES:
            self.assertEqual(content(name), (FOLDER / f"{name}.json").read_text("ascii"), name)

    def test_names(self):
        """Each vector of a file has a name of its own."""
        for name in FILES:
            names = [one["name"] for one in json.loads((FOLDER / f"{name}.json").read_text("ascii"))]
            self.assertEqual(len(names), len(set(names)), name)

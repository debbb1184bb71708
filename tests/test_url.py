"""The machine's URL: one form, and no error that shows the secret."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.errors import Malformed
from mastodon.sealed.schema import clean_text
from mastodon.sealed.url import HOSTS_LIMIT, MachineUrl, decode_key, encode_key, parse_url
from tests.hostile import quick

SECRET = bytes(range(200, 232))
KEY = encode_key(SECRET)
PIN = encode_key(bytes(32))
GOOD = f"mastodon://web01:{KEY}@backup.example.org:7410/?server={PIN}&admin={KEY}"
KEYS = st.lists(st.binary(min_size=32, max_size=32), max_size=HOSTS_LIMIT).map(tuple)
HOSTS = st.lists(
    st.tuples(st.sampled_from(["a.example", "192.0.2.1", "2001:db8::1", "x-y_z"]), st.integers(1, 65535)),
    min_size=1, max_size=HOSTS_LIMIT,
).map(tuple)  # fmt: skip
NAMES = st.text(min_size=1, max_size=60).filter(lambda name: clean_text(name, 255) == name)


class UrlTests(SynchronousTestCase):
    def test_example(self):
        """The design's example, part by part."""
        url = parse_url(GOOD + "\n")
        self.assertEqual(url, MachineUrl("web01", SECRET, (("backup.example.org", 7410),), (bytes(32),), (SECRET,)))
        self.assertEqual(str(url), GOOD)

    @quick
    @given(NAMES, HOSTS, KEYS, KEYS)
    def test_round_trip(self, name, hosts, servers, admins):
        """Every URL comes back: several hosts, IPv6, names with any characters."""
        url = MachineUrl(name, SECRET, hosts, servers, admins)
        self.assertEqual(parse_url(str(url)), url)

    def test_short_forms(self):
        """Port, slash and query may be left out."""
        for rest in ("h", "h/", "h/?", "h:7410", "h:7410/"):
            self.assertEqual(parse_url(f"mastodon://n:{KEY}@{rest}").hosts, (("h", 7410),))
        self.assertEqual(parse_url(f"mastodon://n:{KEY}@a,b:1,[::1]:2").hosts, (("a", 7410), ("b", 1), ("::1", 2)))

    def test_refused(self):
        """Each of these is Malformed, and no text shows the secret."""
        for line in (
            "", "web01", GOOD.replace("mastodon:", "https:"), GOOD.replace(KEY, KEY[:-1], 1),
            GOOD.replace(KEY, KEY + "=", 1), GOOD.replace(KEY, KEY[:-1] + "_", 1), GOOD.replace("web01", ""),
            GOOD.replace("web01", "%ff"), GOOD.replace("web01", "a%0ab"), GOOD.replace("web01", "%00"),
            GOOD.replace("web01", "x" * 256), GOOD.replace(":7410", ":0"), GOOD.replace(":7410", ":65536"),
            GOOD.replace(":7410", ":7410000"), GOOD.replace("backup.", "back up."), GOOD.replace("backup.", "b/p."),
            GOOD + "&x=1", GOOD + "&server=", GOOD + "&server", GOOD.replace(PIN, PIN + "x"), GOOD + "#fragment",
            GOOD + f"&server={PIN}" * HOSTS_LIMIT, GOOD.replace("backup", "a," * HOSTS_LIMIT + "backup"),
            GOOD + "&admin=" + "x" * 5000, GOOD.replace("backup", ",backup"), GOOD.replace("backup", "\udc80"),
            GOOD.replace("backup.example.org", "[::1"), GOOD.replace("backup.example.org", "::1"),
        ):  # fmt: skip
            error = self.assertRaises(Malformed, parse_url, line)
            self.assertNotIn(KEY[:20], str(error), line)

    def test_repr_hides_the_secret(self):
        """What a log or a traceback would show of it holds no secret."""
        self.assertNotIn(KEY, repr(parse_url(GOOD)))
        self.assertNotIn(repr(SECRET)[2:20], repr(parse_url(GOOD)))

    @quick
    @given(st.text())
    def test_fuzz(self, line):
        """Any line is Malformed, or comes back."""
        for candidate in (line, f"mastodon://n:{KEY}@{line}", f"mastodon://{line}:{KEY}@h", GOOD + line):
            try:
                url = parse_url(candidate)
            except Malformed:
                continue
            self.assertEqual(parse_url(str(url)), url)


class KeyTests(SynchronousTestCase):
    @quick
    @given(st.binary(min_size=32, max_size=32))
    def test_round_trip(self, key):
        """43 characters, and back."""
        self.assertEqual((len(encode_key(key)), decode_key(encode_key(key), "it")), (43, key))

    def test_canonical(self):
        """One key has one form: no padding, no other alphabet, no stray bits, nothing around it."""
        for bad in (KEY + "=", KEY[:-1], KEY + "A", " " + KEY[1:], KEY[:-1] + "+", "", "ä" * 43, PIN[:-1] + "B"):
            self.assertIn("the pin", str(self.assertRaises(Malformed, decode_key, bad, "the pin")))

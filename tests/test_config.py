"""The daemon's configuration: read whole, or refused with file, key and reason."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.config import ConfigError, ListenConfig, load_config, parse_size
from mastodon.sealed.url import encode_key

GOOD = f"""
name = "backup.example.org"
state = "state"
[append]
listen = "0.0.0.0"
port = 7410
[restore]
listen = "127.0.0.1"
port = 7411
[keys]
server_key = "keys/server.key"
server_certificate = "keys/server.crt"
ledger_key = "keys/ledger.key"
spare_pins = ["{encode_key(b"p" * 32)}"]
[[spool]]
path = "/srv/one"
weight = 2
reserve = "10 GiB"
[[spool]]
path = "two"
[limits]
connections = 500
[telling]
smtp_host = "mail.example.org"
user = "mastodon"
password_file = "keys/smtp"
operator = ["ops@example.org"]
"""


class LoadTests(SynchronousTestCase):
    """What load_config takes and refuses."""

    def load(self, text: str) -> object:
        self.file = Path(self.mktemp())
        self.file.write_text(text, "utf-8")
        return load_config(self.file)

    def refusal(self, old: str, new: str) -> str:
        self.assertIn(old, GOOD)
        error = self.assertRaises(ConfigError, self.load, GOOD.replace(old, new, 1))
        self.assertIn(str(self.file), str(error))
        return str(error)

    def test_good(self) -> None:
        """Paths are relative to the file, absent values have their defaults."""
        config = load_config(self._written())
        base = config.file.parent
        self.assertEqual(config.name, "backup.example.org")
        self.assertEqual(config.state, base / "state")
        self.assertEqual([spool.path for spool in config.spools], [Path("/srv/one"), base / "two"])
        self.assertEqual([spool.weight for spool in config.spools], [2, 1])
        self.assertEqual([spool.reserve for spool in config.spools], [10 << 30, 1 << 30])
        self.assertEqual((config.append.port, config.restore.address), (7410, "127.0.0.1"))
        self.assertEqual(config.keys.spare_pins, (b"p" * 32,))
        self.assertEqual((config.limits.connections, config.limits.handshake_seconds), (500, 20))
        telling = config.telling
        self.assertEqual((telling.smtp_host, telling.smtp_port, telling.starttls), ("mail.example.org", 587, True))
        self.assertEqual((telling.sender, telling.operator), ("mastodon@backup.example.org", ("ops@example.org",)))
        self.assertEqual((telling.password_file, telling.digest_hour), (base / "keys/smtp", 6))
        self.assertFalse(telling.allow_private)

    def test_metrics(self) -> None:
        """Figures for Prometheus are off unless they are asked for, and then on loopback."""
        self.assertIsNone(load_config(self._written()).metrics)
        for lines, expected in (
            ("", ListenConfig("127.0.0.1", 7412)),
            ('listen = "::"\nport = 9000\n', ListenConfig("::", 9000)),
        ):
            file = Path(self.mktemp())
            file.write_text(f"{GOOD}[metrics]\n{lines}", "utf-8")
            self.assertEqual(load_config(file).metrics, expected)
        self.assertIn(": metrics.path", self.refusal("[limits]", '[metrics]\npath = "/x"\n[limits]'))

    def _written(self) -> Path:
        file = Path(self.mktemp())
        file.write_text(GOOD, "utf-8")
        return file

    def test_refusals_name_the_key(self) -> None:
        """Each mistake is said with its key."""
        for old, new, key in (
            ("name =", "nmae =", "name"),
            ("port = 7410", "port = 70000", "append.port"),
            ("port = 7410", 'port = "7410"', "append.port"),
            ("port = 7410", "port = true", "append.port"),
            ('listen = "0.0.0.0"', 'listen = "everywhere"', "append.listen"),
            ('state = "state"', "state = 3", "state"),
            ('reserve = "10 GiB"', 'reserve = "10 GB"', "spool[1].reserve"),
            ("weight = 2", "weight = -1", "spool[1].weight"),
            ("weight = 2", "wieght = 2", "spool[1].wieght"),
            ("connections = 500", "connections = 0", "limits.connections"),
            ("connections = 500", "conections = 1", "limits.conections"),
            ('smtp_host = "mail.example.org"', "", "telling.operator"),
            ('user = "mastodon"', "", "telling.user"),
            ('password_file = "keys/smtp"', "", "telling.user"),
            ('user = "mastodon"', 'user = "mastodon"\nstarttls = false', "telling.user"),
            ('user = "mastodon"', 'user = "m\u00e4"', "telling.user"),
            ('["ops@example.org"]', '["ops"]', "telling.operator"),
            ('["ops@example.org"]', '"ops@example.org"', "telling.operator"),
            ('operator = ["ops@example.org"]', "digest_hour = 24", "telling.digest_hour"),
            ('operator = ["ops@example.org"]', 'allow_private = "yes"', "telling.allow_private"),
            ('operator = ["ops@example.org"]', 'from = "a@b, c@d"', "telling.from"),
            ('operator = ["ops@example.org"]', "smtp_port = 0", "telling.smtp_port"),
            ('operator = ["ops@example.org"]', "smtp = 1", "telling.smtp"),
            ('name = "backup.example.org"', 'name = "10.0.0.1"', "telling.from"),
            (encode_key(b"p" * 32), "short", "keys.spare_pins"),
            ("[restore]", "[restor]", "restore"),
            ('path = "two"', 'path = "/srv/one"', "spool"),
            ("port = 7411", "port = 7410", "spool"),
        ):
            with self.subTest(new=new):
                changed = old, new
                if key == "spool" and "port" in new:
                    changed = '"127.0.0.1"\nport = 7411', '"0.0.0.0"\nport = 7410'
                    key = "restore.port"
                self.assertIn(f": {key}", self.refusal(*changed))

    def test_no_toml(self) -> None:
        """What is not TOML, or not there, is said as such."""
        self.assertIn("not TOML", str(self.assertRaises(ConfigError, self.load, "name = ")))
        missing = Path(self.mktemp())
        self.assertIn("cannot be read", str(self.assertRaises(ConfigError, load_config, missing)))

    def test_no_spool(self) -> None:
        """Without a spool there is nothing to start."""
        self.assertIn("[[spool]]", self.assertRaises(ConfigError, self.load, GOOD.split("[[spool]]")[0]).args[0])

    def test_sizes(self) -> None:
        """Bytes, or a number with a binary unit."""
        self.assertEqual([parse_size(one) for one in (5, "5", "5 KiB", "5MiB")], [5, 5, 5120, 5 << 20])
        for bad in (-1, True, 1.5, "5 kb", "", "-5", "5 GiB!"):
            self.assertRaises(ValueError, parse_size, bad)

"""The agent's sealing pair: made once, taken back only where it fits, opened by exactly whom it was made for."""

import os
import secrets
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from mastodon.host.openpgp import NoSecretKey, open_sealed
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.pair import EnvelopeMode, PairRecord, open_payload
from mastodon.sealed.record import record_hash
from mastodon.sealed.snapshot import Notice
from mastodon_agent import facts
from mastodon_agent.pairing import Credentials, NewSealingPair, adopt, load_recipients, make_pair
from mastodon_agent.refusals import RecipientsRefused
from tests.agent_runs import AgentCase
from tests.test_openpgp import shared_keyring


class PairCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.secret = MachineSecret(secrets.token_bytes(32))
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        patcher = mock.patch("mastodon.sealed.pair.SCRYPT_N", 2)
        patcher.start()
        self.addCleanup(patcher.stop)

    def make(self, credentials: Credentials, before: bytes = b"") -> NewSealingPair:
        return make_pair(self.secret, credentials, before, 1, secrets.token_bytes)

    def recipients(self, *names: str) -> tuple[bytes, ...]:
        return load_recipients(self.directory, [shared_keyring().public(name, armor=True) for name in names])


class MakeTests(PairCase):
    """New pairs."""

    def test_passphrase(self):
        """The envelope opens with the passphrase and holds the record's private half."""
        made = self.make(Credentials(b"pass", ()))
        record = PairRecord.verify(made.signed, self.secret.public_key)
        self.assertEqual((record.number, record.previous, record.mode), (1, b"", EnvelopeMode.PASSPHRASE))
        open_payload(open_sealed(made.envelope, passphrase=b"pass"), record)

    def test_recipients_alone(self):
        """The machine cannot open it: there is no passphrase in it. The recipient's key opens it."""
        made = self.make(Credentials(None, self.recipients("paper@")))
        self.assertEqual(made.record.mode, EnvelopeMode.RECIPIENTS)
        self.assertEqual(len(made.record.recipients), 1)
        self.assertRaises(NoSecretKey, open_sealed, made.envelope, passphrase=b"pass")
        open_payload(open_sealed(made.envelope, homedir=shared_keyring().home), made.record)

    def test_both(self):
        """Either opens it."""
        made = self.make(Credentials(b"pass", self.recipients("paper@", "other@")))
        self.assertEqual((made.record.mode, len(made.record.recipients)), (EnvelopeMode.BOTH, 2))
        open_payload(open_sealed(made.envelope, passphrase=b"pass"), made.record)
        open_payload(open_sealed(made.envelope, homedir=shared_keyring().home), made.record)

    def test_chain(self):
        """Each pair names the one before it; a record that is not ours does not count."""
        first = self.make(Credentials(b"one", ()))
        second = self.make(Credentials(b"two", ()), first.signed)
        self.assertEqual((second.record.number, second.record.previous), (2, record_hash(first.signed)))
        foreign = MachineSecret(secrets.token_bytes(32))
        other = make_pair(foreign, Credentials(b"x", ()), b"", 1, secrets.token_bytes)
        self.assertEqual(self.make(Credentials(b"one", ()), other.signed).record.number, 1)


class AdoptTests(PairCase):
    """A pair that the server offers."""

    def test_fits(self):
        """The same passkey and recipients, in any order of the files: it is taken back."""
        one = Credentials(b"pass", self.recipients("paper@", "other@"))
        made = self.make(one)
        again = Credentials(b"pass", self.recipients("other@", "paper@"))
        self.assertEqual(adopt(made.signed, self.secret, again), made.record)

    def test_promise_p5_what_does_not_fit_is_not_taken(self):
        """Another passkey, other recipients, another mode, another machine, a changed record, rubbish."""
        paper, other = self.recipients("paper@"), self.recipients("other@")
        made = self.make(Credentials(b"pass", paper))
        for credentials in (
            Credentials(b"Pass", paper), Credentials(None, paper), Credentials(b"pass", ()),
            Credentials(b"pass", other), Credentials(b"pass", paper + other),
        ):  # fmt: skip
            self.assertIsNone(adopt(made.signed, self.secret, credentials))
        right = Credentials(b"pass", paper)
        self.assertIsNone(adopt(made.signed, MachineSecret(secrets.token_bytes(32)), right))
        for at in range(0, len(made.signed), 97):
            changed = made.signed[:at] + bytes([made.signed[at] ^ 1]) + made.signed[at + 1 :]
            self.assertIsNone(adopt(changed, self.secret, right))
        self.assertIsNone(adopt(b"rubbish", self.secret, right))
        self.assertEqual(adopt(made.signed, self.secret, right), made.record)


class RecipientsTests(PairCase):
    """Key files in their short form."""

    def test_gpg_runs_once(self):
        """The second time, the short form is remembered by the files' hash."""
        first = self.recipients("paper@")
        with mock.patch("mastodon.host.openpgp.export_minimal", side_effect=AssertionError):
            self.assertEqual(self.recipients("paper@"), first)
            self.assertRaises(AssertionError, self.recipients, "other@")

    def test_damaged_memory(self):
        """It is made again."""
        first = self.recipients("paper@")
        path = os.path.join(self.directory, "recipients")
        with open(path, "r+b") as file:
            file.seek(40)
            file.write(b"damage")
        self.assertEqual(self.recipients("paper@"), first)

    def test_none(self):
        """No key files, no gpg."""
        self.assertEqual(load_recipients(self.directory, []), ())

    def test_too_many(self):
        """The pair record bounds them."""
        with mock.patch("mastodon.host.openpgp.export_minimal", lambda data: [data + bytes([n]) for n in range(9)]):
            self.assertRaises(RecipientsRefused, load_recipients, self.directory, [b"a", b"b"])


class NewPairTests(AgentCase):
    """In runs."""

    def test_a_new_pair_sends_everything_again(self):
        """Under another passkey nothing that was sealed to the old pair counts."""
        content = os.urandom(200_000)
        self.write("a", content)
        self.back_up()
        outcome = self.back_up(credentials=Credentials(b"another", ()))
        self.assertIn(Notice.NEW_PAIR, outcome.notices)
        self.assertGreater(outcome.sent_bytes, 200_000)
        self.assertEqual(self.content("a"), content)
        self.assertLess(self.back_up(credentials=Credentials(b"another", ())).sent_bytes, 50_000)

    def test_a_server_that_offers_an_older_pair(self):
        """It gets a new one, not data under the old."""
        self.write("a")
        self.back_up()
        self.back_up(credentials=Credentials(b"second", ()))
        self.vault.pairs.pop()
        self.vault.snapshots.clear()
        self.back_up(credentials=Credentials(b"second", ()))
        self.assertEqual(len(self.vault.pairs), 2)
        newest = PairRecord.verify(self.vault.newest_pair(), self.secret.public_key)
        self.assertEqual(self.vault.record().pair, newest.pair)


class FactsTests(SynchronousTestCase):
    """What the root says of the machine."""

    def test_facts_are_bounded_and_have_names(self):
        """os-release and uname are there; nothing is longer than its bound; a tool that hangs is left."""
        with mock.patch("mastodon_agent.facts.TIMEOUT_S", 0.2), mock.patch("mastodon_agent.facts.PATH", self.tools()):
            found = dict(facts.HostFacts().collect())
        self.assertIn("uname", found)
        self.assertTrue(all(0 < len(text) <= facts.FACT_LIMIT for text in found.values()))
        if os.geteuid() == 0:
            self.assertEqual(found["lsblk"], b"x" * facts.FACT_LIMIT)
            self.assertNotIn("blkid", found)

    def tools(self) -> str:
        """An lsblk that says too much, and a blkid that never ends."""
        folder: str = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        for name, script in (("lsblk", "head -c 100000 /dev/zero | tr '\\0' x"), ("blkid", "exec sleep 60")):
            path = os.path.join(folder, name)
            with open(path, "w") as file:
                file.write(f"#!/bin/sh\n{script}\n")
            os.chmod(path, 0o755)
        return folder + ":/usr/bin:/bin"

    def test_zone_and_name(self):
        """As TZ has it; clean text."""
        with mock.patch.dict(os.environ, {"TZ": ":Europe/Paris"}):
            self.assertEqual(facts.time_zone(), "Europe/Paris")
        self.assertTrue(facts.hostname())

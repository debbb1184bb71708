"""A spool: when it is written to, and when it had better not be."""

import os
import shutil
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.config import SpoolConfig
from mastodon.daemon.errors import SpoolFull, StoreError, Unavailable
from mastodon.daemon.events import EventCode
from mastodon.daemon.opening import StateLock
from mastodon.daemon.spool import Spool, day_of, install_recovery, make_spool
from mastodon.daemon.spools import SpoolMemory, Spools
from mastodon.host.durable import DiskError
from mastodon.host.spool_layout import (
    MARKER,
    BadMarker,
    Marker,
    NoSpool,
    decode_marker,
    pack_days,
    packs_of_day,
    read_marker,
)
from mastodon.sealed.blob import BlobKind
from tests.store_case import Admin, StoreCase


class MarkerTests(SynchronousTestCase):
    """The file that says which spool a directory is."""

    def test_round_trip(self) -> None:
        """What is written is read."""
        marker = Marker(b"u" * 16, 7, (b"a" * 16, b"b" * 16))
        self.assertEqual(decode_marker(marker.encode()), marker)

    def test_bad_markers(self) -> None:
        """What is no marker, or of a later layout, is refused."""
        good = Marker(b"u" * 16).encode()
        for bad in (
            b"", b"{}", b"[]", b"null", b"\xff", good[:-3], good.replace(b'"layout": 1', b'"layout": 2'),
            good.replace(b"75", b"", 1), good.replace(b'"generation": 0', b'"generation": -1'), b"[" * 100_000,
        ):  # fmt: skip
            self.assertRaises(BadMarker, decode_marker, bad)

    def test_no_marker(self) -> None:
        """A directory without one, or none at all, is no spool."""
        self.assertRaises(NoSpool, read_marker, self.mktemp())


class MakeTests(SynchronousTestCase):
    """New spools."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).resolve()

    def test_make(self) -> None:
        """A new directory becomes a spool; again it is refused, as is one that holds something."""
        make_spool(self.path, b"u" * 16, (b"s" * 16,))
        self.assertEqual(read_marker(self.path), Marker(b"u" * 16, 0, (b"s" * 16,)))
        self.assertIn("already", str(self.assertRaises(StoreError, make_spool, self.path, b"v" * 16)))
        other = Path(self.mktemp())
        other.mkdir()
        (other / "holiday.jpg").write_bytes(b"")
        self.assertIn("not empty", str(self.assertRaises(StoreError, make_spool, other, b"v" * 16)))

    def test_recovery_is_copied(self) -> None:
        """Tool, wheels and specification lie in the spool afterwards, executable as they were."""
        source = Path(self.mktemp())
        (source / "wheels").mkdir(parents=True)
        (source / "mastodon-recover").write_bytes(b"#!/usr/bin/env python3\n")
        (source / "mastodon-recover").chmod(0o755)
        (source / "wheels" / "zstandard.whl").write_bytes(b"wheel")
        make_spool(self.path, b"u" * 16)
        self.assertEqual(install_recovery(self.path, source), 2)
        self.assertEqual(install_recovery(self.path, source), 2)
        self.assertEqual((self.path / "recovery/wheels/zstandard.whl").read_bytes(), b"wheel")
        self.assertTrue(os.access(self.path / "recovery/mastodon-recover", os.X_OK))

    def test_days(self) -> None:
        """Packs lie under their day in UTC, and are found there; other files are passed over."""
        self.assertEqual(day_of(1_800_000_000 * 10**9), "2027/01/15")
        directory = self.path / "packs/2027/01/15"
        directory.mkdir(parents=True)
        for name in (f"{'ab' * 32}.pack", "notes.txt", "xy.pack", f".tmp-{'ab' * 32}.pack", f"{'ab' * 31}.pack"):
            (directory / name).write_bytes(b"")
        self.assertEqual(pack_days(self.path), ["2027/01/15"])
        self.assertEqual([id for id, _ in packs_of_day(self.path, "2027/01/15")], [b"\xab" * 32])


class ChoiceTests(SynchronousTestCase):
    """Which spool takes the next pack."""

    def spools(self, *shares: tuple[int, int]) -> Spools:
        """Spools of these weights and usable bytes."""
        paths = [Path(self.mktemp()).resolve() for _ in shares]
        configs = [SpoolConfig(path, weight, 0) for path, (weight, _) in zip(paths, shares, strict=True)]
        spools = Spools(configs, SpoolMemory(Path(self.mktemp())))
        for spool, (_, usable) in zip(spools.all, shares, strict=True):
            spool.offline = ""
            self.patch(spool, "usable", partial(int, usable))
        return spools

    def counts(self, spools: Spools, turns: int) -> list[int]:
        chosen = [spools.choose(10) for _ in range(turns)]
        return [chosen.count(spool) for spool in spools.all]

    def test_in_proportion(self) -> None:
        """Turns follow weight times usable space."""
        self.assertEqual(self.counts(self.spools((1, 100), (1, 100)), 10), [5, 5])
        self.assertEqual(self.counts(self.spools((3, 100), (1, 100)), 12), [9, 3])
        self.assertEqual(self.counts(self.spools((1, 100), (1, 300)), 12), [3, 9])

    def test_full_ones_are_left_out(self) -> None:
        """A spool with less than a pack's room is not chosen; with none left that is said."""
        self.assertEqual(self.counts(self.spools((1, 9), (1, 100)), 4), [0, 4])
        self.assertRaises(SpoolFull, self.spools((1, 9), (0, 100)).choose, 10)
        spools = self.spools((1, 100))
        spools.all[0].offline = "broken"
        self.assertRaises(Unavailable, spools.choose, 10)


class DoubtTests(StoreCase):
    """Spools that are not what they were. Each time, the spool is left as it is, and the other one serves."""

    def offline(self) -> list[str]:
        return [one.offline for one in self.store.list_spools()]

    def contents(self) -> dict[str, bytes]:
        root = self.setting.spools[0]
        return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()} if root.is_dir() else {}

    def assert_left_alone(self, text: str) -> None:
        before = self.contents()
        self.start_again()
        self.assertIn(text, self.offline()[0])
        self.assertEqual(self.offline()[1], "")
        self.send(self.machine.tree(b"goes to the other"))
        self.stop()
        self.assertEqual(self.contents(), before)
        self.start_again()
        self.assertIn(EventCode.SPOOL_OFFLINE, self.events())

    def test_not_mounted(self) -> None:
        """Without its marker a directory is not written to."""
        self.stop()
        shutil.rmtree(self.setting.spools[0])
        self.setting.spools[0].mkdir()
        self.assert_left_alone("not mounted")

    def test_unmounted_while_running(self) -> None:
        """When the marker goes away, packs and ledger land nowhere but on the other spool."""
        (self.setting.spools[0] / MARKER).rename(self.setting.directory / "elsewhere")
        outcomes = set()
        for number in range(4):
            try:
                self.send([self.machine.blob(BlobKind.BUNDLE, [], b"%d" % number)])
                outcomes.add("stored")
            except Unavailable:
                outcomes.add("refused")
        self.assertEqual(outcomes, {"stored", "refused"})
        self.assertEqual({path.parents[4].name for path in self.packs()}, {"spool1"})
        self.assertIn("not mounted any more", self.offline()[0])
        (self.setting.directory / "elsewhere").rename(self.setting.spools[0] / MARKER)

    def test_anothers(self) -> None:
        """Another spool in the place of a known one is not taken."""
        self.stop()
        shutil.rmtree(self.setting.spools[0])
        make_spool(self.setting.spools[0], b"o" * 16)
        self.assert_left_alone("another spool")

    def test_promise_p9_spool_of_a_running_daemon(self) -> None:
        """A spool that another daemon uses, one with a state directory of its own, is not touched."""
        self.stop()
        other = StateLock(self.setting.directory / "state of another")
        self.addCleanup(other.release)
        self.assertTrue(other.take(self.setting.spools[0]))
        self.assert_left_alone("in use by another daemon")
        self.stop()
        self.assertTrue(other.take(self.setting.spools[1]))
        self.assertRaises(StoreError, self.start_again)
        other.release()
        self.start_again()
        self.assertEqual(self.offline(), ["", ""])

    def test_copy_of_a_sibling(self) -> None:
        """A copy of the other spool is not taken for a spool of its own."""
        self.stop()
        shutil.rmtree(self.setting.spools[0])
        (self.setting.state / "spools.json").unlink()
        shutil.copytree(self.setting.spools[1], self.setting.spools[0])
        self.start_again()
        self.assertEqual(self.offline()[0], "")
        self.assertIn("copy", self.offline()[1])

    def test_promise_p7_generation_went_back(self) -> None:
        """A spool restored from an image of last week is noticed."""
        self.stop()
        shutil.copytree(self.setting.spools[0], self.setting.directory / "image")
        self.start_again()
        self.stop()
        shutil.rmtree(self.setting.spools[0])
        (self.setting.directory / "image").rename(self.setting.spools[0])
        self.assert_left_alone("went back in time")

    def test_promise_p7_ledger_went_back(self) -> None:
        """A spool whose ledger lost what it was known to hold is noticed, whatever its marker says."""
        self.stop()
        segment = next(self.setting.spools[0].glob("ledger/*/*.ledger"))
        segment.write_bytes(segment.read_bytes()[:1000])
        self.assert_left_alone("ledger")

    def test_let_in_again(self) -> None:
        """Once the operator says so, it is taken as it is, and completed."""
        self.test_promise_p7_ledger_went_back()
        self.stop()
        SpoolMemory(self.setting.state).forget(self.setting.spools[0], b"\1" * 16)
        self.start_again()
        self.assertEqual(self.offline(), ["", ""])
        one, other = (next(spool.glob("ledger/*/*.ledger")) for spool in self.setting.spools)
        self.assertEqual(one.read_bytes(), other.read_bytes())

    def test_forked_ledger(self) -> None:
        """A copy of the ledger that says something else is damage: its spool stays offline."""
        self.stop()
        other = self.setting.spools[1].rename(self.setting.directory / "away")
        memory = (self.setting.state / "spools.json").read_bytes()
        self.start_again()
        self.wait(self.store.add_admin("bob", self.second_request(2)))
        self.stop()
        first = self.setting.spools[0].rename(self.setting.directory / "first")
        other.rename(self.setting.spools[1])
        (self.setting.state / "spools.json").write_bytes(memory)
        (self.setting.state / "heads").unlink()
        self.start_again()
        self.wait(self.store.confirm(self.store.head_text()))
        self.wait(self.store.add_admin("carol", self.second_request(3)))
        self.wait(self.store.add_admin("dave", self.second_request(4)))
        self.stop()
        first.rename(self.setting.spools[0])
        (self.setting.state / "spools.json").write_bytes(memory)
        self.assert_left_alone("forks")

    def second_request(self, number: int) -> bytes:
        return Admin("x", number).request()

    def test_leftovers_are_swept(self) -> None:
        """What an interrupted receipt left in incoming/ is removed at start."""
        self.stop()
        (self.setting.spools[0] / "incoming" / ".tmp-left").write_bytes(b"half a pack")
        self.start_again()
        self.assertEqual(list((self.setting.spools[0] / "incoming").iterdir()), [])

    def test_offline_and_back(self) -> None:
        """A spool that was away catches up with the ledger, and its packs are served again."""
        first = [self.machine.blob(BlobKind.BUNDLE, [], b"%d" % number) for number in range(4)]
        for blob in first:
            self.send([blob])
        self.stop()
        away = self.setting.spools[0].rename(self.setting.directory / "away")
        self.start_again()
        located = self.wait(self.store.locate(self.admin.tenant, self.machine.id, [one[0] for one in first]))
        self.assertEqual(len(located.missing), 2)
        blobs = self.machine.tree(b"meanwhile")
        self.send(blobs)
        self.commit(blobs[-1][0])
        self.stop()
        away.rename(self.setting.spools[0])
        self.start_again()
        self.assertEqual(self.offline(), ["", ""])
        one, other = (next(spool.glob("ledger/*/*.ledger")) for spool in self.setting.spools)
        self.assertEqual(one.read_bytes(), other.read_bytes())
        self.fetch([blob[0] for blob in first])

    def test_none_left(self) -> None:
        """With no spool that can be used the store does not start, and says why for each."""
        self.stop()
        for spool in self.setting.spools:
            (spool / MARKER).unlink()
        error = self.assertRaises(StoreError, lambda: self.wait(self.setting.store().start()))
        for spool in self.setting.spools:
            self.assertIn(str(spool), str(error))
            (spool / MARKER).write_bytes(Marker(bytes([self.setting.spools.index(spool) + 1]) * 16, 9).encode())
        self.start_again()


class SpoolTests(SynchronousTestCase):
    """The object itself."""

    def test_directory_cannot_be_made(self) -> None:
        """A directory that cannot be made is the disk's error."""
        path = Path(self.mktemp()).resolve()
        make_spool(path, b"u" * 16)
        (path / "packs" / "2027").write_bytes(b"a file in the way")
        spool = Spool(SpoolConfig(path, 1, 0))
        self.assertRaises(DiskError, spool.directory, "packs/2027/01/15")

    def test_usable(self) -> None:
        """Usable is what is free beyond the reserve, and nothing where there is no directory."""
        path = Path(self.mktemp()).resolve()
        make_spool(path, b"u" * 16)
        self.assertGreater(Spool(SpoolConfig(path, 1, 0)).usable(), 0)
        self.assertEqual(Spool(SpoolConfig(path, 1, 1 << 62)).usable(), 0)
        self.assertEqual(Spool(SpoolConfig(path / "nowhere", 1, 0)).usable(), 0)

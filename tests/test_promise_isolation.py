"""Foreign is unknown (P6): the same answer, byte for byte, after the same look-ups, for every verb, on both ports."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from bench.blocking_peers import AppendPeer, TinyMachine
from mastodon.catalogue.interface import Certificate
from mastodon.catalogue.sqlite import SqliteCatalogue
from mastodon.daemon.errors import NotFound, Refused
from mastodon.daemon.execute import VERBS
from mastodon.daemon.restore_requests import LISTS, Desk, blobs
from mastodon.daemon.status import Status
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import Role
from mastodon.sealed.statement import MachineContent, PinContent, PolicyContent, StatementVerb, encode_content
from mastodon.wire.errors import ErrorCode
from mastodon.wire.restore_messages import REQUESTS, FetchRequest
from tests.running_server import ServerTestCase
from tests.store_case import Admin, Machine, StoreCase
from tests.test_restore_messages import FROM_CLIENT as SAMPLES

NO_SUCH = NotFound, ErrorCode.NOT_FOUND, "no such machine", ()
UNKNOWN = b"\xee" * 32


class LookUps:
    """The SQL that a catalogue runs, the ids asked for all written alike."""

    def __init__(self, catalogue: SqliteCatalogue) -> None:
        self._catalogue = catalogue
        self._said: list[str] = []

    def listen(self) -> list[Deferred[None]]:
        """Both of its connections."""
        lanes = (("reader", self._catalogue._reader_lane), ("writer", self._catalogue._writer_lane))
        return [
            lane.run(self._catalogue._connections[name].set_trace_callback, self._said.append) for name, lane in lanes
        ]

    def of(self, *ids: bytes) -> list[str]:
        """What was said since the last call."""
        said, self._said[:] = list(self._said), []
        for id in ids:
            said = [line.replace(id.hex(), "ID") for line in said]
        return said


class StoreTests(StoreCase):
    """Beneath the ports, where look-ups can be counted."""

    def setUp(self) -> None:
        super().setUp()
        self.bob = Admin("bob", 2)
        self.wait(self.store.add_admin("bob", self.bob.request()))
        self.send(self.machine.tree(b"alice's"))
        self.wait(Deferred.fromCoroutine(self.store._ready().intake.drain()))
        catalogue = self.store._ready().catalogue
        assert isinstance(catalogue, SqliteCatalogue)
        self.look_ups = LookUps(catalogue)
        for listening in self.look_ups.listen():
            self.wait(listening)

    def told(self, ask: Callable[[bytes], Any], id: bytes) -> tuple[object, list[str]]:
        """What comes of a question about a machine, and what was looked up for it."""
        self.look_ups.of()
        try:
            answer: object = self.wait(Deferred.fromCoroutine(_awaited(ask(id))))
        except Refused as error:
            answer = (type(error), error.code, error.text, error.context)
        return answer, self.look_ups.of(id)

    def same(self, ask: Callable[[bytes], Any], what: object) -> object:
        """Demand that a foreign machine cannot be told from one that does not exist; the answer."""
        foreign, unknown = self.told(ask, self.machine.id), self.told(ask, UNKNOWN)
        self.assertEqual(foreign, unknown, what)
        self.assertNotEqual(foreign[1], [], what)
        return foreign[0]

    def test_promise_p6_every_request(self):
        """Whatever a request asks of a machine: no such machine, after the same look-ups, to admin and monitor."""
        desk = Desk(self.store, Status(self.store, 0, lambda machine: False), (b"s" * 32,), lambda: ("h:1",))
        asked = []
        for sample in SAMPLES:
            if "machine" not in {field.name for field in fields(sample)}:
                continue
            serve: Any = blobs if isinstance(sample, FetchRequest) else LISTS[type(sample)]
            for role in (Role.ADMIN, Role.MONITOR):
                asker = Certificate(self.bob.pin, self.bob.tenant, role, "bob's")
                answer = self.same(partial(self.request, serve, desk, asker, sample), type(sample))
                self.assertIn(answer, (NO_SUCH, []))
            asked.append(type(sample))
        of_machines = [one for one in REQUESTS.values() if "machine" in {field.name for field in fields(one)}]
        self.assertEqual(set(asked), set(of_machines))

    def test_promise_p6_every_statement(self):
        """What a statement says of a machine, or of a client key: nothing shows whether another admin has it."""
        of_machine: dict[StatementVerb, Callable[[bytes], bytes]] = {
            StatementVerb.DISABLE_MACHINE: lambda id: encode_content(MachineContent(id)),
            StatementVerb.ENABLE_MACHINE: lambda id: encode_content(MachineContent(id)),
            StatementVerb.CLOSE_GENERATION: lambda id: encode_content(MachineContent(id)),
            StatementVerb.POLICY: lambda id: encode_content(PolicyContent(id, (("quota.bytes", "1"),))),
        }
        for verb, content in of_machine.items():
            answer = self.same(partial(self.state_of, verb, content), verb)
            self.assertEqual(answer, NO_SUCH, verb)
        remove = lambda pin: self.state(StatementVerb.REMOVE_CERTIFICATE, encode_content(PinContent(pin)))  # noqa: E731
        foreign, unknown = self.told(remove, self.admin.pin), self.told(remove, UNKNOWN)
        self.assertEqual(foreign, unknown)
        others = {StatementVerb.ENROL, StatementVerb.SWAP_BOOK, StatementVerb.REGISTER_CERTIFICATE}
        self.assertEqual({*of_machine, StatementVerb.REMOVE_CERTIFICATE, *others}, set(VERBS))

    def request(self, serve: Any, desk: Desk, asker: Certificate, sample: Any, id: bytes) -> Any:
        return serve(desk, asker, replace(sample, machine=id))

    def state_of(self, verb: StatementVerb, content: Callable[[bytes], bytes], id: bytes) -> Deferred[None]:
        return self.state(verb, content(id))

    def state(self, verb: StatementVerb, content: bytes) -> Deferred[None]:
        """Bob's statement; the counter is the same each time, since none of them is taken."""
        self.bob.counter = 0
        statement = self.bob.statement(verb, content, self.clock.now)
        return self.store.execute(self.bob.tenant, self.bob.pin, statement, b"")

    def test_promise_p6_events(self):
        """Another admin's event cannot be acknowledged, nor told from one that does not exist."""
        self.execute(StatementVerb.DISABLE_MACHINE, encode_content(MachineContent(self.machine.id)))
        (event,) = self.wait(self.store._ready().catalogue.events(0, 10, self.admin.tenant, [EventCode.WATCH_WEAKENED]))

        def acknowledge(number: bytes) -> Deferred[None]:
            return self.store.acknowledge(self.bob.tenant, self.bob.pin, (int.from_bytes(number, "big"),))

        answers = [self.told(acknowledge, one.to_bytes(8, "big")) for one in (event.sequence, 1 << 40)]
        self.assertEqual(answers[0][0], answers[1][0])
        self.assertEqual(len(answers[0][1]), len(answers[1][1]))

    def test_promise_p6_strangers(self):
        """Before it has proven anything, whoever names a machine makes the server look up the same, whether that
        machine is active, disabled, closed or unknown."""
        seen = []
        self.enrol(Machine(2))
        for verb in (StatementVerb.DISABLE_MACHINE, StatementVerb.CLOSE_GENERATION):
            seen.append(self.told(self.store.standing, self.machine.id)[1])
            self.execute(verb, encode_content(MachineContent(self.machine.id)))
        seen += [self.told(self.store.standing, id)[1] for id in (self.machine.id, Machine(2).id, UNKNOWN)]
        self.assertEqual(seen, [seen[0]] * 5)
        self.assertEqual(sum(line.startswith("SELECT") for line in seen[0]), 1)


async def _awaited(work: Any) -> Any:
    return await work


class AppendPortTests(ServerTestCase):
    """The append port, over the wire."""

    def answer(self, hello: Callable[[AppendPeer], Any]) -> list[tuple[int, bytes]]:
        """All frames that a HELLO is answered with, up to the end."""
        with self.server.append_peer() as peer:
            peer.send(hello(peer))
            frames = []
            while (frame := peer.frame()) is not None:
                frames.append(frame)
            return frames

    def test_promise_p6_hello(self) -> Deferred[None]:
        """Without the machine's key the answer is the same whether the machine is active, disabled, closed or does not
        exist; that it is disabled is told to the machine alone."""

        def attack() -> None:
            machines = {}
            for verb in (None, StatementVerb.DISABLE_MACHINE, StatementVerb.CLOSE_GENERATION):
                secret = self.server.enrol(self.tenant)
                machines[secret] = verb
                if verb is not None:
                    self.server.state(self.tenant, verb, encode_content(MachineContent(secret.machine_id)))
            stranger = TinyMachine(self.server.enrol(self.tenant)).secret

            def pose(id: bytes, peer: AppendPeer) -> Any:
                return peer.hello_for(stranger, machine=id)

            ids = [*(secret.machine_id for secret in machines), UNKNOWN]
            posing = [self.answer(partial(pose, id)) for id in ids]
            self.assertEqual(posing, [posing[0]] * 4)
            closed = next(secret for secret, verb in machines.items() if verb is StatementVerb.CLOSE_GENERATION)
            self.assertEqual(self.answer(lambda peer: peer.hello_for(closed)), posing[0])
            disabled = next(secret for secret, verb in machines.items() if verb is StatementVerb.DISABLE_MACHINE)
            self.assertNotEqual(self.answer(lambda peer: peer.hello_for(disabled)), posing[0])

        return self.thread(attack)

"""Asks a server for its status, once, and believes no answer that does not fit the question."""

from collections.abc import Callable

from mastodon.host.socket_tls import ConnectError, ConnectionLost, TLSStream, connect
from mastodon.monitor.arguments import Arguments
from mastodon.wire.errors import RemoteError, WireError
from mastodon.wire.restore_client import AnswerWhole, ItemCame, RequestFailed, RestoreClient
from mastodon.wire.restore_verbs import ALPN
from mastodon.wire.status_messages import ServerStatusItem, StatusItem, StatusRequest

Answer = tuple[ServerStatusItem, list[StatusItem]]


class NoAnswer(Exception):
    """There is no answer to judge; the text says why."""


def ask(arguments: Arguments, open_stream: Callable[..., TLSStream] = connect) -> Answer:
    """The server and the machines. Raises NoAnswer."""
    identity = str(arguments.certificate), str(arguments.key)
    try:
        with open_stream(arguments.hosts, arguments.pins, ALPN, identity, float(arguments.timeout_s)) as stream:
            return _exchange(stream, arguments.machine)
    except (ConnectError, ConnectionLost) as error:
        raise NoAnswer(str(error)) from None
    except RemoteError as error:
        raise NoAnswer(f"the server refused: {error.text}") from None
    except WireError as error:
        raise NoAnswer(f"the server does not keep to the protocol: {error}") from None


def _exchange(stream: TLSStream, machine: bytes) -> Answer:
    client = RestoreClient()
    _, request = client.request(StatusRequest, machine)
    stream.send(request)
    server: list[ServerStatusItem] = []
    machines: dict[bytes, StatusItem] = {}
    while True:
        match client.next_event():
            case None:
                data = stream.receive()
                if not data:
                    raise NoAnswer("the server closed the connection before it answered")
                client.receive(data)
            case ItemCame(_, ServerStatusItem() as item):
                server.append(item)
            case ItemCame(_, StatusItem() as item):
                if item.machine in machines or machine not in (b"", item.machine):
                    raise NoAnswer("the server's answer names a machine twice, or one that was not asked for")
                machines[item.machine] = item
            case RequestFailed(_, error):
                raise error
            case AnswerWhole():
                if len(server) != 1 or (machine and not machines):
                    raise NoAnswer("the server's answer is not whole")
                return server[0], list(machines.values())

"""What brings letters to addresses: a mail for people, a signed POST for programs."""

from collections.abc import Awaitable, Callable, Mapping

from twisted.internet.defer import Deferred

from mastodon.daemon.telling import mail_text
from mastodon.daemon.telling.channel import Channel, ChannelKind
from mastodon.daemon.telling.letter import Letter
from mastodon.daemon.telling.mail import Mail, Relay
from mastodon.daemon.telling.outward import Outward
from mastodon.daemon.telling.webhook import webhook_body, webhook_headers, webhook_key
from mastodon.sealed.addresses import target

Names = Callable[[], Awaitable[Mapping[bytes, str]]]
"""Gives the names of all admins."""


class Carriers:
    """All of them. ``server`` is the server's name, ``secret`` what webhook keys are derived from."""

    def __init__(
        self, server: str, relay: Relay, outward: Outward, names: Names, secret: bytes, now_ns: Callable[[], int]
    ) -> None:  # fmt: skip
        self._server = server
        self._relay = relay
        self._outward = outward
        self._names = names
        self._secret = secret
        self._now_ns = now_ns

    def all(self) -> dict[ChannelKind, Callable[[Channel, Letter], "Deferred[None]"]]:
        """By the kind of channel."""
        return {
            ChannelKind.MAIL: lambda channel, letter: Deferred.fromCoroutine(self._mail(channel, letter)),
            ChannelKind.WEBHOOK: lambda channel, letter: Deferred.fromCoroutine(self._post(channel, letter)),
        }

    def key(self, tenant: bytes) -> bytes:
        """The key of an admin's webhooks."""
        return webhook_key(self._secret, tenant)

    async def _mail(self, channel: Channel, letter: Letter) -> None:
        names = await self._names()
        text = mail_text.text(letter, self._server, channel.tenant, lambda tenant: names.get(tenant, ""))
        subject = mail_text.subject(letter, self._server)
        await self._relay.send(Mail(channel.address, subject, text, letter.id, letter.time_ns))

    async def _post(self, channel: Channel, letter: Letter) -> None:
        names = await self._names()
        body = webhook_body(letter, self._server, channel.tenant, names.get(channel.tenant, ""))
        headers = webhook_headers(letter, body, self.key(channel.tenant), self._now_ns() // 10**9)
        await self._outward.post(target(channel.address), headers, body)

"""Makes `twistd mastodon` appear. Strings only: twistd imports every plugin that it lists."""

from twisted.application.service import ServiceMaker

mastodon = ServiceMaker(
    "Mastodon",
    "mastodon.daemon.service",
    "The Mastodon backup daemon",
    "mastodon",
)

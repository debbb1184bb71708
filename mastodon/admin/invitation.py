"""The invitation that the operator hands back: where the restore port is, and which keys the server may have.

``mastodon+admin://NAME@HOST:PORT/?server=PIN&server=SPAREPIN``. It holds no secret; but whoever changes it on the way
sends the client elsewhere, so it should come from a hand that is known.
"""

import re
from urllib.parse import parse_qsl, unquote

from mastodon.admin.home import Server
from mastodon.restore.errors import RestoreError
from mastodon.sealed.errors import Malformed
from mastodon.sealed.url import decode_key

_FORM = re.compile(
    r"mastodon\+admin://(?P<name>[^@/?#]+)@(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})/?"
    r"\?(?P<query>[^#]*)",
    re.A,
)


def parse_invitation(line: str) -> Server:
    """The server in an invitation. Raises RestoreError."""
    match = _FORM.fullmatch(line.strip())
    if match is None or not 0 < int(match["port"]) < 65536:
        raise RestoreError(
            "no invitation: expected mastodon+admin://NAME@HOST:PORT/?server=PIN, as printed by `mastodon admin add`"
        )
    pins = []
    for name, value in parse_qsl(match["query"], keep_blank_values=True):
        if name != "server":
            raise RestoreError(f"the invitation has an unknown part {name!r}: only server may stand there")
        try:
            pins.append(decode_key(value, "the invitation's server pin"))
        except Malformed as error:
            raise RestoreError(str(error)) from None
    if not pins:
        raise RestoreError("the invitation names no key of the server (server=PIN)")
    return Server(unquote(match["name"]), ((match["host"].strip("[]"), int(match["port"])),), tuple(pins))

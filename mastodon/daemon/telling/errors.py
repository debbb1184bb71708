"""Why something was not told."""


class NotTaken(Exception):
    """A mail, POST or ping was not taken, or may not have been: it is tried again. The text says why in one line.

    ``relay``: the mail relay itself cannot be used, whoever the mail is for.
    """

    def __init__(self, text: str, relay: bool = False) -> None:
        super().__init__(text)
        self.relay = relay

"""check_mastodon: a plugin for Nagios, Icinga and whatever else runs their plugins.

Promises: one line, then an exit code: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. Whatever goes wrong with asking, a wrong
argument and a bug included, is UNKNOWN with the reason: a traceback's exit code would be taken for a WARNING.
"""

import sys

UNKNOWN = 3


def main() -> None:
    """Entry of the command."""
    try:
        from mastodon.monitor.check import check  # here, so that what cannot be imported is UNKNOWN too

        code, line = check(sys.argv[1:])
    except KeyboardInterrupt:
        code, line = UNKNOWN, "MASTODON UNKNOWN - interrupted"
    except Exception as error:
        reason = f"internal error: {type(error).__name__}: {error} (a bug)".replace("|", "/")
        code, line = UNKNOWN, f"MASTODON UNKNOWN - {' '.join(reason.split())}"
    print(line.encode("utf-8", "replace").decode("utf-8"), flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()

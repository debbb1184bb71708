"""One check: the arguments, the question, the verdict, all within a time."""

import threading
from collections.abc import Callable

from mastodon.monitor.arguments import Arguments, Mistake, Shown, parse
from mastodon.monitor.question import Answer, NoAnswer, ask
from mastodon.monitor.verdict import Level, clean, judge, one_line

OK = 0


def check(words: list[str], asked: Callable[[Arguments], Answer] = ask) -> tuple[int, str]:
    """The exit code and the line."""
    try:
        arguments = parse(words)
        verdict = judge(arguments, *in_time(arguments, asked))
        return int(verdict.level), one_line(verdict)
    except Shown as shown:
        return OK, str(shown)
    except (Mistake, NoAnswer) as error:
        return int(Level.UNKNOWN), f"MASTODON UNKNOWN - {clean(str(error))}"


def in_time(arguments: Arguments, asked: Callable[[Arguments], Answer]) -> Answer:
    """The answer, from a thread of its own: a name server that hangs cannot be interrupted otherwise."""
    results: list[Answer | Exception] = []

    def work() -> None:
        try:
            results.append(asked(arguments))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(arguments.timeout_s)
    if not results:
        where = ", ".join(f"{host}:{port}" for host, port in arguments.hosts)
        raise NoAnswer(f"{where}: no answer within {arguments.timeout_s} s")
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]

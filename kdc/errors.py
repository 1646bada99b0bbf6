"""The one exception that users see, and how near misses are suggested."""

from collections.abc import Iterable
from difflib import get_close_matches


class KdcError(Exception):
    """A problem a user can act on: what was wrong and where (`cause`), and what to do (`remedy`).

    `exit_code` is 2 for bad input (the default), 1 for a failure of the run itself.
    """

    def __init__(self, cause: str, remedy: str = "", *, exit_code: int = 2) -> None:
        super().__init__(f"{cause}; {remedy}" if remedy else cause)
        self.cause = cause
        self.remedy = remedy
        self.exit_code = exit_code


def in_one_line(error: BaseException) -> str:
    """What ended a run, as its record tells it."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, KdcError):
        return str(error)
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the nearest known word, else the known words themselves."""
    names = sorted(known)
    if near := get_close_matches(word, names, n=1, cutoff=0.6):
        return f"did you mean '{near[0]}'?"
    return "known: " + ", ".join(names) if names else "there are none"

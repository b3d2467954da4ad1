"""An exception and what led to it, whatever the code of its author does when it is looked at.

That code may raise anything, SystemExit included. It runs when the task is over, and what it raises must not take the
place of the task's own end.
"""

from collections.abc import Iterator


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, then what caused it or was being handled when it was raised, and so on."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        try:
            cause = cause.__cause__ or cause.__context__
        except BaseException:  # noqa: BLE001  # raised by the exception's own code
            cause = None


def text(error: BaseException) -> str:
    """What the exception says; in brackets why that cannot be shown, if its own code fails."""
    try:
        return str(error)
    except BaseException as failure:  # noqa: BLE001  # raised by the exception's own code
        return f"(its message cannot be shown: {type(failure).__name__})"


def number(error: BaseException) -> int | None:
    """The errno of a system's error; None of any other, and where something else stands in its place."""
    if not isinstance(error, OSError):
        return None
    try:
        found = error.errno
    except BaseException:  # noqa: BLE001  # raised by the exception's own code
        return None
    return found if isinstance(found, int) else None

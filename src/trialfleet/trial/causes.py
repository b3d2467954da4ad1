"""An exception and what led to it, whatever the code of its author does when it is looked at."""

from collections.abc import Iterator


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, then what caused it or was being handled when it was raised, and so on."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def text(error: BaseException) -> str:
    """What the exception says; in brackets why that cannot be shown, if its own code fails."""
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001  # raised by the exception's own code
        return f"(its message cannot be shown: {type(failure).__name__})"

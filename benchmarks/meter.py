"""CPU seconds of one thread, divided among named parts by explicit switches; no profiler slows what is measured."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")


class Meter:
    """Adds this thread's CPU time to the innermost part that is open; what the meter itself takes is left out.

    Args:
        first: the part that is open to begin with.
        absorbing: parts that keep what runs within them; of the others each counts without the parts within.
    """

    def __init__(self, first: str, absorbing: Iterable[str] = ()) -> None:
        self._open = [first]
        self._absorbing = frozenset(absorbing)
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._toll = 0.0  # seconds that opening and closing a part adds to the part around it
        self._toll = self._weigh()
        self._mark = time.thread_time()

    def _weigh(self) -> float:
        call, times = self.measured("nothing", lambda: None), 2000
        began = self._mark = time.thread_time()
        for _ in range(times):
            call()
        self._settle()
        within = self._seconds.pop("nothing")
        self._seconds.clear()
        return (self._mark - began - within) / times

    def seconds(self) -> defaultdict[str, float]:
        """The sums until now."""
        self._settle()
        return self._seconds.copy()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def measured(self, name: str, function: Callable[Arguments, Value]) -> Callable[Arguments, Value]:
        """The function, with its time counted as part `name`."""

        @functools.wraps(function)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
            self._enter(name)
            try:
                return function(*args, **kwargs)
            finally:
                self._leave()

        return call

    def measure_methods(self, name: str, instance: Any, methods: Iterable[str]) -> None:
        """Replace methods of one object, and of no other of its class, by measured ones."""
        for method in methods:
            setattr(instance, method, self.measured(name, getattr(instance, method)))

    def _enter(self, name: str) -> None:
        self._settle()
        self._seconds[self._open[-1]] -= self._toll
        self._open.append(self._open[-1] if self._open[-1] in self._absorbing else name)

    def _leave(self) -> None:
        self._settle()
        self._open.pop()

    def _settle(self) -> None:
        now = time.thread_time()
        self._seconds[self._open[-1]] += now - self._mark
        self._mark = now


def public_methods(kind: type) -> list[str]:
    """Names of a class's methods, inherited ones included, without private ones."""
    return [name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))]

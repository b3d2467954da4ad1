"""Batches that are read and decoded by processes of their own, while the devices work.

grain runs the processes and hands their arrays over in shared memory. It is given batches by number, so that what it
remembers is never needed: a training goes on from a position.
"""

import ctypes
import signal
import sys
from collections.abc import Generator
from typing import Protocol, TypeVar

T = TypeVar("T", covariant=True)


class ByNumber(Protocol[T]):
    """What can be asked for by its number, in any order and in any process. Can be pickled."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> T: ...


def _begin_worker(index: int, count: int) -> None:
    """Leave signals to the training, which is told to stop by the same ones, and end when it is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def decoded(order: ByNumber[T], workers: int, ahead: int) -> Generator[T, None, None]:
    """Its elements from the first one on; closing the generator ends the processes.

    Args:
        workers: processes; 0: each element is made when it is asked for, in this one.
        ahead: elements that wait ready, of all processes together.

    Raises:
        Exception: whatever the making of an element raises, as it is asked for.
    """
    if workers == 0:
        for number in range(len(order)):
            yield order[number]
        return
    import grain  # takes a second or two
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain asks for flags of its own, which nobody gives here
    dataset = grain.MapDataset.source(order).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=-(-max(1, ahead) // workers))
    iterator = iter(dataset.mp_prefetch(options, worker_init_fn=_begin_worker))
    try:
        yield from iterator
    finally:
        iterator.close()

"""Batches that are read and decoded by processes of their own, while the devices work.

grain runs the processes and hands their arrays over in shared memory. It is given batches by number, so that what it
remembers is never needed: a training goes on from a position.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Protocol, TypeVar

T = TypeVar("T", covariant=True)


class ByNumber(Protocol[T]):
    """What can be asked for by its number, in any order and in any process. Can be pickled."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> T: ...


@contextlib.contextmanager
def _signals_left_to_us() -> Iterator[None]:
    """What is started here never gets the signals that tell a training to stop, from its first instruction on."""
    resource_tracker.ensure_running()  # multiprocessing's own, whose start lets some of them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}  # a launcher sends them to all of a job


def _begin_worker(index: int, count: int) -> None:
    """End when the training is gone."""
    training = multiprocessing.parent_process()
    assert training is not None
    threading.Thread(target=_end_with, args=(training,), daemon=True).start()


def _end_with(training: BaseProcess) -> None:
    """A thread's: the kernel's own signal comes as soon as the thread that started this process ends.

    grain starts processes in threads that end before them, and one killed with a lock in its hand leaves it locked.
    """
    while os.getppid() == training.pid:
        training.join(timeout=1)
    os.kill(os.getpid(), signal.SIGKILL)


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
    with _signals_left_to_us():
        iterator = iter(dataset.mp_prefetch(options, worker_init_fn=_begin_worker))
    try:
        with _signals_left_to_us():  # processes are started as the first element is asked for
            first = next(iterator)
        yield first
        yield from iterator
    finally:
        iterator.close()

"""Writes a checkpoint's model as others read it: the workload says how."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from trialfleet.config import Config
from trialfleet.errors import UserError
from trialfleet.training import distributed, publishing, trained, trees
from trialfleet.training.publishing import Order
from trialfleet.training.setup import Setup, find_factory


def export(config: Config, checkpoint: str, order: Order) -> int:
    """Write a checkpoint's model; whole, or not at all.

    The model is on the devices once, as it is for an evaluation, and leaves them one layer at a time; for an adapter
    only what was trained is.

    Returns:
        How many files of weights there are.

    Raises:
        UserError: the workload's models have no published form, or not the one that is wanted, the target is there, or
            the checkpoint is not.
    """
    publisher = find_factory(config.workload.factory)(config).publisher()
    if publisher is None:
        raise UserError(
            f"workload={config.workload.name}: its model has no published form",
            "export one of a workload with a language model",
        )
    publisher.check(order)
    if os.path.exists(order.folder):  # noqa: PTH110  # a name that is too long is told below
        raise UserError(f"to: {order.folder} is there already", "name another folder, or remove it")
    distributed.join()
    if jax.process_count() > 1:
        raise UserError(f"an export is by one process, and there are {jax.process_count()}", "start one")
    with contextlib.ExitStack() as stack:
        with _told(order.folder):  # before anything is read
            folder = stack.enter_context(publishing.made(order.folder))
        params = _params(config, checkpoint, order)
        with _told(order.folder):
            return publisher.write(folder, params, order)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What keeps the folder from being written is the key's fault, which is named."""
    try:
        yield
    except OSError as error:
        raise UserError(f"to: {folder} cannot be written: {error}", "name a folder with room for it") from error


def _params(config: Config, checkpoint: str, order: Order) -> Any:
    """All parameters; for adapters what was trained alone."""
    setup = Setup(config)
    if order.form == "adapter":
        return trained.read_trained(setup, checkpoint)
    state, frozen = trained.read(setup, checkpoint)
    return trees.merge(state.params, frozen)

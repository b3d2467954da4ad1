"""Writes a checkpoint's model as others read it: the workload says how."""

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
    if order.folder.exists():
        raise UserError(f"to: {order.folder} is there already", "name another folder, or remove it")
    distributed.join()
    if jax.process_count() > 1:
        raise UserError(f"an export is by one process, and there are {jax.process_count()}", "start one")
    setup = Setup(config)
    if order.form == "adapter":
        params = trained.read_trained(setup, checkpoint)
    else:
        state, frozen = trained.read(setup, checkpoint)
        params = trees.merge(state.params, frozen)
    with publishing.made(order.folder) as folder:
        return publisher.write(folder, params, order)

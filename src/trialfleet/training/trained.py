"""A trained model: what a checkpoint holds, and what was frozen beside it, which is in no checkpoint of its own."""

import jax

from trialfleet.config import Config
from trialfleet.config.location import expanded
from trialfleet.errors import UserError
from trialfleet.training import restore, trees
from trialfleet.training.saved_parameters import SavedParameters
from trialfleet.training.setup import Setup
from trialfleet.training.state import State
from trialfleet.training.workload import Params
from trialfleet.trial import records


def read(setup: Setup, checkpoint: str) -> tuple[State, Params]:
    """The state, of which only parameters and statistics are there, and the frozen parameters.

    The parameters are the averaged ones where training kept an average.

    Raises:
        UserError: if there is no whole checkpoint of this model in that folder.
    """
    config, program, inputs = setup.config, setup.program, setup.inputs
    state, frozen = program.init(inputs.hp, inputs.seed)
    state, frozen = restore.with_published(setup.workload, program, state, frozen)
    for leaf in jax.tree.leaves(state.opt):
        leaf.delete()  # nothing is trained here
    verify = config.training.checkpoints.verify
    if config.training.init_from is not None:
        state, frozen, _ = restore.with_parameters_of(config.training.init_from, setup, state, frozen, verify=verify)
    state, frozen, report = restore.with_parameters_of(checkpoint, setup, state, frozen, "checkpoint", verify, own=True)
    lacking = set(report["not_there"] + report["other_shape"]) - program.layout.frozen
    _refuse(config, checkpoint, lacking or set(report["extra_not_there"]))
    _refuse_other_frozen(config, checkpoint, frozen)
    return state, frozen


def read_trained(setup: Setup, checkpoint: str) -> Params:
    """What was trained alone: nothing that is frozen is made or read.

    Raises:
        UserError: if there is no whole checkpoint of this model in that folder.
    """
    saved = SavedParameters(checkpoint, "checkpoint", setup.config.training.checkpoints.verify)
    layout = setup.program.layout
    shapes, places = (trees.flatten(tree) for tree in (layout.shapes.params, layout.shardings.params))
    _refuse(setup.config, checkpoint, {path for path, leaf in shapes.items() if not saved.fits(path, leaf.shape)})
    return trees.unflatten({path: saved.read(path, leaf.shape, places[path]) for path, leaf in shapes.items()})


def _refuse_other_frozen(config: Config, checkpoint: str, frozen: Params) -> None:
    """What was trained beside other frozen weights says nothing beside these, and a base that was made anew is another.

    In another dtype than they had then, nobody can tell.
    """
    meta = records.read(expanded(checkpoint) / "meta.json") or {}
    same_dtype = meta.get("signature", {}).get("training.compute_dtype") == config.training.compute_dtype
    if same_dtype and meta.get("frozen", "") != restore.digest(frozen):
        raise UserError(
            f"checkpoint: the frozen weights are not those that {checkpoint} was trained on",
            "put those back that training.init_from, training.base or the published weights were",
        )


def _refuse(config: Config, checkpoint: str, lacking: set[str]) -> None:
    if lacking:
        other = SavedParameters(checkpoint, "checkpoint", verify=False).other_settings(config)
        raise UserError(
            f"{checkpoint} does not hold this model: {', '.join(sorted(lacking))} are not there or have another "
            f"shape{other}",
            "use the config that it was trained with",
        )

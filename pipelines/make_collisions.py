"""python -m pipelines.make_collisions FOLDER: a small set of rendered fouls, in the layout of SoccerNet-MVFoul.

FOLDER gets train, valid and test, each with annotations.json and action_N/clip_K.mp4: collisions of two players, seen
by two to four cameras that shake and are blocked now and then. Severity shows in the impact, the action in the
approach, and in nothing but the pixels. The same words make the same files. Train on them by

    python -m pipelines.train workload=mvfoul dataset=mvfoul dataset.data_dir=FOLDER dataset.size=64
"""

import argparse
import logging

from pipelines import cli
from trialfleet.config.location import expanded
from trialfleet.errors import UserError


def entry() -> None:
    """Render the three splits."""
    options = _parser().parse_args()
    from trialfleet.workloads.mvfoul import collision_set

    folder = expanded(options.folder).absolute()
    if folder.exists():
        raise UserError(f"{folder}: is there already", "give another folder, or remove it")
    least = {"--train": (options.train, 1), "--eval": (options.eval, 1), "--size": (options.size, 16)}
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise UserError(f"{name}: must be at least {smallest}, got {value}")
    if options.size % 2:
        raise UserError(f"--size: must be even, as the codec wants it, got {options.size}", f"say {options.size + 1}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    wanted = collision_set.Rendered(options.seed, options.train, options.eval, options.size)
    try:
        for split in collision_set.SPLITS:
            collision_set.write(wanted, split, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}", "name a folder with room for it") from error
    print(f"dataset=mvfoul dataset.data_dir={options.folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.make_collisions",
        description=(__doc__ or "").split("\n", 2)[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", help="where to write; it must not be there yet")
    parser.add_argument("--train", type=int, default=640, help="actions to train on; default: %(default)s")
    parser.add_argument("--eval", type=int, default=200, help="of valid and of test each; default: %(default)s")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="another one is another set; default: %(default)s")
    return parser


if __name__ == "__main__":
    cli.main(entry, own_flags=False)

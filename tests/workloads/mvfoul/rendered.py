"""The few rendered collisions that all tests share: made once, and kept between test runs."""

import json
from functools import cache
from pathlib import Path

from tests.training.harness import composed

# The folder is said by tests/conftest.py.
FEW = (
    "dataset.folder=${oc.env:TRIALFLEET_TEST_COLLISIONS}",
    "dataset.train_actions=64",
    "dataset.eval_actions=16",
    "dataset.picture=32",
)
# And a network that is made and trained in seconds.
SMALL = (
    "workload=mvfoul",
    *FEW,
    "model.widths=[8,8]",
    "model.norm_groups=4",
    "model.head_hidden=8",
    "dataset.size=16",
    "dataset.frames=4",
    "training.global_batch=8",
    "training.eval_batch=8",
    "mesh.data=1",
    "runtime.compilation_cache=null",
)


def as_files(folder: Path) -> Path:
    """A folder as somebody has it who has the real clips, and tables of their own: links to the shared set."""
    shared = shared_set()
    folder.mkdir(parents=True)
    for split, table in (("train", "train.csv"), ("valid", "val.csv"), ("test", None)):
        (folder / split).symlink_to(shared / split)
        if table is not None:
            entries = json.loads((shared / split / "annotations.json").read_text())["Actions"]
            rows = [
                f"{split}/action_{number},{one['Action class']},{one['Offence']},{one['Severity']}\n"
                for number, one in entries.items()
            ]
            (folder / table).write_text("".join(["Clips,Action class,Offence,Severity\n", *rows]))
    return folder


@cache
def shared_set() -> Path:
    """The folder of the few collisions, which nobody may change."""
    from trialfleet.workloads.mvfoul import collision_set

    data = composed("workload=mvfoul", *FEW).dataset
    return [collision_set.ensure(data, split) for split in collision_set.SPLITS][-1]

"""Ray Tune: a function trainable, one CPU for each trial, an actor of its own for each or (`--reuse`) reused ones.

https://docs.ray.io/en/latest/tune/key-concepts.html. A trial tells Ray its objective at its end; what a training
reports on the way it writes to its own folder, as in all peers here.
"""

import uuid
from typing import Any

import ray
from ray import tune

from benchmarks import asr_trial
from benchmarks.peers.work import METRIC, Work, parser

work = Work(**vars(parser().parse_args()))
# Ray's processes import from where this one does, by PYTHONPATH. It listens on this machine alone.
ray.init(num_cpus=work.slots, include_dashboard=False, _node_ip_address="127.0.0.1")


def trial(params: dict[str, Any]) -> None:
    folder = work.folder / "trials" / uuid.uuid4().hex
    tune.report({METRIC: work.run(folder, params["rate"], lambda step, values: tune.report(dict(values)))})


results = tune.Tuner(
    tune.with_resources(trial, {"cpu": 1}),
    param_space={"rate": tune.loguniform(asr_trial.LOWEST, asr_trial.HIGHEST)},
    tune_config=tune.TuneConfig(num_samples=work.trials, metric=METRIC, mode="min", reuse_actors=work.reuse),
    run_config=tune.RunConfig(name="asr", storage_path=str(work.folder / "ray"), verbose=1),
).fit()
if results.num_errors or len(results) != work.trials:
    raise SystemExit(f"{results.num_errors} of {len(results)} trials failed")

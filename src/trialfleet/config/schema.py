"""What every config has, whatever is trained: the part of the schema that the trainer and the sweep read.

A workload adds its own groups (model, dataset, loss …) in a dataclass that inherits from `Config`, so that a
group which a workload does not read is an unknown key for it.
"""

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic.dataclasses import dataclass

from trialfleet.config.devices import DEVICES
from trialfleet.config.freezing import Freezing, Staged
from trialfleet.config.optimizers import OptimizerConfig, Scheduler
from trialfleet.config.traced import STRICT, Host, Traced
from trialfleet.errors import nearest

Direction = Literal["minimize", "maximize"]

RESUME = ("auto", "must", "never")  # of training.resume; all else is a folder

# What the trainer itself measures for every workload, besides `train/<name>` for whatever a loss reports.
TRAINER_METRICS = frozenset(
    {
        "train/loss",
        "train/grad_norm",
        "train/update_ratio",
        "train/learning_rate",
        "train/steps_per_second",
        "train/examples_per_second",
        "train/tokens_per_second",
        "train/epoch",
        "train/model_flops_per_second",
        "train/utilization",
    }
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Objective:
    """What a trial is judged by."""

    metric: str | Annotated[tuple[str, ...], MinLen(1)]  # what the workload logs, such as val/wer; a list for several
    direction: Direction | Annotated[tuple[Direction, ...], MinLen(1)]  # minimize or maximize; a list for several
    at: Literal["best", "last"]  # the evaluation at which the (first) metric was best, or the last one
    seeds: Annotated[int, Ge(1)]  # the mean over this many seeds: seed, seed + 1, …

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,) if isinstance(self.metric, str) else self.metric

    @property
    def directions(self) -> tuple[Direction, ...]:
        return (self.direction,) if isinstance(self.direction, str) else self.direction


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Study:
    """What a sweep may do with a study that is there already."""

    fresh: bool  # put the study of this name aside and start anew
    rebuild: bool  # make the Optuna study, and its runs in MLflow, anew from the files of its trials
    allow_changes: tuple[str, ...]  # keys, or groups of them, that may differ from what the study began with


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tracking:
    """Where the driver sends results."""

    uri: str  # an MLflow server, or a database: sqlite:///mlflow.db
    experiment: str  # the experiment in MLflow
    poll_interval: Annotated[float, Gt(0)]  # seconds
    system_metrics: Annotated[float, Gt(0)] | None  # seconds between two samples of CPU, memory and GPUs


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Workload:
    """What is trained: two dotted paths, so that one from outside the package is no different."""

    name: str
    schema: Host[str]  # the dataclass of its config, as package.module.Class; imports no jax
    factory: str  # the class of the workload, called with the config


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mesh:
    """Sizes of the mesh's axes; one of them may be -1: whatever devices the others leave."""

    data: int  # copies of the parameters
    fsdp: int  # shards of parameters and optimizer state along their embedding axes; batches are split too
    tp: int  # shards of heads and hidden layers
    undivided: Host[Literal["warn", "error"]]  # what becomes of a parameter's axis that the mesh does not divide


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EarlyStopping:
    """Ends training when the objective's first metric stands still."""

    patience: Annotated[int, Ge(1)]  # evaluations without an improvement
    min_delta: Annotated[float, Ge(0)]  # what counts as an improvement


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Checkpoints:
    """When to save, and what to keep."""

    every_steps: Annotated[int, Ge(1)] | None  # null: only when asked to stop, and what `best` needs
    every_seconds: Annotated[float, Gt(0)] | None  # null: not by time
    keep_last: Annotated[int, Ge(1)]  # so many of the newest are kept
    keep_best: Annotated[int, Ge(0)]  # by the objective's first metric
    keep_every: Annotated[int, Ge(1)] | None  # checkpoints at multiples of this step are never deleted
    at_end: bool  # also after the last step
    verify: bool  # before one is read, the digests of its files are compared; else only what is there, and its size


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Profile:
    """A profiler trace of some steps, among the artifacts."""

    first_step: Annotated[int, Ge(1)]  # the first that is recorded
    steps: Annotated[int, Ge(1)]  # so many are recorded


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Base:
    """A training that comes before this one, once for all that begin from it."""

    same: tuple[str, ...]  # keys, or groups of them, that it has from this training, such as model
    overrides: dict[str, Any]  # what else pipelines.train is told for it, such as {workload: grpo_base}
    folder: str  # where such trainings are kept, each in a folder of its own, by its config


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Training:
    """The loop: how long, how large, how often, how precise."""

    max_steps: Annotated[Host[int], Ge(1)] | None  # updates; null: by max_epochs
    max_epochs: Annotated[Host[int], Ge(1)] | None  # whichever of the two ends first
    global_batch: Annotated[int, Ge(1)]  # examples a step, on any mesh
    per_device_batch: Annotated[int, Ge(1)] | None  # smaller micro-batches are accumulated; null: no accumulation
    eval_batch: Annotated[int, Ge(1)]  # examples of a batch of an evaluation
    report_every: Annotated[Host[int], Ge(1)]  # steps
    eval_every: Annotated[Host[int], Ge(1)] | None  # steps; null: at the end of each epoch
    limit_train_batches: Annotated[Host[int], Ge(1)] | None  # the first so many of an epoch; null: all
    limit_eval_batches: Annotated[Host[int], Ge(1)] | None  # the first so many of an evaluation; null: all
    evaluate_test: Host[bool]  # the test split, once, from the best checkpoint
    overfit_batches: Annotated[Host[int], Ge(1)] | None  # train on this many batches over and over
    gradient_clip: Annotated[Traced[float], Gt(0)] | None  # by global norm
    # of an exponential average of the parameters, which is then what is evaluated; null: none
    ema_decay: Annotated[Traced[float], Gt(0), Lt(1)] | None
    compute_dtype: Literal["float32", "bfloat16"]  # parameters and moments stay float32
    remat: Literal["none", "dots", "full"]  # what the backward pass keeps: all, matrix products, nothing
    early_stopping: Host[EarlyStopping | None]  # ends training when the objective stands still; null: never
    checkpoints: Host[Checkpoints]
    # auto: from the run's newest checkpoint if it has one; must: an error if it has none; never; or a folder of another
    # training, or a checkpoint there, from which a run goes on that has none
    resume: Host[str]
    init_from: Host[str | None]  # a checkpoint whose parameters to start from
    base: Host[Base | None]  # a training whose last checkpoint is `init_from` where that is null: it is made first
    prefetch: Annotated[Host[int], Ge(0)]  # batches made ready ahead of the step
    data_workers: Annotated[Host[int], Ge(0)]  # processes that read and decode examples; 0: a thread of the training
    profile: Host[Profile | None]  # a profiler trace of some steps, among the artifacts; null: none


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Runtime:
    """What must be fixed before jax starts."""

    platform: Literal["cpu", "gpu", "tpu"] | None  # null: the best there is
    cpu_threads: Annotated[int, Ge(1)]  # of XLA; results depend on it in their last bits
    simulated_devices: Annotated[int, Ge(1)] | None  # split the CPU into so many devices
    # what a dry run asks whether the training fits it: a name of `trialfleet.config.devices`; null: the device here
    device: Host[str | None]
    # auto: the same bits each time on a CPU, fast on a GPU; true: the same bits there, too, but slower
    deterministic: Literal["auto"] | bool
    compilation_cache: Host[str | None]  # a folder; null: none
    compilation_cache_bytes: Annotated[Host[int], Ge(0)]  # the least recently used entries beyond it are deleted


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """One trial, completely: what `conf/` composes to.

    A workload's own schema inherits from this and adds its groups, the names of its metrics and its rules.
    """

    # what the workload logs: 'val/<name>' of its evaluation, 'train/<name>' of its loss; see `metrics`
    METRICS: ClassVar[frozenset[str]] = frozenset()

    seed: Annotated[Host[int], Ge(0)]  # of everything that is random in a training
    dry_run: Host[bool]  # check everything, report shapes and the mesh, train nothing
    experiment_name: Host[str]  # a name for people: of a single training's folder, and of its run in MLflow
    tags: Host[tuple[str, ...]]  # labels of the run in MLflow
    objective: Host[Objective]
    study: Host[Study]
    tracking: Host[Tracking]
    workload: Workload
    optimizer: OptimizerConfig
    scheduler: Scheduler
    freezing: Freezing
    training: Training
    mesh: Mesh
    runtime: Runtime

    def metrics(self) -> frozenset[str]:
        """The metrics that the workload logs; to be overridden where they depend on the config."""
        return self.METRICS

    def published(self) -> dict[str, str | None]:
        """The folders of published weights that a training begins from, by their keys; null: there is none."""
        return {}

    def data_files(self) -> dict[str, tuple[str, ...]]:
        """The files and folders that examples are read from, by their keys."""
        return {}

    def functions(self) -> frozenset[str]:
        """The dotted paths of what the workload calls: its factory, and functions that its config names."""
        return frozenset({self.workload.factory})

    def problems(self) -> list[str]:
        """What contradicts itself across fields; each a line that names the keys and the fix."""
        staged = self.freezing.problems() if isinstance(self.freezing, Staged) else []
        return [*_objective_problems(self), *_training_problems(self), *staged]


def known_metrics(config: Config) -> frozenset[str]:
    """All that a trial may report: what its workload's evaluations log, and what the trainer does."""
    own = config.metrics()
    return own | TRAINER_METRICS | {f"test/{name[4:]}" for name in own if name.startswith("val/")}


def _objective_problems(config: Config) -> list[str]:
    objective, problems = config.objective, []
    known = known_metrics(config)
    for metric in objective.metrics:
        if metric not in known:
            there = ", ".join(sorted(config.metrics() | TRAINER_METRICS))
            problems.append(
                f"objective.metric: {config.workload.name} logs no metric {metric!r}{nearest(metric, sorted(known))}; "
                f"choose one of {there}"
            )
        elif metric.startswith("test/") and not config.training.evaluate_test:
            problems.append(f"objective.metric: {metric!r} is only there with training.evaluate_test=true")
    if len(objective.metrics) != len(objective.directions):
        problems.append(
            f"objective.direction: {len(objective.directions)} given for {len(objective.metrics)} in "
            "objective.metric; give one for each"
        )
    return problems


def _training_problems(config: Config) -> list[str]:
    training, problems = config.training, []
    if training.max_steps is None and training.max_epochs is None:
        problems.append("training.max_steps: null, and training.max_epochs too; set one, or training never ends")
    sizes = (config.mesh.data, config.mesh.fsdp, config.mesh.tp)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        problems.append(f"mesh: data={sizes[0]}, fsdp={sizes[1]}, tp={sizes[2]}; sizes are ≥ 1, and one may be -1")
    if config.runtime.simulated_devices is not None and config.runtime.platform not in (None, "cpu"):
        problems.append(
            f"runtime.simulated_devices: only the CPU can be split, and runtime.platform is {config.runtime.platform}"
        )
    return [*problems, *_device_problems(config.runtime.device)]


def _device_problems(name: str | None) -> list[str]:
    if name is None or name in DEVICES:
        return []
    return [f"runtime.device: no device {name!r} is known{nearest(name, DEVICES)}; there are {', '.join(DEVICES)}"]

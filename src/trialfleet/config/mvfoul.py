"""Schema of the workload `mvfoul`: fouls in football, seen from several cameras."""

from typing import Annotated, ClassVar, Literal, NamedTuple

from annotated_types import Ge, Le, Lt, MultipleOf
from pydantic import Field
from pydantic.dataclasses import dataclass

from trialfleet.config.location import expanded
from trialfleet.config.mvfoul_models import Mvit, Network, Resnet3d
from trialfleet.config.schema import Config
from trialfleet.config.traced import STRICT, Gated, Host, Traced

Count = Annotated[int, Ge(0)]
Factor = Annotated[Host[float], Ge(1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Clips:
    """How clips are read and changed, wherever they come from."""

    # official: the 4 severities and 8 actions of the challenge, actions of no class left out and counted; all: the 6
    # and 10 values of the annotations as they are
    classes: Literal["official", "all"]
    first_frame: Count  # of those that are decoded, counted from 0; the contact is at frame 75
    last_frame: Count  # of those that are decoded
    frames: Annotated[int, Ge(2)]  # evenly spread from first_frame to last_frame
    size: Annotated[int, Ge(8)]  # pixels of a side, to which whole frames are scaled
    # of an action, in a batch: fewer are masked; of more the first are taken, in training any
    max_views: Annotated[int, Ge(1), Le(4)]
    flip: Annotated[Host[float], Ge(0), Le(1)]  # chance that a training action is mirrored, all views of it
    rotation: Annotated[Host[float], Ge(0), Le(180)]  # degrees that a training clip is turned, at most
    # largest relative change of a training clip's brightness and contrast, and half of it of each colour
    colour_jitter: Annotated[Host[float], Ge(0), Lt(1)]
    # of the Beta distribution of the share that one of two blended training actions has; 0: none are blended
    mixup: Annotated[Host[float], Ge(0)]
    # as mixup, of two of which one shows in a window of the other; with both, each has half of the actions
    cutmix: Annotated[Host[float], Ge(0)]
    # share of an annotation's clips that may be missing or unreadable; they are named, counted and left out
    max_damaged: Annotated[Host[float], Ge(0), Le(1)]
    cache_mb: Host[Count]  # of decoded clips that each process keeps in memory
    cache_dir: Host[str | None]  # a folder for decoded clips, which trials share; null: none
    cache_dir_mb: Host[Count]  # of decoded clips in it, at most


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FoulFiles(Clips):
    """Clips in the layout of SoccerNet-MVFoul: SPLIT/annotations.json, SPLIT/action_N/clip_K.mp4."""

    name: Literal["mvfoul"]
    data_dir: Host[str]  # the folder that has train, valid and test
    train_csv: Host[str | None]  # a table of actions instead of train/annotations.json; null: none
    val_csv: Host[str | None]  # a table of actions instead of valid/annotations.json; null: none


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Collisions(Clips):
    """Rendered collisions of two players, as files in the same layout, made once for all trials."""

    name: Literal["collisions"]
    folder: Host[str]  # where they are made, each set in a folder of its own
    seed: Annotated[int, Ge(0)]  # of all that is random in them
    train_actions: Annotated[int, Ge(1)]  # with the class frequencies of the real training set
    eval_actions: Annotated[int, Ge(1)]  # of val and of test each, with at least 20 of a class if there are enough
    picture: Annotated[int, Ge(16), MultipleOf(2)]  # pixels of a side of the files' frames


FoulData = Annotated[FoulFiles | Collisions, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlainLoss:
    """Cross-entropy."""

    name: Literal["plain"]
    label_smoothing: Annotated[Traced[float], Ge(0), Lt(1)]  # share of the target that goes to all classes alike
    severity_weight: Annotated[Traced[float], Ge(0)]  # of the severity's loss in the sum
    action_weight: Annotated[Traced[float], Ge(0)]  # of the action's loss in the sum
    view_consistency: Annotated[Gated[float], Ge(0)]  # weight of the divergence between what single views say
    expert_load: Annotated[
        Gated[float], Ge(0)
    ]  # weight of how unevenly views are sent to experts, with model.aggregator=moe


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WeightedLoss(PlainLoss):
    """Cross-entropy with a weight for each class, divided by the sum of the weights."""

    name: Literal["weighted"]  # type: ignore[assignment]
    # none: all alike; effective_num: by effective numbers of samples; inverse_freq, balanced: by frequency
    class_weights: Literal["none", "effective_num", "inverse_freq", "balanced"]
    # of effective_num: (1 - beta) / (1 - beta^n) for a class of n clips
    effective_num_beta: Annotated[Host[float], Ge(0), Lt(1)]
    max_class_weight: Factor  # of effective_num, in least weights


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FocalLoss(WeightedLoss):
    """Cross-entropy in which what is known already counts less, by (1 - p)^gamma."""

    name: Literal["focal"]  # type: ignore[assignment]
    gamma: Annotated[Traced[float], Ge(0)]  # the larger, the less counts what is known already


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdaptiveFocalLoss(WeightedLoss):
    """A focal loss with a gamma of its own for each severity."""

    name: Literal["adaptive_focal"]  # type: ignore[assignment]
    gamma: Annotated[Traced[float], Ge(0)]  # of all actions
    severity_gammas: Traced[tuple[Annotated[float, Ge(0)], ...]]  # one for each severity


FoulLoss = Annotated[PlainLoss | WeightedLoss | FocalLoss | AdaptiveFocalLoss, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoBalance:
    """Every clip once an epoch."""

    name: Literal["none"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClassBalanced:
    """Rare classes are drawn more often, with replacement; the most frequent one stays as it is."""

    name: Literal["class_balanced"]
    by: Literal["severity", "action", "alternating"]  # alternating: even epochs severity, odd ones action
    oversample_factor: Factor  # of a rare class, at most


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Progressive:
    """Class balance that grows over the first epochs."""

    name: Literal["progressive"]
    # severity; action; alternating: even epochs severity, odd ones action
    by: Literal["severity", "action", "alternating"]
    start_factor: Factor  # in the first epoch
    oversample_factor: Factor  # after `duration_epochs`
    duration_epochs: Annotated[Host[int], Ge(1)]  # over so many epochs it grows


ClassBalance = Annotated[NoBalance | ClassBalanced | Progressive, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MvfoulConfig(Config):
    """Config of multi-view foul recognition."""

    METRICS: ClassVar[frozenset[str]] = frozenset(
        {
            "val/sev_acc",
            "val/action_acc",
            "val/sev_balanced_acc",
            "val/action_balanced_acc",
            "val/balanced_acc",  # the mean of the two: the official score
            "val/sev_f1",
            "val/action_f1",
            "val/sev_entropy",  # of the classes that are predicted, as a share of the largest there is
            "val/action_entropy",
            "val/loss",
            "train/sev_loss",
            "train/action_loss",
        }
    )

    model: Network
    dataset: FoulData
    loss: FoulLoss
    class_balance: ClassBalance

    def metrics(self) -> frozenset[str]:
        return self.METRICS | ({"train/expert_load"} if self.model.aggregator == "moe" else frozenset())

    def published(self) -> dict[str, str | None]:
        return {"model.weights": self.model.weights} if isinstance(self.model, Resnet3d | Mvit) else {}

    def data_files(self) -> dict[str, tuple[str, ...]]:
        if not isinstance(self.dataset, FoulFiles):
            return {}
        data = self.dataset
        named = {"data_dir": data.data_dir, "train_csv": data.train_csv, "val_csv": data.val_csv}
        return {f"dataset.{key}": (path,) for key, path in named.items() if path is not None}

    def problems(self) -> list[str]:
        return [*super().problems(), *self._data_problems(), *self._model_problems()]

    def _data_problems(self) -> list[str]:
        data, problems = self.dataset, []
        if data.last_frame - data.first_frame + 1 < data.frames:
            problems.append(
                f"dataset.frames: {data.frames} are more than there are from dataset.first_frame={data.first_frame} to "
                f"dataset.last_frame={data.last_frame}"
            )
        if isinstance(data, FoulFiles):
            folder = expanded(data.data_dir)
            if not folder.is_dir():
                problems.append(
                    f"dataset.data_dir: there is no folder {folder}; give the one that has train/annotations.json, or "
                    "choose dataset=collisions, which renders clips of its own"
                )
        return problems

    def _model_problems(self) -> list[str]:
        loss, problems = self.loss, self.model.problems(self.dataset.frames, self.dataset.size)
        classes = len(CLASSES[self.dataset.classes].severities)
        if isinstance(loss, AdaptiveFocalLoss) and len(loss.severity_gammas) != classes:
            problems.append(f"loss.severity_gammas: {len(loss.severity_gammas)} given for {classes} severities")
        return problems


class Classes(NamedTuple):
    """The names of what is told apart, in the order of the logits."""

    severities: tuple[str, ...]
    actions: tuple[str, ...]


CLASSES = {
    "official": Classes(
        ("No offence", "No card", "Yellow card", "Red card"),
        ("Tackling", "Standing tackling", "High leg", "Holding", "Pushing", "Elbowing", "Challenge", "Dive"),
    ),
    "all": Classes(
        ("none", "1.0", "2.0", "3.0", "4.0", "5.0"),
        (
            "none",
            "Challenge",
            "Dive",
            "Dont know",
            "Elbowing",
            "High leg",
            "Holding",
            "Pushing",
            "Standing tackling",
            "Tackling",
        ),
    ),
}

"""Schemas of the workloads `grpo` (reinforcement fine-tuning of a language model) and `grpo_base` (its base)."""

import re
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Field
from pydantic.dataclasses import dataclass

from trialfleet.config.decoder import Decoder, Generation, Temperature, TopK, TopP
from trialfleet.config.schema import Config
from trialfleet.config.traced import STRICT, Gated, Host, Traced

_NAME = re.compile(r"[A-Za-z0-9_]+")  # of a reward: part of its metrics' names

Count = Annotated[int, Ge(1)]
Option = bool | int | float | str | tuple[int | float | str, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Problems:
    """What every set of problems has. A problem is in one split only, by its question."""

    instruction: str  # stands before each question
    split_seed: Annotated[int, Ge(0)]  # decides which problems are held out
    held_out: Annotated[float, Ge(0), Le(0.4)]  # share of all problems that only val has, and test; 0: all have all
    num_batches: Count | None  # of an epoch, before train_fraction; null: so many as the problems fill
    train_fraction: Annotated[float, Gt(0), Le(1)]  # share of an epoch's batches that is trained on


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Generated(_Problems):
    train_problems: Count  # an epoch
    eval_problems: Count  # of an evaluation


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sums(_Generated):
    """Generated sums of whole numbers."""

    name: Literal["sums"]
    max_number: Annotated[int, Ge(1), Le(10**18)]  # the largest term
    terms: Annotated[int, Ge(2)]  # of a sum
    # how an answer is worked out where one is shown. whole: the sum and its result; columns: digit by digit, the last
    # ones first, each column with what the one before carries over
    worked: Literal["whole", "columns"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReasoningGym(_Generated):
    """Generated problems of a task of the library reasoning-gym."""

    name: Literal["reasoning_gym"]
    task: str  # its name there, such as chain_sum or gsm_symbolic
    options: dict[str, Option]  # what the task is called with, such as its difficulty
    seed: Annotated[int, Ge(0)]  # of the generator


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gsm8k(_Problems):
    """Problems from files in the format of GSM8K: JSON lines of `question` and `answer`, its result behind ####."""

    name: Literal["gsm8k"]
    train_path: Host[str]  # a file of JSON lines; val is held out from it
    test_path: Host[str | None]  # a file that test is read from; null: it is held out from train_path, too


Problems = Annotated[Sums | ReasoningGym | Gsm8k, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """How completions are drawn in an evaluation."""

    temperature: Temperature  # logits are divided by it
    top_p: TopP  # only the likeliest tokens of together this probability are drawn
    top_k: TopK  # only so many of the likeliest tokens are drawn; null: all
    num_passes: Count  # completions of a problem: k of pass@k and majority@k


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Reward:
    """One of the functions by which a completion is judged."""

    # package.module.function, called with a completion and the right answer; it returns a number. Static, since a
    # program has metrics of each, and a training goes on with those that it began with
    function: str
    weight: Host[float]  # with which its number counts in the sum


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Grpo:
    """Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300) and its variants."""

    num_generations: int  # completions of a prompt, judged against each other
    num_iterations: Count  # updates on them
    beta: Annotated[Gated[float], Ge(0)]  # weight of the divergence from the base model
    epsilon: Annotated[Traced[float], Gt(0)]  # how far below 1 a ratio of probabilities is followed
    epsilon_high: Annotated[Traced[float], Gt(0)] | None  # how far above 1; null: as far as below
    # estimate of the divergence: kl: d; mse_kl: d^2 / 2; low_var_kl: e^d - d - 1
    kl: Literal["kl", "mse_kl", "low_var_kl"]
    # grpo: the mean over the tokens of each completion, then over completions; dapo: over the tokens of all completions
    # (Yu et al. 2025, arXiv:2503.14476); dr_grpo: as grpo, but each completion is divided by the longest possible
    # length (Liu et al. 2025, arXiv:2503.20783)
    loss_type: Literal["grpo", "dapo", "dr_grpo"]
    scale_rewards: Literal["group", "none"]  # group: advantages are divided by the deviation of their group
    reward_memory: Annotated[Host[float], Ge(1)]  # batches over which train/reward_running_mean forgets the past
    mask_truncated_completions: bool  # those that were cut off at max_generation_steps teach nothing


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Stages:
    """What a base model learns first."""

    # epochs of plain texts of worked problems, of which every token is learned; then whole answers with their tags
    next_token_epochs: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LanguageConfig(Config):
    """What both workloads have."""

    METRICS: ClassVar[frozenset[str]] = frozenset(
        {
            "val/accuracy",
            "val/pass_at_k",
            "val/majority_at_k",
            "val/partial_accuracy",
            "val/format_accuracy",
            "val/reward",
            "val/completion_length",
            "val/truncated",
        }
    )

    model: Decoder
    dataset: Problems
    generation: Generation
    evaluation: Evaluation
    rewards: dict[str, Reward]

    def published(self) -> dict[str, str | None]:
        return {"model.weights": self.model.weights}

    def data_files(self) -> dict[str, tuple[str, ...]]:
        data = self.dataset
        if not isinstance(data, Gsm8k):
            return {}
        named = {"dataset.train_path": data.train_path, "dataset.test_path": data.test_path}
        return {key: (path,) for key, path in named.items() if path is not None}

    def functions(self) -> frozenset[str]:
        return super().functions() | {reward.function for reward in self.rewards.values()}

    def problems(self) -> list[str]:
        vocabulary, ends = self.model.vocab_size, self.generation.eos_tokens
        problems = [*super().problems(), *self.model.problems()]
        if self.model.lora_dropout != 0:
            problems.append(
                f"model.lora_dropout: {self.model.lora_dropout}, but a policy is read as it drew, with all of its "
                "adapters; set it to 0"
            )
        if max(ends) >= vocabulary:
            problems.append(
                f"generation.eos_tokens: {max(ends)} is no token, as model.vocab_size is {vocabulary}; take it out"
            )
        for name in self.rewards:
            if not _NAME.fullmatch(name) or name == "running":  # train/reward_running_mean is another mean
                problems.append(
                    f"rewards.{name}: no metric can have this name; take letters, digits and _, not running"
                )
        if not self.rewards:
            problems.append("rewards: there is none, so all completions are worth the same; rewards=default has four")
        return problems


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GrpoBaseConfig(LanguageConfig):
    """Config of the base stage."""

    stages: Stages

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.model.lora_rank is not None:
            problems.append("model.lora_rank: a base model has no adapters; set it to null")
        return problems


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GrpoConfig(LanguageConfig):
    """Config of reinforcement fine-tuning."""

    METRICS: ClassVar[frozenset[str]] = LanguageConfig.METRICS | {
        *(
            f"train/{name}"
            for name in ("kl", "clip_fraction", "entropy", "advantage", "completion_length", "truncated")
        ),
        *(f"train/reward_{kind}" for kind in ("mean", "min", "max", "running_mean")),
    }

    grpo: Grpo

    def metrics(self) -> frozenset[str]:
        """Of each reward, too, its mean, least and largest value over a batch."""
        each = {f"train/reward_{name}_{kind}" for name in self.rewards for kind in ("mean", "min", "max")}
        return self.METRICS | each

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.grpo.num_generations < 2:
            problems.append(
                f"grpo.num_generations: must be at least 2, got {self.grpo.num_generations}; a completion is judged "
                "against the others of its prompt"
            )
        if self.model.lora_rank is None:
            problems.append("model.lora_rank: null, but the frozen base is what the policy is held to; set a rank")
        if self.training.base is not None and self.model.weights is not None:
            problems.append("training.base: there are model.weights, too; set training.base=null to begin from them")
        begins = (self.training.init_from, self.training.base, self.model.weights)
        if begins == (None, None, None) and not self.dry_run:  # shapes need none of them
            problems.append(
                "training.init_from: null, but there must be a base model; +experiment=grpo_from_scratch trains one "
                "first; or give a folder of checkpoints/ of workload=grpo_base, or published weights by model.weights"
            )
        return problems

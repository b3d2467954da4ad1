"""Schemas of the workloads `grpo` (reinforcement fine-tuning of a language model) and `grpo_base` (its base)."""

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic.dataclasses import dataclass

from trialfleet.config.schema import Config
from trialfleet.config.traced import STRICT, Gated, Host, Traced

Temperature = Annotated[Traced[float], Gt(0)]
TopP = Annotated[Traced[float], Gt(0), Le(1)]
TopK = Annotated[int, Ge(1)] | None  # null: all tokens

# What is logged of each of these, in this order: its mean, least and largest value over a batch.
REWARDS = ("format_exact", "format_approximate", "answer", "number")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gemma3:
    """A decoder of the Gemma 3 family."""

    name: Literal["gemma3"]
    weights: Host[str | None]  # a folder of published weights (safetensors), from which all begins; null: drawn
    vocab_size: Annotated[int, Ge(1)]  # tokens that there are, those that nothing stands for included
    width: Annotated[int, Ge(1)]  # of the residual stream
    layers: Annotated[int, Ge(1)]  # blocks of attention and feed-forward
    heads: Annotated[int, Ge(1)]  # of the queries
    kv_heads: Annotated[int, Ge(1)]  # each shared by heads / kv_heads queries
    head_dim: Annotated[int, Ge(2)]  # width of a head
    hidden: Annotated[int, Ge(1)]  # of the feed-forward part
    window: Annotated[int, Ge(1)]  # tokens that a local layer looks back, its own included
    global_every: Annotated[int, Ge(1)]  # every so many layers one sees all tokens
    local_rope_base: Annotated[float, Gt(0)]  # wavelengths of the positions in local layers
    global_rope_base: Annotated[float, Gt(0)]  # wavelengths of the positions in global layers
    lora_rank: Annotated[int, Ge(1)] | None  # null: no adapters, all weights are trained
    lora_alpha: Annotated[Traced[float], Gt(0)]  # the adapters' output is scaled by lora_alpha / lora_rank
    lora_module_path: str  # a regular expression of the weights that are adapted


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sums:
    """Generated sums of whole numbers."""

    name: Literal["sums"]
    split_seed: Annotated[int, Ge(0)]  # decides which sums are held out
    instruction: str  # stands before each problem
    max_number: Annotated[int, Ge(1)]  # the largest term
    terms: Annotated[int, Ge(2)]  # of a sum
    held_out: Annotated[float, Ge(0), Le(0.4)]  # share of all sums that only val has, and test; 0: all have all
    train_problems: Annotated[int, Ge(1)]  # an epoch
    eval_problems: Annotated[int, Ge(1)]  # of an evaluation


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Generation:
    """How completions are drawn while training."""

    max_prompt_length: Annotated[int, Ge(1)]  # tokens; shorter prompts are padded on the left
    max_generation_steps: Annotated[int, Ge(1)]  # tokens of a completion, at most
    temperature: Temperature  # logits are divided by it
    top_p: TopP  # only the likeliest tokens of together this probability are drawn
    top_k: TopK  # only so many of the likeliest tokens are drawn; null: all
    eos_tokens: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)]  # token ids that end a completion
    # weights that fsdp splits are gathered once before completions are drawn; false: for each token, where a device has
    # no room for all of them
    gather_weights: bool


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """How completions are drawn in an evaluation."""

    temperature: Temperature  # logits are divided by it
    top_p: TopP  # only the likeliest tokens of together this probability are drawn
    top_k: TopK  # only so many of the likeliest tokens are drawn; null: all
    num_passes: Annotated[int, Ge(1)]  # completions of a problem, of which the best one counts


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Grpo:
    """Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300)."""

    num_generations: int  # completions of a prompt, judged against each other
    num_iterations: Annotated[int, Ge(1)]  # updates on them
    beta: Annotated[Gated[float], Ge(0)]  # weight of the divergence from the base model
    epsilon: Annotated[Traced[float], Gt(0)]  # how far from 1 a ratio of probabilities is followed
    # estimate of the divergence: kl: d; mse_kl: d^2 / 2; low_var_kl: e^d - d - 1
    kl: Literal["kl", "mse_kl", "low_var_kl"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Stages:
    """What a base model learns first."""

    next_token_epochs: Annotated[int, Ge(0)]  # plain sums, every token
    supervised_epochs: Annotated[int, Ge(0)]  # whole answers with their tags, the answer's tokens


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LanguageConfig(Config):
    """What both workloads have."""

    METRICS: ClassVar[frozenset[str]] = frozenset(
        {"val/accuracy", "val/partial_accuracy", "val/format_accuracy", "val/reward", "val/completion_length"}
    )

    model: Gemma3
    dataset: Sums
    generation: Generation
    evaluation: Evaluation

    def problems(self) -> list[str]:
        model, problems = self.model, super().problems()
        if model.heads % model.kv_heads:
            problems.append(f"model.heads: {model.heads} must be a multiple of model.kv_heads={model.kv_heads}")
        if model.head_dim % 2:
            problems.append(f"model.head_dim: must be even, got {model.head_dim}")
        return problems


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GrpoBaseConfig(LanguageConfig):
    """Config of the base stage."""

    stages: Stages

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.model.lora_rank is not None:
            problems.append("model.lora_rank: a base model has no adapters; set it to null")
        if not self.stages.next_token_epochs + self.stages.supervised_epochs:
            problems.append("stages: next_token_epochs and supervised_epochs are both 0; set one")
        return problems


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GrpoConfig(LanguageConfig):
    """Config of reinforcement fine-tuning."""

    METRICS: ClassVar[frozenset[str]] = (
        LanguageConfig.METRICS
        | {
            f"train/{name}_{kind}"
            for name in ("reward", *(f"reward_{n}" for n in REWARDS))
            for kind in ("mean", "min", "max")
        }
        | {f"train/{name}" for name in ("kl", "clip_fraction", "entropy", "advantage", "completion_length")}
    )

    grpo: Grpo

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.grpo.num_generations < 2:
            problems.append(
                f"grpo.num_generations: must be at least 2, got {self.grpo.num_generations}; a completion is judged "
                "against the others of its prompt"
            )
        if self.model.lora_rank is None:
            problems.append("model.lora_rank: null, but the frozen base is what the policy is held to; set a rank")
        if self.training.init_from is None and self.model.weights is None and not self.dry_run:  # shapes need neither
            problems.append(
                "training.init_from: null, but there must be a base model; train one with "
                "workload=grpo_base and give a folder of its checkpoints/, or give published weights by model.weights"
            )
        return problems

"""What the base stage and reinforcement learning have in common: the model, its completions, their scores."""

from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.grpo import LanguageConfig
from trialfleet.training.published import PublishedWeights
from trialfleet.training.workload import Batch, Extra, Hyperparameters, Params, PyTree, Rows, Summary, Workload
from trialfleet.workloads.decoder import generation, transformer
from trialfleet.workloads.decoder.published import KEY, DecoderWeights
from trialfleet.workloads.grpo import rewards, tokens
from trialfleet.workloads.grpo.sums import SumProblems

SAMPLES = 20  # completions shown with each evaluation


class Language(Workload):
    """A language model, evaluated by the completions that it draws."""

    config: LanguageConfig

    def init(self, key: jax.Array) -> tuple[Params, Extra]:
        return transformer.init(self.config.model, key), ()

    @cached_property
    def _published(self) -> DecoderWeights | None:
        folder = self.config.model.weights
        return None if folder is None else DecoderWeights(self.config.model, PublishedWeights(Path(folder), KEY))

    def load(self, path: str, index: tuple[slice, ...]) -> np.ndarray | None:
        return None if self._published is None else self._published.read(path, index)

    def axes(self) -> PyTree:
        return transformer.axes(self.config.model)

    def group(self, path: str) -> str:
        return "embedder" if path.startswith(("embedder", "unembedder")) else "layers"

    def eval_step(self, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters) -> Rows:
        """`evaluation.num_passes` completions of each prompt (E, passes, S)."""
        passes, examples = self.config.evaluation.num_passes, len(batch["prompt"])
        if self.config.generation.gather_weights:
            params = transformer.gathered(self.config.model, params)
        drawn = generation.complete(
            self.config.model,
            params,
            jnp.repeat(batch["prompt"], passes, 0),
            self.config.generation.max_generation_steps,
            self.config.generation.eos_tokens,
            self.config.evaluation.top_k,
            hp["evaluation.temperature"],
            hp["evaluation.top_p"],
            hp,
            generation.keys_of(key, jnp.repeat(batch["id"], passes) * passes + jnp.tile(jnp.arange(passes), examples)),
        )
        return {
            "prompt": batch["prompt"],
            "drawn": drawn.tokens.reshape(examples, passes, -1),
            "length": jnp.sum(drawn.counted, 1).reshape(examples, passes),
        }

    def summarize(self, rows: Rows, split: str) -> Summary:
        """Shares of problems with a right answer, one within 10 %, and the right format, by their best passes."""
        source = SumProblems(self.config, split)
        golds = [source.gold(int(row)) for row in rows["id"]]
        said = [[tokens.decode(one) for one in passes] for passes in rows["drawn"]]
        judged = np.asarray(
            [[_judged(one, gold) for one in passes] for passes, gold in zip(said, golds, strict=True)], float
        )  # (N, passes, 4)
        accuracy, partial, formatted, reward = judged.max(1).mean(0)
        metrics = {
            "accuracy": float(accuracy),
            "partial_accuracy": float(partial),
            "format_accuracy": float(formatted),
            "reward": float(reward),
            "completion_length": float(rows["length"].mean()),
        }
        order: Any = np.argsort(rows["id"], kind="stable")[:SAMPLES]
        lines = [f"{golds[i]!r} asked by {tokens.decode(rows['prompt'][i])!r}: {said[i][0]!r}" for i in order]
        return Summary(metrics, {"samples.txt": ("\n".join(lines) + "\n").encode()})


def _judged(completion: str, gold: str) -> tuple[float, float, float, float]:
    """Right, within 10 %, of the right format, and the sum of its rewards."""
    given, true = rewards.number(rewards.said(completion) or ""), rewards.number(gold)
    right = given is not None and given == true
    near = right or (given is not None and bool(true) and true is not None and 0.9 <= given / true <= 1.1)
    formatted = rewards.format_exact(completion, gold) > 0
    total = sum(function(completion, gold) for function in rewards.FUNCTIONS.values())
    return float(right), float(near), float(formatted), total

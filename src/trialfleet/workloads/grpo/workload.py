"""Reinforcement fine-tuning of a language model: the frozen base is the reference, its adapters are the policy."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from trialfleet.config import static_part
from trialfleet.config.grpo import GrpoConfig
from trialfleet.training import lora
from trialfleet.training.mesh import batch_sharding, on_mesh
from trialfleet.training.workload import Batch, Context, Extra, Hyperparameters, Loss, Params, Product
from trialfleet.workloads.decoder import PAD, generation, transformer
from trialfleet.workloads.grpo import policy, rewards
from trialfleet.workloads.grpo.language import Language


class Grpo(Language):
    """See `trialfleet.training.workload.Workload`. An example is a prompt with all of its completions.

    Prepared batches, with R completions of S tokens: weight (B,), prompt (B, P), drawn, counted, reference and, where
    there are several updates on them, old (B, R, S), truncated, advantage (B, R), rewards (B, 3, 1 + functions): their
    mean, least and largest value over the global batch, in each example the same but for the mean, which is its own;
    reward_memory (B, 2): what `init` says, with this batch, in each example the same.
    """

    config: GrpoConfig

    def __init__(self, config: GrpoConfig) -> None:
        super().__init__(config)
        self.updates_per_batch = config.grpo.num_iterations

    def init(self, key: jax.Array) -> tuple[Params, Extra]:
        """Beside the parameters: the running sum of mean rewards, and of the weights that it has them with."""
        params, _ = super().init(key)
        return params, {"reward": jnp.zeros(2)}

    def trained(self, path: str) -> bool:
        return lora.is_adapter(path)

    def prepare(
        self, context: Context, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters
    ) -> Batch | None:
        """Completions of each prompt, what they are worth, and what the policies say of them."""
        if context.stop():
            return None
        rolled = _rollout(static_part(self.config), context.mesh)(params, batch["prompt"], key, dict(hp))
        if context.stop():
            return None
        drawn, rows = (_everywhere(leaf) for leaf in (rolled["drawn"], batch["id"]))
        context.generated(int((drawn != PAD).sum()))
        worth = self._judged(drawn, rows)  # (A, M, R, functions)
        total = worth @ np.asarray(rewards.weights(self.config.rewards), np.float32)
        everything = np.concatenate([total[..., None], worth], -1)
        own = everything.mean(2)  # (A, M, 1 + functions)
        low, high = (np.broadcast_to(f(everything, (0, 1, 2)), own.shape) for f in (np.min, np.max))
        judgement = {
            "advantage": policy.advantages(total, self.config.grpo.scale_rewards),
            "rewards": np.stack([own, low, high], 2),
        }
        past = np.asarray(extra["reward"]) * (1 - 1 / self.config.grpo.reward_memory)
        judgement["reward_memory"] = np.broadcast_to(past + np.asarray([total.mean(), 1]), (*own.shape[:2], 2))
        placed = {name: _placed(leaf, context.mesh) for name, leaf in judgement.items()}
        return {"weight": batch["weight"], "prompt": batch["prompt"], **rolled, **placed}

    def prepared(
        self, mesh: Mesh, params: Params, extra: Extra, batch: Batch, key: jax.Array, hp: Hyperparameters
    ) -> Batch:
        """The rollout; the host's judgement of it has its shapes alone."""
        rolled = _rollout(static_part(self.config), mesh)(params, batch["prompt"], key, dict(hp))
        groups = rolled["drawn"].shape[:3]
        judgement = {
            "advantage": jnp.zeros(groups),
            "rewards": jnp.zeros((*groups[:2], 3, 1 + len(self.config.rewards))),
            "reward_memory": jnp.zeros((*groups[:2], 2)),
        }
        return {"weight": batch["weight"], "prompt": batch["prompt"], **rolled, **judgement}

    def carries_extra(self, path: str) -> bool:
        """The mean of past rewards is of that training."""
        return False

    def norms(self, batch: Batch) -> dict[str, jax.Array]:
        taught = jnp.sum(_taught(self.config, batch), (1, 2))
        return {"prompts": jnp.sum(batch["weight"]), "tokens": jnp.sum(batch["weight"] * taught)}

    def flops(self, bucket: int) -> Sequence[Product]:
        """Of reading the completions of a prompt once; drawing them is not training, nor is what the reference says."""
        own, count = self.config.generation, self.config.grpo.num_generations
        read = own.max_prompt_length + own.max_generation_steps - 1  # behind the last token nothing is said
        one = transformer.products(self.config.model, read, own.max_generation_steps)
        return [product._replace(flops=count * product.flops) for product in one]

    def loss(
        self,
        params: Params,
        extra: Extra,
        batch: Batch,
        norms: dict[str, jax.Array],
        key: jax.Array,
        hp: Hyperparameters,
    ) -> tuple[jax.Array, Loss]:
        """The clipped objective and the divergence, over the tokens of completions as `grpo.loss_type` says."""
        own, (prompts, count) = self.config.grpo, batch["advantage"].shape
        names = ("drawn", "counted", "reference", *(("old",) if "old" in batch else ()))
        flat = {name: batch[name].reshape(prompts * count, -1) for name in names}
        prompt, remat = jnp.repeat(batch["prompt"], count, 0), self.config.training.remat
        seen = policy.read(self.config.model, params, prompt, flat["drawn"], hp, remat=remat)
        old = flat.get("old", jax.lax.stop_gradient(seen.logs))  # with one update a round they are the same
        low, high = hp["grpo.epsilon"], hp.get("grpo.epsilon_high", hp["grpo.epsilon"])
        loss, held = policy.clipped(seen.logs, old, batch["advantage"].reshape(-1), low, high)
        apart = policy.divergence(own.kl, seen.logs, flat["reference"])
        if own.beta != 0:
            loss += hp["grpo.beta"] * apart
        weight, completions = jnp.repeat(batch["weight"], count), count * norms["prompts"]
        taught = _taught(self.config, batch).reshape(prompts * count, -1)
        each = policy.token_weights(own.loss_type, weight, completions, taught, norms["tokens"])

        def mean(values: jax.Array) -> jax.Array:
            return jnp.sum(weight / completions * values)

        def mean_of_tokens(values: jax.Array) -> jax.Array:
            return mean(policy.by_completion(values, flat["counted"]))

        metrics = {
            "kl": mean_of_tokens(apart),
            "clip_fraction": mean_of_tokens(held),
            "entropy": mean_of_tokens(seen.entropy),
            "advantage": mean(jnp.abs(batch["advantage"].reshape(-1))),
            "completion_length": mean(jnp.sum(flat["counted"], 1)),
            "truncated": mean(batch["truncated"].reshape(-1)),
        }
        worth = jnp.sum(batch["rewards"] * batch["weight"][:, None, None], 0) / norms["prompts"]
        names = ("reward", *(f"reward_{name}" for name in rewards.names(self.config.rewards)))
        for row, kind in enumerate(("mean", "min", "max")):
            metrics |= {f"{name}_{kind}": worth[row, column] for column, name in enumerate(names)}
        memory = batch["reward_memory"][0]  # the same in all examples
        share = jnp.sum(batch["weight"]) / norms["prompts"]
        metrics["reward_running_mean"] = share * memory[0] / jnp.maximum(memory[1], 1)
        return jnp.sum(each * loss), Loss({"reward": memory}, metrics)

    def _judged(self, drawn: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The rewards (..., R, functions) of completions (..., R, S) of the problems of rows (...)."""
        problems, read = self.problems("train"), self.tokenizer
        worth = [
            [
                rewards.judged(self.config.rewards, read.decode(one), problems[row % len(problems)].answer)
                for one in group
            ]
            for group, row in zip(drawn.reshape(-1, *drawn.shape[-2:]), map(int, rows.ravel()), strict=True)
        ]
        return np.asarray(worth, np.float32).reshape(*drawn.shape[:-1], len(self.config.rewards))


def _taught(config: GrpoConfig, batch: Batch) -> jax.Array:
    """1 for the tokens of completions that teach something (B, R, S)."""
    counted: jax.Array = batch["counted"]
    return counted * (1 - batch["truncated"])[..., None] if config.grpo.mask_truncated_completions else counted


@lru_cache(maxsize=16)
def _rollout(config: GrpoConfig, mesh: Mesh) -> Callable[..., dict[str, jax.Array]]:
    """The compiled function that draws completions (A, M, R, S) of prompts (A, M, P) and reads them.

    One micro-batch after the other, as in the updates; what is drawn does not depend on their size. What the policy
    itself says of them is read only if it changes before the last update on them: else that update reads it anyway.

    Args:
        config: the static part.
    """
    own, dtype = config.generation, config.training.compute_dtype
    count = config.grpo.num_generations
    readers = {"reference": False, **({"old": True} if config.grpo.num_iterations > 1 else {})}

    def of_one(params: Params, hp: Hyperparameters, prompts: jax.Array, keys: jax.Array) -> dict[str, jax.Array]:
        drawn = generation.complete(
            config.model,
            params,
            prompts,
            own.max_generation_steps,
            own.eos_tokens,
            own.top_k,
            hp["generation.temperature"],
            hp["generation.top_p"],
            hp,
            keys,
            unstacked=generation.unstacks(own),
        )
        prompt = jnp.repeat(prompts, count, 0)
        read = {
            name: policy.read(config.model, params, prompt, drawn.tokens, hp, adapter).logs
            for name, adapter in readers.items()
        }
        found = {"drawn": drawn.tokens, "counted": drawn.counted, **read}
        shaped = {name: leaf.reshape(len(prompts), count, -1) for name, leaf in found.items()}
        return {**shaped, "truncated": drawn.truncated.reshape(len(prompts), count)}

    def roll(params: Params, prompts: jax.Array, key: jax.Array, hp: Hyperparameters) -> dict[str, jax.Array]:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        if own.gather_weights:
            params = transformer.gathered(config.model, params)
        parts, micro = prompts.shape[:2]
        keys = generation.keys_of(key, jnp.arange(parts * micro * count)).reshape(parts, -1)
        if parts == 1:
            return {name: leaf[None] for name, leaf in of_one(params, hp, prompts[0], keys[0]).items()}
        found: dict[str, jax.Array] = jax.lax.map(lambda part: of_one(params, hp, *part), (prompts, keys))
        return found

    return jax.jit(on_mesh(mesh, roll), out_shardings=batch_sharding(mesh))


def _everywhere(array: jax.Array) -> np.ndarray:
    """A sharded array, whole, on every process."""
    if jax.process_count() == 1:
        return np.asarray(array)
    gathered: Any = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(gathered)


def _placed(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """A whole array on the devices, each with its share of the batch."""
    array = array.astype(np.float32)
    placed: jax.Array = jax.make_array_from_callback(array.shape, batch_sharding(mesh), lambda index: array[index])
    return placed

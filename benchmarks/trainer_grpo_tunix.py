"""GRPO of google-tunix on the shapes of `trainer_grpo`, which starts this file by an interpreter that has it.

    PYTHON benchmarks/trainer_grpo_tunix.py SIZES

Sizes and prompts come as JSON, prompts as texts of token ids. The last line is JSON: of the learner as told, of one
like it and of others that differ in one number, seconds from its making to the end of its second iteration, seconds of
an iteration behind that, and how many programs were compiled.
"""

import json
import sys
import time
from typing import Any

import jax
import numpy as np
import optax
import qwix
from flax import nnx
from tunix.models.gemma3 import model as gemma
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout.base_rollout import RolloutConfig

compiled = 0
OTHERS: dict[str, dict[str, float]] = {
    "as told": {},
    "the same again": {},
    "beta": {"beta": 0.05},
    "epsilon": {"epsilon": 0.3},
    "temperature": {"temperature": 0.8},
}


def took(event: str, seconds: float, **_: Any) -> None:
    global compiled
    compiled += event == "/jax/core/compile/backend_compile_duration"


class Ids:
    """A tokenizer of texts that are token ids already."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(str(one) for one in ids)

    def bos_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return 1

    def pad_id(self) -> int:
        return 0


def model_of(sizes: Any) -> tuple[nnx.Module, nnx.Module]:
    """The base, and the base with adapters."""
    kinds = gemma.AttentionType
    period = sizes["global_every"]
    gemma.GEMMA3_ATTENTION_PATTERN = (*[kinds.LOCAL_SLIDING] * (period - 1), kinds.GLOBAL)
    config = gemma.ModelConfig(
        num_layers=sizes["layers"],
        num_embed=sizes["vocab_size"],
        embed_dim=sizes["width"],
        hidden_dim=sizes["hidden"],
        num_heads=sizes["heads"],
        head_dim=sizes["head_dim"],
        num_kv_heads=sizes["kv_heads"],
        sliding_window_size=sizes["window"],
        global_base_frequency=1_000_000,
        param_dtype=jax.numpy.float32,
    )
    base = gemma.Gemma3(config, rngs=nnx.Rngs(0))
    provider = qwix.LoraProvider(
        module_path=sizes["lora_module_path"], rank=sizes["lora_rank"], alpha=sizes["lora_alpha"]
    )
    return base, qwix.apply_lora_to_model(base, provider, **base.get_model_input())


def learner_of(sizes: Any, mesh: Any, beta: float, epsilon: float, temperature: float, reward: Any) -> GRPOLearner:
    base, policy = model_of(sizes)
    prompt, steps, role = sizes["prompt"], sizes["steps"], rl_cluster.Role
    cluster = rl_cluster.RLCluster(
        actor=policy,
        reference=base,
        tokenizer=Ids(),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys((role.ACTOR, role.REFERENCE, role.ROLLOUT), mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.chain(
                    optax.clip_by_global_norm(0.1),
                    optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 4e-3, 25, 250), 0.9, 0.98, weight_decay=0.01),
                ),
                eval_every_n_steps=10**6,
                max_steps=sizes["iterations"],
            ),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=steps,
                max_prompt_length=prompt,
                kv_cache_size=prompt + steps,
                temperature=temperature,
                top_p=1.0,
                top_k=50,
                eos_tokens=[sizes["vocab_size"] - 1],
            ),
        ),
    )
    config = GRPOConfig(num_generations=sizes["generations"], beta=beta, epsilon=epsilon)
    return GRPOLearner(rl_cluster=cluster, algo_config=config, reward_fns=reward)


def measured(sizes: Any, mesh: Any, numbers: dict[str, float]) -> dict[str, float]:
    """Seconds and programs of one learner, by the times at which its completions are judged, once an iteration."""
    times: list[float] = []
    random = np.random.default_rng(0)

    def reward(prompts: Any, completions: Any, **_: Any) -> list[float]:
        times.append(time.perf_counter())
        return [float(value) for value in random.normal(size=len(completions))]

    jax.monitoring.register_event_duration_secs_listener(took)  # a learner's end takes all listeners away
    before, began = compiled, time.perf_counter()
    learner = learner_of(sizes, mesh, reward=reward, **{**sizes["numbers"], **numbers})
    with mesh:
        learner.train({"prompts": np.asarray(sizes["prompts"])} for _ in range(sizes["iterations"]))
    spent = np.diff(times)[1:]
    return {
        "start": times[2] - began,
        "median": float(np.median(spent)),
        "least": float(spent.min()),
        "programs": compiled - before,
    }


def main() -> None:
    sizes = json.loads(sys.argv[1])
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    print(json.dumps({name: measured(sizes, mesh, numbers) for name, numbers in OTHERS.items()}))


if __name__ == "__main__":
    main()

"""The two sides of `trainer_grpo`: the trainer's workload and program, and the peer with its weights and prompts."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import trainer_grpo_peer as plain
from benchmarks.trainer_steps import TimedRun
from trialfleet.config.grpo import GrpoConfig
from trialfleet.training import train, trees
from trialfleet.training.data import Feed, Loader, Position
from trialfleet.training.mesh import batch_sharding
from trialfleet.training.setup import Setup
from trialfleet.workloads.decoder import generation, transformer, unembedding
from trialfleet.workloads.grpo import Grpo, rewards

Tree = Any
WARM = 3  # iterations of a loop that are not timed
MATRICES = {
    "attn/q_einsum": "q",
    "attn/kv_einsum": "kv",
    "attn/attn_vec_einsum": "out",
    "mlp/gate_proj": "gate",
    "mlp/up_proj": "up",
    "mlp/down_proj": "down",
}
NORMS = {
    "pre_attention_norm": "before_attention",
    "post_attention_norm": "after_attention",
    "pre_ffw_norm": "before_mlp",
    "post_ffw_norm": "after_mlp",
    "attn/query_norm": "query_norm",
    "attn/key_norm": "key_norm",
}


class Ours:
    """The workload as the trainer calls it, on the first batch of a training. It is its own `workload.Context`."""

    def __init__(self, config: GrpoConfig) -> None:
        self.config, self.setup = config, Setup(config)
        self.mesh = self.setup.mesh
        state, self.frozen = self.setup.program.init(self.setup.inputs.hp, self.setup.inputs.seed)
        noise = jax.random.normal(jax.random.key(1), (max(leaf.size for leaf in jax.tree.leaves(state.params)),))
        moved = jax.tree.map(lambda leaf: leaf + 0.02 * noise[: leaf.size].reshape(leaf.shape), state.params)
        self.state = state._replace(params=moved)  # adapters that do nothing would hide a mistake
        self.params = self.with_base(jax.tree.map(jnp.copy, moved))  # an update takes the state's own
        loader = Loader(self.setup.train_source, batch_sharding(self.mesh), config.training.global_batch, 1)
        feed = Feed(loader, config.seed, Position(0, 0, 0), None, 1)
        self.batch = feed.next().batch
        feed.close()
        self._draw = jax.jit(self._drawn)
        self.prepared = self.prepare(0)

    def stop(self) -> bool:
        return False

    def generated(self, tokens: int) -> None:
        pass

    def with_base(self, trained: Tree) -> Tree:
        return trees.merge(trained, self.frozen)

    def rollout(self, number: int) -> Tree:
        """Drawn and read alone."""
        given = (self.params, self.state.extra, self.batch, jax.random.key(number), self.setup.hp)
        with jax.set_mesh(self.mesh):
            return jax.block_until_ready(self.setup.workload.prepared(self.mesh, *given))

    def draw(self, number: int) -> Tree:
        """Drawn alone, with the settings of the training."""
        return jax.block_until_ready(self._draw(self.params, self.batch["prompt"][0], jax.random.key(number)))

    def prepare(self, number: int) -> Tree:
        """The first batch as the trainer prepares it: drawn, read, judged."""
        given = (self.params, self.state.extra, self.batch, jax.random.key(number), self.setup.hp)
        with jax.set_mesh(self.mesh):
            return jax.block_until_ready(self.setup.workload.prepare(self, *given))

    def update(self, number: int) -> None:
        self.state, signals = self.setup.program.step(self.state, self.frozen, self.prepared, self.setup.inputs)
        jax.block_until_ready(signals)

    def iterations(self, count: int) -> tuple[float, float]:
        """Seconds of one of so many iterations of the trainer's loop, by the wall's clock and by the processor's."""
        run = TimedRun()
        train(self.config, run)
        last = self.config.training.max_steps
        assert last == WARM + count
        return per_iteration(run.times[WARM], run.times[last], count)

    def _drawn(self, params: Tree, prompts: jax.Array, key: jax.Array) -> jax.Array:
        own, count = self.config.generation, self.config.grpo.num_generations
        keys = generation.keys_of(key, jnp.arange(len(prompts) * count))
        heat, share = jnp.float32(own.temperature), jnp.float32(own.top_p)
        settings = (own.max_generation_steps, own.eos_tokens, own.top_k, heat, share, self.setup.hp, keys)
        return generation.complete(self.config.model, params, prompts, *settings, unstacked=own.unstack_weights).tokens

    def prompts(self) -> jax.Array:
        """Each prompt as often as it is answered (B · R, P)."""
        return jnp.repeat(self.batch["prompt"][0], self.config.grpo.num_generations, 0)

    def scores(self, sequence: jax.Array) -> jax.Array:
        """Of each token behind each of a sequence (B, T, V)."""
        valid = (sequence != 0).astype(jnp.float32)
        x = transformer.stream(self.config.model, self.params, sequence, valid, self.setup.hp)
        return unembedding.scores(x, transformer.unembedding(self.params))

    def greedy(self) -> jax.Array:
        own, prompts = self.config.generation, self.prompts()
        one, keys = jnp.float32(1), generation.keys_of(jax.random.key(0), jnp.arange(len(prompts)))
        settings = (own.max_generation_steps, own.eos_tokens, 1, one, one, self.setup.hp, keys)
        return generation.complete(self.config.model, self.params, prompts, *settings).tokens


class Peer:
    """The same in plain JAX."""

    def __init__(self, ours: Ours) -> None:
        config = ours.config
        self.shape = shape_of(config)
        self.base, self.adapters = unstacked(config, ours.params)
        self.tx = optimizer_of(config, ours.setup.total_steps)
        self.opt = self.tx.init(self.adapters)
        self.prompts, self.rows = ours.prompts(), np.asarray(ours.batch["id"][0])
        self.hp = {
            "temperature": jnp.float32(config.generation.temperature),
            "top_p": jnp.float32(config.generation.top_p),
            "epsilon": jnp.float32(config.grpo.epsilon),
            "beta": jnp.float32(config.grpo.beta),
        }
        self._grpo = Grpo(config)  # for its problems and its tokenizer
        self._draw = jax.jit(partial(plain.generate, self.shape))
        self._rollout = jax.jit(partial(plain.rollout, self.shape))
        self._update = jax.jit(partial(plain.update, self.shape, self.tx), donate_argnums=(0, 1))
        self.prepared = self._as_ours(ours.prepared)

    def rollout(self, number: int) -> Tree:
        key = jax.random.key(number)
        return jax.block_until_ready(self._rollout(self.base, self.adapters, self.prompts, key, self.hp))

    def draw(self, number: int) -> Tree:
        key = jax.random.key(number)
        return jax.block_until_ready(self._draw(self.base, self.adapters, self.prompts, key, self.hp))

    def prepare(self, number: int) -> Tree:
        key = jax.random.key(number)
        drawn, reference = self._rollout(self.base, self.adapters, self.prompts, key, self.hp)
        worth = self._judged(np.asarray(drawn))
        advantage = jnp.asarray(plain.advantages(worth), jnp.float32)
        return {"prompt": self.prompts, "drawn": drawn, "reference": reference, "advantage": advantage}

    def update(self, number: int) -> None:
        jax.block_until_ready(self._step(self.prepared))

    def iterations(self, count: int) -> tuple[float, float]:
        """The same, each followed by the next at once."""
        began = (0.0, 0.0)
        for n in range(WARM + count):
            if n == WARM:
                began = time.perf_counter(), time.process_time()
            loss, _ = self._step(self.prepare(n))
            float(loss)
        return per_iteration(began, (time.perf_counter(), time.process_time()), count)

    def greedy(self) -> jax.Array:
        shape, settings = self.shape._replace(top_k=1), {**self.hp, "temperature": 1.0}
        return plain.generate(shape, self.base, self.adapters, self.prompts, jax.random.key(0), settings)

    def scores(self, sequence: jax.Array) -> jax.Array:
        x, _ = plain.whole(self.shape, self.base, self.adapters, sequence)
        return x @ self.base["embedding"].T

    def _step(self, batch: Tree) -> Tree:
        self.adapters, self.opt, said = self._update(self.adapters, self.opt, self.base, batch, self.hp)
        return said

    def _judged(self, drawn: np.ndarray) -> np.ndarray:
        """What completions (B · R, S) are worth (B, R): by the same functions as ours, which are plain Python."""
        problems, read, own = self._grpo.problems("train"), self._grpo.tokenizer, self._grpo.config.rewards
        count = len(drawn) // len(self.rows)
        answers = [problems[row % len(problems)].answer for row in self.rows for _ in range(count)]
        worth = [rewards.judged(own, read.decode(one), answer) for one, answer in zip(drawn, answers, strict=True)]
        return (np.asarray(worth) @ np.asarray(rewards.weights(own))).reshape(-1, count)

    def _as_ours(self, prepared: Tree) -> Tree:
        """A batch of ours, a row for each completion."""
        names = ("drawn", "reference", "advantage")
        flat = {name: prepared[name][0].reshape(len(self.prompts), -1) for name in names}
        return {**flat, "prompt": self.prompts, "advantage": flat["advantage"][:, 0]}


def per_iteration(began: tuple[float, float], ended: tuple[float, float], count: int) -> tuple[float, float]:
    return (ended[0] - began[0]) / count, (ended[1] - began[1]) / count


def shape_of(config: GrpoConfig) -> plain.Shape:
    model, drawn = config.model, config.generation
    assert model.window is not None
    assert model.lora_rank is not None
    assert drawn.top_k is not None
    return plain.Shape(
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head=model.head_dim,
        window=model.window,
        global_every=model.global_every,
        local_base=model.local_rope_base,
        global_base=model.global_rope_base,
        epsilon=model.norm_epsilon,
        lora_scale=model.lora_alpha / model.lora_rank,
        steps=drawn.max_generation_steps,
        ends=drawn.eos_tokens,
        top_k=drawn.top_k,
    )


def optimizer_of(config: GrpoConfig, steps: int) -> Any:
    own: Any = config.optimizer
    scheduler: Any = config.scheduler
    warmup = scheduler.warmup_ratio * steps
    clip = config.training.gradient_clip or 0.0
    return plain.optimizer(own.learning_rate, steps, warmup, clip, own.beta1, own.beta2, own.eps, own.weight_decay)


def unstacked(config: GrpoConfig, params: Tree) -> tuple[Tree, Tree]:
    """The peer's base and adapters: copies of ours, layer by layer, every weight a matrix."""
    flat = trees.flatten(params)
    base: Tree = {
        "embedding": jnp.copy(flat["embedder/input_embedding"]),
        "final_norm": jnp.copy(flat["final_norm"]),
        "layers": [],
    }
    adapters: Tree = []
    for n in range(config.model.layers):
        layer = {path.removeprefix("layers/"): leaf[n] for path, leaf in flat.items() if path.startswith("layers/")}
        norms = {other: layer[name] for name, other in NORMS.items()}
        pairs = {}
        for name, other in MATRICES.items():
            a, b = layer[f"{name}_lora_a"], layer[f"{name}_lora_b"]
            a, b = a.reshape(-1, a.shape[-1]), b.reshape(b.shape[0], -1)
            pairs[other] = (a, b)
            norms[other] = layer[name].reshape(len(a), b.shape[1])
        base["layers"].append(norms)
        adapters.append(pairs)
    return base, adapters

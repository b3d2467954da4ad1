"""A small decoder whose adapters do something, and what it says."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from tests.training.harness import composed
from trialfleet.training import trees
from trialfleet.workloads.decoder import PAD, transformer, unembedding
from trialfleet.workloads.decoder.tokenizer import of

SMALL = (
    "workload=grpo",
    "model.width=16",
    "model.heads=2",
    "model.kv_heads=1",
    "model.head_dim=8",
    "model.hidden=16",
    "model.window=4",
    "model.lora_rank=2",
    "dataset.train_problems=32",
    "dataset.eval_problems=8",
    "training.global_batch=8",
    "training.eval_batch=8",
    "mesh.data=1",
    "runtime.compilation_cache=null",
)
HP = {"model.lora_alpha": jnp.asarray(16.0), "generation.temperature": jnp.asarray(1.0)}


@partial(jax.jit, static_argnums=0, static_argnames=("adapter", "remat"))
def logits(config: Any, params: Any, *given: Any, **named: Any) -> jax.Array:
    """Scores of the token behind each one (B, T, vocabulary)."""
    x = transformer.stream(config, params, *given, **named)
    return unembedding.scores(x, transformer.unembedding(params))


def small(*overrides: str) -> Any:
    return composed(*SMALL, "training.init_from=somewhere", *overrides)


def model(*overrides: str) -> tuple[Any, Any]:
    """A model whose adapters do something."""
    config = small(*overrides).model
    return config, weights(config)


@partial(jax.jit, static_argnums=0)
def weights(config: Any) -> Any:
    flat = trees.flatten(transformer.init(config, jax.random.key(0)))
    for n, (path, leaf) in enumerate(flat.items()):
        if path.endswith("_lora_b"):
            flat[path] = jax.random.normal(jax.random.key(n), leaf.shape) * 0.1
    return trees.unflatten(flat)


def prompts() -> jax.Array:
    texts = ["1+2=?", "13+4=?"]
    rows = [text_of(text) for text in texts]
    return jnp.asarray([[PAD] * (9 - len(row)) + row for row in rows])


def text_of(text: str) -> list[int]:
    """The tokens of a text, from its beginning."""
    return of(small().model).text(text)

"""The small models in golden/: weights, and what transformers and peft make of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.training.harness import composed
from trialfleet.training import trees
from trialfleet.training.published import PublishedWeights
from trialfleet.workloads.decoder import transformer
from trialfleet.workloads.decoder.published import DecoderWeights

GOLDEN = Path(__file__).parent / "golden"
SIZES = (
    "model.vocab_size=80",
    f"model.tokenizer={GOLDEN / 'characters.json'}",
    "generation.eos_tokens=[1,5]",
    "generation.max_prompt_length=24",
    "generation.max_generation_steps=64",
    "model.head_dim=8",
    "model.hidden=40",
    "runtime.compilation_cache=null",
)
MODELS = {
    "gemma3": (
        *SIZES,
        "model.width=32",
        "model.layers=5",
        "model.heads=4",
        "model.kv_heads=2",
        "model.window=5",
        "model.global_rope_factor=8.0",
        "model.query_scale=12",
    ),
    "llama": (
        "model=llama_tiny",
        *SIZES,
        "model.width=24",
        "model.layers=2",
        "model.heads=3",
        "model.kv_heads=1",
        "model.global_rope_base=100000.0",
        "model.tied=false",
    ),
}


def config_of(family: str, *overrides: str) -> Any:
    """A whole config of reinforcement fine-tuning that begins from the golden weights."""
    return composed("workload=grpo", *MODELS[family], f"model.weights={GOLDEN / family}", *overrides)


def weights_of(config: Any) -> dict[str, np.ndarray]:
    """All leaves that are published, by path."""
    reader = DecoderWeights(config.model, PublishedWeights(Path(config.model.weights), "model.weights"))
    paths = {path: len(axes) for path, axes in trees.flatten(transformer.axes(config.model)).items()}
    found = {path: reader.read(path, (slice(None),) * axes) for path, axes in paths.items()}
    return {path: leaf for path, leaf in found.items() if leaf is not None}


def said(family: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (B, T), and transformers' logits of them (B, T, V)."""
    arrays = load_file(GOLDEN / f"{family}_said.safetensors")
    return arrays["tokens"], arrays["logits"]


def adapter(family: str) -> Any:
    """Arrays with their shapes, and the config, of an adapter that peft wrote."""
    return json.loads((GOLDEN / f"{family}_adapter.json").read_text())

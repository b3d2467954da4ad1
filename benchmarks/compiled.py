"""What compiled programs move and hold, read from them without running any: `python -m benchmarks.compiled [TABLE …]`.

Four tables. A training step of a Gemma of 22 million parameters on eight simulated devices: collectives in one call
(those in a loop by its trips), and bytes a device. The same of Gemma 3 1B on 64, beside what theory says: each device
holds 1/64 of parameters and moments, gathers each weight once on the way there and once on the way back, and adds up
each gradient once. And what reads a real vocabulary, 262,144 tokens: the temporaries
of a prefill, of reading completions and of the gradient of that, beside the same with all scores at once. And what it
takes to draw a state on eight devices that share it, beside the state itself.
"""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=64"
os.environ["JAX_PLATFORMS"] = "cpu"

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from hydra import compose, initialize_config_dir

from trialfleet.config import Config, load
from trialfleet.training import compiled
from trialfleet.training.setup import Setup, placed_shapes
from trialfleet.workloads.decoder import transformer, unembedding

MODEL = (
    "workload=grpo_base",
    "model.width=512",
    "model.heads=8",
    "model.kv_heads=4",
    "model.head_dim=64",
    "model.hidden=2048",
    "model.layers=6",
    "model.scan_layers=true",
    "training.global_batch=64",
    "runtime.compilation_cache=null",
)
MESHES = {
    "8 data": ("mesh.data=8",),
    "8 fsdp": ("mesh.data=1", "mesh.fsdp=8"),
    "2x2x2": ("mesh.data=2", "mesh.fsdp=2", "mesh.tp=2"),
}
VOCABULARY = ("model.vocab_size=262144", "model.width=640", "model.layers=2", "model.hidden=2048", "model.window=512")
SEQUENCES, PROMPT, COMPLETION = 16, 256, 512


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf")):
        return load(compose("config", overrides=list(overrides)))


def steps() -> None:
    print("| mesh | collectives | MB moved | MB a device: state and batch | temporaries |\n|---|---|---|---|---|")
    for name, mesh in MESHES.items():
        setup = Setup(composed(*MODEL, *mesh))
        state, frozen = placed_shapes(setup.program.layout)
        program = setup.program.step.lower(state, frozen, setup.batch_shapes("train"), setup.inputs).compile()
        kinds, memory = compiled.by_kind(compiled.collectives(program)), compiled.memory(program)
        shown = ", ".join(f"{count} {kind}" for kind, (count, _) in kinds.items())
        moved = sum(size for _, size in kinds.values()) / 1e6
        print(f"| {name} | {shown} | {moved:.0f} | {memory.arguments / 1e6:.0f} | {memory.temporaries / 1e6:.0f} |")


PUBLISHED = (
    "workload=grpo_base",
    "model=gemma3_1b",
    "dry_run=true",  # which needs no tokenizer
    "model.lora_rank=null",
    "training.global_batch=64",
    "training.remat=full",
    "runtime.compilation_cache=null",
    "mesh.data=1",
    "mesh.fsdp=64",
)


def published() -> None:
    setup = Setup(composed(*PUBLISHED))
    state, frozen = placed_shapes(setup.program.layout)
    program = setup.program.step.lower(state, frozen, setup.batch_shapes("train"), setup.inputs).compile()
    kinds, memory = compiled.by_kind(compiled.collectives(program)), compiled.memory(program)
    parameters = 4 * sum(prod(leaf.shape) for leaf in jax.tree.leaves(setup.program.layout.shapes.params))
    gathered, reduced = (
        sum(kinds.get(kind, (0, 0))[1] for kind in some) for some in (("all-gather",), ("all-reduce", "reduce-scatter"))
    )
    print("\n| gemma3_1b on 64 fsdp | in the program | in theory | ratio |\n|---|---|---|---|")
    for what, found, theory in (
        ("MB of state a device", memory.arguments, 3 * parameters / 64),
        ("MB gathered a device", gathered, 2 * parameters),
        ("MB added up a device", reduced, parameters),
    ):
        print(f"| {what} | {found / 1e6:.0f} | {theory / 1e6:.0f} | {found / theory:.2f} |")
    shown = ", ".join(f"{count} {kind}" for kind, (count, _) in kinds.items())
    print(f"\n{shown}; {memory.temporaries / 1e9:.2f} GB of temporaries a device", flush=True)


def vocabulary() -> None:
    whole: Any = composed("workload=grpo_base", *VOCABULARY, "runtime.compilation_cache=null")
    config = whole.model
    params = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
    length = PROMPT + COMPLETION
    sequence = jax.ShapeDtypeStruct((SEQUENCES, length), jnp.int32)
    valid = jax.ShapeDtypeStruct((SEQUENCES, length), jnp.float32)

    def all_scores(params: Any, sequence: Any, valid: Any) -> Any:
        return unembedding.scores(
            transformer.stream(config, params, sequence, valid, {}), transformer.unembedding(params)
        )

    def prefill(params: Any, sequence: Any, valid: Any) -> Any:
        return transformer.start(config, params, sequence[:, :PROMPT], valid[:, :PROMPT], COMPLETION, {})[0]

    def prefill_all(params: Any, sequence: Any, valid: Any) -> Any:
        return all_scores(params, sequence[:, :PROMPT], valid[:, :PROMPT])[:, -1]

    def read(params: Any, sequence: Any, valid: Any) -> Any:
        x = transformer.stream(config, params, sequence[:, :-1], valid[:, :-1], {})
        return unembedding.say(x[:, PROMPT - 1 :], transformer.unembedding(params), sequence[:, PROMPT:]).logs

    def read_all(params: Any, sequence: Any, valid: Any) -> Any:
        logs = jax.nn.log_softmax(all_scores(params, sequence[:, :-1], valid[:, :-1]))
        return jnp.take_along_axis(logs[:, PROMPT - 1 :], sequence[:, PROMPT:, None], -1)

    def gradient(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.grad(lambda *given: function(*given).sum())

    print(f"\n| {SEQUENCES} sequences of {PROMPT} + {COMPLETION} tokens | GB of temporaries | all scores at once |")
    print("|---|---|---|")
    for name, one, other in (
        ("prefill", prefill, prefill_all),
        ("reading completions", read, read_all),
        ("gradient of that", gradient(read), gradient(read_all)),
    ):
        sizes = [
            compiled.memory(jax.jit(function).lower(params, sequence, valid).compile()).temporaries / 1e9
            for function in (one, other)
        ]
        print(f"| {name} | {sizes[0]:.1f} | {sizes[1]:.1f} |", flush=True)


LARGE = {
    "grpo": MODEL,
    "asr": ("workload=asr", "model.width=1024", "model.blocks=4", "runtime.compilation_cache=null"),
    "mvfoul": ("workload=mvfoul", "model.widths=[512,1024,2048]", "runtime.compilation_cache=null"),
}


def beginning() -> None:
    print("\n| state drawn on 8 fsdp | MB a device | MB to draw it | of the state |\n|---|---|---|---|")
    for name, model in LARGE.items():
        setup = Setup(composed(*model, "training.global_batch=16", *MESHES["8 fsdp"]))
        state = sum(4 * prod(leaf.shape) for leaf in jax.tree.leaves(setup.program.layout.shapes)) / 8
        drawn = compiled.memory(setup.program.init.lower(setup.inputs.hp, setup.inputs.seed).compile()).peak
        print(f"| {name} | {state / 1e6:.1f} | {drawn / 1e6:.1f} | {drawn / state:.2f} x |", flush=True)


TABLES = {"steps": steps, "published": published, "vocabulary": vocabulary, "beginning": beginning}


def main(names: Sequence[str]) -> int:
    if unknown := set(names) - set(TABLES):
        sys.exit(f"no such table: {', '.join(sorted(unknown))}; choose of {', '.join(TABLES)}")
    for name in names or TABLES:
        TABLES[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

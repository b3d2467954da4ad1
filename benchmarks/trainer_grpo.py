"""GRPO of the trainer beside the same in plain JAX, part by part: `python -m benchmarks.trainer_grpo`.

Of each model: drawing completions, drawing and reading them, the same with judging them, the update, and whole
iterations of the trainer's loop. Both have the same weights, prompts and lengths: no completion ends early. First it is
checked that both say the same of each token and that a few updates lead to the same adapters, without which no time
means anything. Calls take turns (A B B A), so that whatever else the machine does hits both. A ratio is one of median
times, and beside it one of the least processor times, which hardly knows of others on the machine. Then: what was
compiled in a short training with two evaluations. `--tunix PYTHON` names an interpreter that has google-tunix, whose
step then stands beside ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ["PJRT_NPROC"] = "1"

from hydra import compose, initialize_config_dir

from benchmarks.trainer_steps import TimedRun
from trialfleet.config import load
from trialfleet.config.grpo import GrpoConfig
from trialfleet.training import environment, train
from trialfleet.workloads.decoder import tokenizer

# PAD ends a completion, and is never drawn. An evaluation of one problem comes with the end of each training.
COMMON = (
    "+experiment=grpo_from_scratch",
    "generation.eos_tokens=[0]",
    "mesh.data=1",
    "runtime.compilation_cache=null",
    "training.report_every=1",
    "training.eval_every=100000",
    "training.limit_eval_batches=1",
    "training.eval_batch=1",
    "evaluation.num_passes=1",
    "training.checkpoints.at_end=false",
    "training.checkpoints.keep_best=0",
)
LARGER = (
    *("width=256", "layers=6", "heads=4", "kv_heads=2", "head_dim=64", "hidden=1024", "global_every=3"),
    "scan_layers=true",
)


Seconds = tuple[float, float]  # by the wall's clock and by the processor's
Call = Callable[[int], Seconds]


class Size(NamedTuple):
    """A model, and how often what is measured on it."""

    overrides: tuple[str, ...]
    calls: int  # pairs of pairs of single calls
    loops: int  # of blocks of the loop
    length: int  # iterations that are timed in a block


MODELS = {
    "gemma3_tiny": Size((), 8, 2, 8),
    "width 256, 6 layers": Size(
        (*(f"model.{word}" for word in LARGER), "training.global_batch=4", "training.remat=dots"), 3, 1, 4
    ),
}


# PAD ends no completion that a tokenizer writes, which is refused elsewhere.
tokenizer.refuse_no_end = lambda *_, **__: None


def composed(*overrides: str) -> GrpoConfig:
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf")):
        config = load(compose("config", overrides=[*COMMON, *overrides]))
    assert isinstance(config, GrpoConfig)
    return replace(config, training=replace(config.training, base=None))  # drawn weights cost the same time


# ---- side by side ----------------------------------------------------------------------------------------------


def measure(name: str, size: Size) -> None:
    from benchmarks.trainer_grpo_sides import WARM, Ours, Peer

    ours = Ours(composed(*size.overrides, f"training.max_steps={WARM + size.length}"))
    peer = Peer(ours)
    check(name, ours, peer)
    own = ours.config
    tokens = own.training.global_batch * own.grpo.num_generations * own.generation.max_generation_steps
    parts: dict[str, tuple[Call, Call, int]] = {
        "draw": (timed(ours.draw), timed(peer.draw), size.calls),
        "draw and read": (timed(ours.rollout), timed(peer.rollout), size.calls),
        "draw, read, judge": (timed(ours.prepare), timed(peer.prepare), size.calls),
        "update": (timed(ours.update), timed(peer.update), size.calls),
        "iteration": (lambda _: ours.iterations(size.length), lambda _: peer.iterations(size.length), size.loops),
    }
    for part, (a, b, rounds) in parts.items():
        one, other = in_turns(a, b, rounds)
        mine, plain = (statistics.median(wall for wall, _ in side) for side in (one, other))
        processor = min(own for _, own in one) / min(own for _, own in other)
        noise = statistics.median(other[n][0] / other[n + 1][0] for n in range(0, len(other), 2))
        print(
            f"| {name} | {part} | {1e3 * mine:.0f} | {1e3 * plain:.0f} | {tokens / mine:.0f} | {tokens / plain:.0f} "
            f"| **{mine / plain:.3f}** | **{processor:.3f}** | {noise:.3f} |",
            flush=True,
        )


def timed(call: Callable[[int], Any]) -> Call:
    """The call with its seconds. It is made once beforehand."""
    call(0)

    def seconds(number: int) -> Seconds:
        wall, processor = time.perf_counter(), time.process_time()
        call(number)
        return time.perf_counter() - wall, time.process_time() - processor

    return seconds


def in_turns(a: Call, b: Call, rounds: int) -> tuple[list[Seconds], list[Seconds]]:
    """Seconds of both, in turns A B B A."""
    one, other = [], []
    for n in range(rounds):
        one.append(a(n))
        other += [b(n), b(n)]
        one.append(a(n))
    return one, other


def check(name: str, ours: Any, peer: Any) -> None:
    """Ends the benchmark if the two do not calculate the same."""
    import jax
    import jax.numpy as jnp

    from benchmarks.trainer_grpo_sides import unstacked

    sequence = jnp.concatenate([ours.prompts(), ours.greedy()], 1)
    apart = float(jnp.max(jnp.abs(jax.jit(ours.scores)(sequence) - jax.jit(peer.scores)(sequence))))
    other = float(jnp.mean(ours.greedy() != jax.jit(peer.greedy)()))
    said = f"{name}: scores differ by {apart:.1e} at most, {100 * other:.2f} % of the tokens of greedy completions; "
    before = jax.tree.map(jnp.copy, peer.adapters)
    for n in range(3):
        ours.update(n), peer.update(n)
    _, mine = unstacked(ours.config, ours.with_base(ours.state.params))
    moved = jax.tree.map(jnp.subtract, peer.adapters, before)
    wrong = jax.tree.map(jnp.subtract, peer.adapters, mine)
    share = float(norm(wrong) / norm(moved))
    print(f"{said}three updates move adapters alike but for {share:.1e} of the way", file=sys.stderr)
    if apart > 1e-5 or other > 0 or share > 1e-2:
        sys.exit("the two do not calculate the same: no time means anything")


def norm(tree: Any) -> Any:
    import jax
    import jax.numpy as jnp

    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


# ---- what is compiled -------------------------------------------------------------------------------------------


class Compiled:
    """Counts what jax compiles in this process, by name."""

    def __init__(self) -> None:
        import jax

        self.found: Counter[str] = Counter()
        jax.monitoring.register_event_duration_secs_listener(self._took)

    def _took(self, event: str, seconds: float, **more: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.found[str(more.get("fun_name"))] += 1


def compilations(compiled: Compiled) -> None:
    """A short training with two evaluations, from nothing."""
    import jax

    jax.clear_caches()
    compiled.found.clear()
    run = TimedRun()
    few = ("training.max_steps=4", "training.eval_every=2", "training.eval_batch=2", "training.limit_eval_batches=2")
    train(composed(*few), run)
    ours = {name: compiled.found.pop(f"jit({name})", 0) for name in ("init", "roll", "step", "evaluate")}
    print(
        f"\n4 updates, 2 evaluations of 2 batches each: {run.notes['compilations']} in the record; compiled are",
        end=" ",
    )
    print(", ".join(f"{name} {count} x" for name, count in ours.items()), end="")
    print(f" and {compiled.found.total()} that place or cut single arrays: {dict(compiled.found)}")


# ---- google-tunix -----------------------------------------------------------------------------------------------

ITERATIONS = 10
CHANGED = {
    "as told": (),
    "the same again": (),
    "beta": ("grpo.beta=0.05",),
    "epsilon": ("grpo.epsilon=0.3",),
    "temperature": ("generation.temperature=0.8",),
}


def beside_tunix(python: Path, compiled: Compiled) -> None:
    """Trainings of the tiny model one after the other in a process: ours, tunix's, and ours again."""
    import jax

    rows: dict[str, list[dict[str, float]]] = {name: [] for name in CHANGED}
    for turn in ("ours", "tunix", "ours"):
        jax.clear_caches()
        if turn == "ours":
            for name, overrides in CHANGED.items():
                rows[name].append(of_ours(compiled, *overrides))
        else:
            for name, row in of_tunix(python).items():
                rows[name].append(row)
    kinds = ("start", "median", "least", "programs")
    print("\n| told | " + " | ".join(f"{kind}: ours | tunix | ours" for kind in kinds) + " |")
    print("|---" * (1 + 3 * len(kinds)) + "|")
    for name, found in rows.items():
        print(f"| {name} | " + " | ".join(" | ".join(f"{row[kind]:.4g}" for row in found) for kind in kinds) + " |")


def of_ours(compiled: Compiled, *overrides: str) -> dict[str, float]:
    compiled.found.clear()
    run, began = TimedRun(), time.perf_counter()
    train(composed(f"training.max_steps={ITERATIONS}", *overrides), run)
    times = [run.times[step][0] for step in range(2, ITERATIONS + 1)]
    spent = [end - begin for begin, end in pairwise(times)]
    programs = compiled.found.total()
    return {"start": times[0] - began, "median": statistics.median(spent), "least": min(spent), "programs": programs}


def of_tunix(python: Path) -> dict[str, dict[str, float]]:
    config = composed()
    model, own = config.model, config.generation
    given = {
        **{key: getattr(model, key) for key in SIZES},
        "prompt": own.max_prompt_length,
        "steps": own.max_generation_steps,
        "generations": config.grpo.num_generations,
        "iterations": ITERATIONS,
        "numbers": {"beta": config.grpo.beta, "epsilon": config.grpo.epsilon, "temperature": own.temperature},
        "prompts": ["5 6 7 8 9 10 11 12"] * config.training.global_batch,
    }
    script = Path(__file__).with_name("trainer_grpo_tunix.py")
    done = subprocess.run([python, script, json.dumps(given)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{script.name} failed:\n{done.stderr}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


SIZES = (
    *("layers", "vocab_size", "width", "hidden", "heads", "head_dim", "kv_heads", "window", "global_every"),
    *("lora_rank", "lora_alpha", "lora_module_path"),
)


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m benchmarks.trainer_grpo")
    words.add_argument("--tunix", type=Path, help="an interpreter that has google-tunix and qwix")
    given = words.parse_args()
    environment.prepare(composed())
    compiled = Compiled()
    print("| model | part | ours ms | plain JAX ms | tokens/s | plain JAX | ratio | of the processor | plain / plain |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, size in MODELS.items():
        measure(name, size)
    compilations(compiled)
    if given.tunix:
        beside_tunix(given.tunix, compiled)


if __name__ == "__main__":
    main()

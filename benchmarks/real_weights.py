"""Gemma 3 270m with real weights: `python -m benchmarks.real_weights FOLDER [--reference PYTHON] [WORD …]`.

FOLDER is what `python -m pipelines.from_gguf FOLDER` has made. Prints three steps of GRPO, their seconds and the most
memory that they held beside what a dry run says; answers to sums by greedy decoding; and the largest difference of
logits from those of the library transformers, which runs in a process of its own, by another Python if one is named
(the extra `reference`). The words change the training, such as training.compute_dtype=float32. Takes some minutes and
7 GB of memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trialfleet.config import Config, load
from trialfleet.config.location import conf_directory

STEPS = 3
# The config of a published model as it is, with fewer and shorter completions, and what makes every step a report.
GRPO = (
    "workload=grpo",
    "model=gemma3_270m",
    *(f"{group}=default" for group in ("grpo", "generation")),
    *(f"{group}=grpo" for group in ("optimizer", "training")),
    "dataset=gsm8k",
    f"training.max_steps={STEPS}",
    "training.max_epochs=null",
    "training.global_batch=2",
    "training.eval_batch=2",
    "training.limit_eval_batches=1",
    f"training.eval_every={STEPS}",
    "training.report_every=1",
    "generation.max_prompt_length=96",
    "generation.max_generation_steps=32",
    "runtime.platform=cpu",
    "runtime.cpu_threads=2",
)
BARE = ("workload=grpo_base", "training.max_steps=1", "training.limit_eval_batches=1", "runtime.platform=cpu")
QUESTIONS = ("3 + 4 =", "2 + 5 =", "10 + 10 =", "The sum of 1 and 2 is")
LONGEST, NEW = 16, 8  # tokens of a question, and of its answer
LONG = 700  # tokens: more than a local layer's window
SCORED = 64  # of each text's last tokens the logits are compared


class Held(NamedTuple):
    """The most that a process held at a time, in bytes.

    Attributes:
        all: in memory, mapped files included.
        own: without these.
    """

    all: int
    own: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_weights")
    parser.add_argument("folder", type=lambda text: Path(text).expanduser().absolute())
    parser.add_argument("--reference", metavar="PYTHON", default=sys.executable)
    options, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="real-weights-") as place:
        problems = Path(place) / "sums.jsonl"
        problems.write_text("".join(json.dumps(problem) + "\n" for problem in _problems()))
        typed = [*GRPO, f"model.weights={options.folder}", f"dataset.train_path={problems}", *words]
        _show_training(Path(place), typed)
        config = _config(typed)
        params = _weights(config)
        _show_answers(config, params)
        _show_logits(config, params, options.reference, Path(place))


def _problems() -> list[dict[str, str]]:
    return [
        {
            "question": f"Ann has {ann} apples and Ben has {ben}. How many do they have together?",
            "answer": f"Together they have {ann} + {ben} = <<{ann}+{ben}={ann + ben}>>{ann + ben}.\n#### {ann + ben}",
        }
        for ann in range(2, 10)
        for ben in range(2, 10)
    ]


def _config(words: list[str]) -> Config:
    """What `pipelines.train` makes of these words; jax is ready for it."""
    from hydra import compose, initialize_config_dir

    from trialfleet.training import environment

    with initialize_config_dir(str(conf_directory())):
        config = load(compose("config", overrides=words))
    environment.prepare(config)
    return config


# ---------------------------------------------------------------- the training


def _show_training(place: Path, words: list[str]) -> None:
    """Seconds of its steps, and the most memory that it held beside what a dry run says."""
    command = [sys.executable, "-m", "pipelines.train", *words]
    planned = subprocess.run([*command, "--dry-run"], cwd=place, capture_output=True, text=True, check=True).stdout
    began = time.time()
    held, cpu = _watched([*command, f"hydra.run.dir={place / 'run'}"], place)
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    ends = [line["time"] for line in lines if "train/loss" in line["values"]]
    took = [end - start for start, end in zip([began, *ends], ends, strict=False)]
    print(
        f"{STEPS} steps, seconds: {', '.join(f'{seconds:.1f}' for seconds in took)} (the first with start and compiler)"
    )
    print(f"CPU seconds of the whole run: {cpu:.0f}")
    bare, _ = _watched([sys.executable, "-m", "pipelines.train", *BARE, f"hydra.run.dir={place / 'bare'}"], place)
    print(f"GB that it held: {held.own / 1e9:.2f} of its own, {held.all / 1e9:.2f} with mapped files;")
    print(f"  a training of a tiny model, whose arrays are nothing, {bare.own / 1e9:.2f} and {bare.all / 1e9:.2f}")
    print("a dry run says:")
    for line in planned.splitlines():
        if line.startswith(("state ", "peak ")) or " on each device during " in line:
            print(f"  {line}")


def _watched(command: list[str], place: Path) -> tuple[Held, float]:
    """Run a command; the most memory it held, and its CPU seconds."""
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL)
    all_of_it = own = 0
    while True:
        finished, status, used = os.wait4(process.pid, os.WNOHANG)
        if finished:
            break
        said = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        if "RssAnon" in said:  # not while it ends
            all_of_it = max(all_of_it, int(said["VmHWM"].split()[0]) * 1024)
            own = max(own, int(said["RssAnon"].split()[0]) * 1024)
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"the training ended with {process.returncode}")
    return Held(all_of_it, own), used.ru_utime + used.ru_stime


# ---------------------------------------------------------------- what the model says


def _weights(config: Any) -> Any:
    """The published weights, float32."""
    import jax.numpy as jnp

    from trialfleet.training import trees
    from trialfleet.training.published import PublishedWeights
    from trialfleet.workloads.decoder import transformer
    from trialfleet.workloads.decoder.published import DecoderWeights

    reader = DecoderWeights(config.model, PublishedWeights(Path(config.model.weights), "model.weights"))
    flat = {}
    for path, axes in trees.flatten(transformer.axes(config.model)).items():
        leaf = reader.read(path, (slice(None),) * len(axes))
        if leaf is not None:  # adapters are not published
            flat[path] = jnp.asarray(leaf, jnp.float32)
    return trees.unflatten(flat)


def _show_answers(config: Any, params: Any) -> None:
    """The likeliest continuations of some questions, by the code that draws completions."""
    import jax
    import jax.numpy as jnp

    from trialfleet.workloads.decoder import PAD, generation, tokenizer

    own = tokenizer.of(config.model)
    rows = [own.text(question) for question in QUESTIONS]
    prompts = jnp.asarray([[PAD] * (LONGEST - len(row)) + row for row in rows])
    complete = jax.jit(generation.complete, static_argnums=(0, 3, 4, 5))
    keys, one = generation.keys_of(jax.random.key(0), jnp.arange(len(rows))), jnp.ones(())
    ends = config.generation.eos_tokens
    drawn = complete(config.model, params, prompts, NEW, ends, 1, one, one, {"model.lora_alpha": one}, keys)
    for question, said in zip(QUESTIONS, np.asarray(drawn.tokens), strict=True):
        print(f"{question!r} goes on with {own.decode(said)!r}")


def _show_logits(config: Any, params: Any, python: str, place: Path) -> None:
    """How far ours are from the library's: of a prompt, and of a text that is longer than a window."""
    import jax
    import jax.numpy as jnp

    from trialfleet.workloads.decoder import tokenizer, transformer, unembedding

    own = tokenizer.of(config.model)
    long = own.text(f"{__doc__}{Path(__file__).read_text()}")[:LONG]
    texts = {"a prompt": own.prompt(_problems()[0]["question"]), f"a text of {len(long)} tokens": long}
    (place / "texts.json").write_text(json.dumps(list(texts.values())))
    script = Path(__file__).with_name("real_weights_reference.py")
    subprocess.run([python, str(script), config.model.weights, str(place), str(SCORED)], check=True)

    @jax.jit
    def scored(params: Any, tokens: jax.Array) -> jax.Array:
        hp, valid = {"model.lora_alpha": jnp.ones(())}, jnp.ones(tokens.shape)
        x = transformer.stream(config.model, params, tokens, valid, hp)
        return unembedding.scores(x[:, -SCORED:], transformer.unembedding(params))

    for number, (name, tokens) in enumerate(texts.items()):
        wanted = np.load(place / f"logits-{number}.npy")
        got = np.asarray(scored(params, jnp.asarray([tokens])))[0]
        same = np.mean(got.argmax(-1) == wanted.argmax(-1))
        print(
            f"logits of {name}, the last {len(wanted)}: they differ by {np.abs(got - wanted).max():.1e} at most; "
            f"the largest is {np.abs(wanted).max():.1f}; {same:.0%} have the same likeliest token"
        )


if __name__ == "__main__":
    main()

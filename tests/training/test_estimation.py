"""Whether it fits, from shapes alone: the state against theory, peaks by what makes them larger, the verdict."""

import io
import subprocess
import sys
from math import prod

import pytest
from rich.console import Console

from tests.training.harness import SMALL, TOY, composed
from trialfleet import training
from trialfleet.config import Config
from trialfleet.config.devices import DEVICES
from trialfleet.errors import UserError
from trialfleet.training import estimate_table, estimation
from trialfleet.training.estimation import EVALUATE, INIT, PREPARE, STEP, Estimate
from trialfleet.training.setup import Setup

PLAIN = "stages.next_token_epochs=99"  # no prompt with its answer would fit
GEMMA = (
    "model.width=32",
    "model.layers=2",
    "model.heads=4",
    "model.kv_heads=2",
    "model.head_dim=8",
    "model.hidden=64",
    "generation.max_prompt_length=24",
    "generation.max_generation_steps=8",
    "training.global_batch=8",
    "training.eval_batch=8",
    "runtime.compilation_cache=null",
)


def said(estimate: Estimate) -> str:
    console = Console(file=io.StringIO(), highlight=False, markup=False)
    estimate_table.show(estimate, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def of_bytes(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    """h100 has so much from now on."""
    monkeypatch.setitem(DEVICES, "h100", DEVICES["h100"]._replace(memory=memory))


@pytest.mark.parametrize(("mesh", "split"), [(("data", 8), 1), (("fsdp", 8), 8), (("tp", 4), 4)])
def test_the_state_is_what_theory_says(mesh: tuple[str, int], split: int) -> None:
    """Parameters and two moments, float32: matrices have 1 / split of their bytes on each device, vectors all."""
    axis, size = mesh
    sizes = {"data": 1, "fsdp": 1, "tp": 1, axis: size}
    words = [f"mesh.{name}={value}" for name, value in sizes.items()]
    setup = Setup(composed("workload=grpo_base", *GEMMA, PLAIN, "model.kv_heads=4", *words))
    shapes = {path: leaf.shape for path, leaf in setup.workload.shapes.items()}
    matrices = sum(prod(shape) for path, shape in shapes.items() if "norm" not in path)
    vectors = sum(prod(shape) for path, shape in shapes.items() if "norm" in path)
    held = estimation.state_bytes(setup)
    assert held["trained parameters"] == 4 * (matrices / split + vectors)
    assert held["optimizer"] == 2 * held["trained parameters"] + 4  # Adam's count of steps
    assert held["frozen parameters"] == held["averaged parameters"] == 0


def test_frozen_parameters_are_held_in_the_compute_dtype_and_have_no_moments() -> None:
    words = ("workload=grpo", *GEMMA, "training.init_from=x", "mesh.data=1", "training.compute_dtype=bfloat16")
    setup = Setup(composed(*words, "training.ema_decay=0.9"))
    frozen = sum(prod(leaf.shape) for path, leaf in setup.workload.shapes.items() if "_lora_" not in path)
    adapters = sum(prod(leaf.shape) for path, leaf in setup.workload.shapes.items() if "_lora_" in path)
    held = estimation.state_bytes(setup)
    assert held["frozen parameters"] == 2 * frozen
    assert held["trained parameters"] == held["averaged parameters"] == 4 * adapters


@pytest.fixture(scope="module")
def small() -> Estimate:
    return training.estimate(composed(*SMALL, "runtime.device=h100"))


def test_all_programs_are_compiled_and_none_is_run(small: Estimate) -> None:
    assert list(small.programs) == [INIT, STEP, EVALUATE]
    assert small.peak == max(map(small.peak_of, small.programs))
    assert small.peak_of(INIT) >= small.state_bytes
    assert small.seconds()["products"] == small.programs[STEP].flops / DEVICES["h100"].float32


@pytest.mark.slow
def test_a_larger_batch_has_a_higher_peak_and_accumulation_a_lower_one(small: Estimate) -> None:
    larger = training.estimate(composed(*SMALL, "training.global_batch=32"))
    parts = training.estimate(composed(*SMALL, "training.global_batch=32", "training.per_device_batch=8"))
    assert larger.peak_of(STEP) > parts.peak_of(STEP) > small.peak_of(STEP)
    assert larger.state == small.state
    assert larger.model_flops == parts.model_flops == 4 * (small.model_flops or 0)


def test_a_programs_products_are_those_of_the_model(small: Estimate) -> None:
    """The recogniser's are matrix products alone, in no loop but its loss's, which has none."""
    assert small.model_flops is not None
    # The gradient of what goes into the stem, which 6ND counts, no program calculates.
    assert 0.7 * small.model_flops < small.programs[STEP].flops <= small.model_flops


def test_the_verdict_follows_the_devices_memory(small: Estimate, monkeypatch: pytest.MonkeyPatch) -> None:
    assert small.peak is not None
    for memory, word, fits in (
        (small.peak, "yes", (True, True)),
        (small.peak - 1, "probably not", (True, False)),
        (small.state_bytes - 1, "no: the state alone", (False, False)),
    ):
        of_bytes(monkeypatch, memory)
        assert f"fits        {word}" in said(small)
        assert (estimate_table.state_fits(small), estimate_table.peak_fits(small)) == fits


def test_the_largest_bucket_counts() -> None:
    words = [word for word in SMALL if "buckets" not in word]
    setup = Setup(composed(*words, "dataset.buckets=[40,80]"))
    bucket = setup.largest_bucket("train")
    assert bucket > min(plan.bucket for plan in setup.train_source.epoch(0, 0))
    assert setup.batch_shapes("train", bucket)["frames"].shape[2] == bucket


def test_without_a_device_there_is_no_verdict() -> None:
    estimate = training.estimate(composed(*SMALL))
    assert (estimate.needs, estimate.seconds()) == (None, {})
    assert "runtime.device names one" in said(estimate)
    assert "estimates for other devices" in said(estimate)


@pytest.mark.slow
def test_what_a_rollout_needs_is_known_without_one() -> None:
    config = composed("workload=grpo", *GEMMA, "training.init_from=x", "mesh.data=2", "mesh.tp=2")
    estimate = training.estimate(config)
    assert list(estimate.programs) == [INIT, PREPARE, STEP, EVALUATE]
    # What it makes is what a step is given: prompts, completions of them, and what the reference says.
    assert estimate.programs[STEP].given > estimate.programs[PREPARE].given
    assert estimate.programs[STEP].collectives


def test_a_workload_that_does_not_say_what_it_prepares_has_its_state_told() -> None:
    config = composed(*TOY, "workload.factory=tests.training.toy.Rounds", "runtime.device=v5e")
    estimate = training.estimate(config)
    assert list(estimate.programs) == [INIT, EVALUATE]
    assert estimate.peak is None
    assert "has no prepared()" in said(estimate)
    assert "fits        the state does" in said(estimate)


def test_an_unknown_device_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(UserError, match=r"runtime\.device: no device 'h10' is known; did you mean 'h100'\?; .*v6e"):
        composed(*SMALL, "runtime.device=h10")


def test_a_device_is_no_part_of_the_program(config) -> None:
    from trialfleet.config import signature

    assert signature(config("runtime.device=v4")) == signature(config())


@pytest.mark.parametrize("name", DEVICES)
def test_the_table_of_devices_is_of_the_right_magnitude(name: str) -> None:
    device = DEVICES[name]
    assert 1e14 < device.bfloat16 < 1e16 >= device.bfloat16 >= device.float32 > 1e13
    assert 1e10 < device.memory < 1e12 < 10 * device.bandwidth < 1e14
    assert 1e10 < device.link < device.bandwidth
    assert device.source


@pytest.mark.slow
def test_more_devices_than_there_are_are_simulated_in_a_process_of_its_own() -> None:
    config: Config = composed(*SMALL)
    code = (
        "from tests.training.harness import SMALL, composed\n"
        "from trialfleet import training\n"
        "config = composed(*SMALL, 'mesh.fsdp=4', 'runtime.device=l4', 'runtime.platform=gpu')\n"
        "import jax\n"
        "print(training.estimate(config).mesh, len(jax.live_arrays()))\n"
    )
    assert config.mesh.data == 1
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_without_jaxs())
    assert done.stdout.split("\n")[0] == "{'data': 1, 'fsdp': 4, 'tp': 1} 0", done.stderr


def _without_jaxs() -> dict[str, str]:
    import os

    return {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_PLATFORMS", "PJRT_NPROC")}

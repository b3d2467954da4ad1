"""What compiled programs say: the collectives of a step on a mesh, and that a device holds its share of the state."""

from math import prod
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.training.harness import composed
from tests.workloads.asr import speech_files
from tests.workloads.mvfoul.rendered import FEW
from trialfleet.training import compiled, estimation, restore, trees
from trialfleet.training.mesh import on_mesh
from trialfleet.training.setup import Setup, placed_shapes

MESHES = {
    "8 data": ("mesh.data=8",),
    "8 fsdp": ("mesh.data=1", "mesh.fsdp=8"),
    "2x2x2": ("mesh.data=2", "mesh.fsdp=2", "mesh.tp=2"),
    "2 tp": ("mesh.data=1", "mesh.tp=2"),
}
GEMMA = (
    "workload=grpo_base",
    "model.width=256",
    "model.layers=4",
    "model.heads=4",
    "model.kv_heads=2",
    "model.head_dim=32",
    "model.hidden=512",
    "generation.max_generation_steps=24",
    "training.global_batch=16",
    "runtime.compilation_cache=null",
)
TEXT = """
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-gather.1 = f32[32,16]{1,0} all-gather(f32[4,16] %x), dimensions={0}
  ROOT %t = (s32[], f32[4]) tuple(%i, %y)
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(f32[] %a, f32[] %b)
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]) while(%z), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %r = (f32[8], bf16[8]) all-reduce(f32[8] %u, bf16[8] %v), to_apply=%add
  %s = (f32[8], f32[16]) all-gather-start(f32[8] %u), dimensions={0}
  %q = (f32[4], f32[2]) all-reduce-start(f32[4] %u, f32[2] %v), to_apply=%add
  %p = (f32[8], f32[8], u32[], u32[]) collective-permute-start(f32[8] %u), source_target_pairs={{0,1}}
  %k = f32[64] parameter(0)
  %o = f32[8] reduce-scatter(f32[64] %k), dimensions={0}
  %m = f32[16,64] parameter(1)
  %n = f32[64,32] parameter(2)
  %g = (f32[16,32], s8[4194304]) custom-call(%m, %n), custom_call_target="__cublas$gemm", backend_config=CUBLAS
}
""".replace("CUBLAS", '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}')


class Text:
    """A compiled program of which only the text is known."""

    def as_text(self) -> str:
        return TEXT


def test_a_collective_in_a_loop_counts_by_its_trips():
    found = compiled.by_kind(compiled.collectives(Text()))
    assert found["all-gather"] == (7, 6 * 32 * 16 * 4 + 16 * 4)
    assert found["all-reduce"] == (2, 8 * 4 + 8 * 2 + (4 + 2) * 4)
    assert found["collective-permute"] == (1, 8 * 4)
    assert found["reduce-scatter"] == (1, 64 * 4)  # what is scattered, not the part that stays


def test_products_of_a_library_count():
    assert compiled.flops(Text()) == 2 * 16 * 32 * 64


def test_products_count_by_the_trips_of_their_loop():
    def layers(x, weights, kernel):
        x = jax.lax.scan(lambda x, weight: (x @ weight, None), x, weights)[0]
        images = x.reshape(2, 4, 8, 4)
        return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    shapes = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((16, 16), (5, 16, 16), (3, 3, 4, 6)))
    program = jax.jit(layers).lower(*shapes).compile()
    assert compiled.flops(program) == 5 * 2 * 16**3 + 2 * (2 * 4 * 8 * 6) * (3 * 3 * 4)


def step_of(*overrides: str) -> tuple[Setup, object]:
    """The compiled step of a config; nothing is allocated."""
    setup = Setup(composed(*overrides))
    state, frozen = placed_shapes(setup.program.layout)
    return setup, setup.program.step.lower(state, frozen, setup.batch_shapes("train"), setup.inputs).compile()


def shares(setup: Setup) -> float:
    """Bytes of the state on a device if each leaf were split over fsdp, and over tp where the model has such axes."""
    layout, mesh = setup.program.layout, setup.mesh
    total = 0.0
    for path, leaf in trees.flatten(layout.shapes.params).items():
        spec = trees.flatten(layout.shardings.params)[path].spec
        split = prod(mesh.shape[axis] for axis in spec if axis is not None)
        total += 3 * 4 * prod(leaf.shape) / (split if leaf.ndim > 2 or prod(leaf.shape) > 10_000 else 1)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_a_decoders_step_exchanges_what_it_must(mesh):
    setup, program = step_of(*GEMMA, *MESHES[mesh])
    found = compiled.by_kind(compiled.collectives(program))
    # None in a layer: only embedded tokens may go from where their width is split to where their batch is, and back.
    assert found.get("all-to-all", (0, 0))[0] <= 2
    parameters = sum(prod(leaf.shape) for leaf in trees.flatten(setup.program.layout.shapes.params).values())
    # Each gradient is reduced once, over all devices that saw other examples.
    if mesh != "2 tp":
        assert found["all-reduce"][1] + found.get("reduce-scatter", (0, 0))[1] < 1.3 * 4 * parameters
    if mesh == "8 data":
        assert "all-gather" not in found
    if mesh == "8 fsdp":  # each weight is gathered once on the way there, and once on the way back
        assert found["all-gather"][1] < 2.2 * 4 * parameters
    assert compiled.memory(program).arguments < 1.15 * shares(setup) + 1e5


@pytest.mark.slow
def test_parameters_are_drawn_where_they_are_to_lie():
    """With little besides them: no device makes more than its share, and what a draw takes is taken once."""
    setup = Setup(composed(*GEMMA, "model.width=512", "model.hidden=2048", *MESHES["8 fsdp"]))
    program = setup.program.init.lower(setup.inputs.hp, setup.inputs.seed).compile()
    layout = setup.program.layout
    state = sum(4 * prod(leaf.shape) for leaf in jax.tree.leaves(layout.shapes))
    memory = compiled.memory(program)
    assert memory.outputs < 1.1 * state / 8
    assert memory.peak < 1.3 * state / 8


def test_what_tells_frozen_weights_apart_gathers_none_of_them():
    mesh = jax.make_mesh((1, 8, 1), ("data", "fsdp", "tp"), (jax.sharding.AxisType.Auto,) * 3)
    split = jax.NamedSharding(mesh, jax.P(None, "fsdp"))
    tree = {"one": jax.ShapeDtypeStruct((16, 64, 3), np.float32, sharding=split)}
    found = compiled.by_kind(compiled.collectives(restore._sums.lower(tree).compile()))
    assert list(found) == ["all-reduce"]
    assert found["all-reduce"][1] <= 16
    weights = np.random.default_rng(0).normal(size=(16, 64, 3)).astype(np.float32)
    bits = weights.view(np.uint32).ravel()
    by_hand = [
        int(np.sum(bits * factor, dtype=np.uint32)) for factor in (1, 2 * np.arange(bits.size, dtype=np.uint32) + 1)
    ]
    assert restore.digest({"one": jax.device_put(weights, split)}) == f"{by_hand[0]:08x}{by_hand[1]:08x}"


WORKLOADS = {
    "asr": ("workload=asr", "model.width=256", "training.global_batch=16"),
    "mvfoul": ("workload=mvfoul", *FEW, "model.widths=[32,64,128]", "training.global_batch=16"),
    "grpo": ("workload=grpo", *GEMMA[1:], "training.init_from=x"),
    "asr_decoder": (
        "workload=asr_decoder",
        *(
            f"model.{part}.{name}"
            for part in ("encoder", "decoder")
            for name in ("width=256", "layers=4", "heads=4", "hidden=512")
        ),
        "model.decoder.kv_heads=2",
        "model.decoder.head_dim=32",
        "model.decoder.lora_rank=8",
        "model.decoder.lora_dropout=0.1",
        "model.projector.hidden=256",
        "dataset.buckets=[1.0]",
        "dataset.max_audio_seconds=1.0",
        "dataset.max_text_tokens=23",
        "transcription.beams=3",
        "transcription.repetition_penalty=1.2",
        "training.global_batch=16",
        "training.eval_batch=16",
    ),
}


def check_against_theory(workload: str, mesh: str, folder: Path) -> None:
    """A step, and an evaluation, of a workload: what each device holds, and what it exchanges with the others.

    In theory a device holds 1/fsdp of the parameters and their moments, gathers each weight once on the way there and
    once on the way back, and adds up each gradient once. (tp exchanges activations besides.)

    Args:
        folder: for the data of a workload that has none of its own.
    """
    data = (f"dataset.train=[{speech_files.write(folder, 200)}]",) if workload == "asr_decoder" else ()
    setup = Setup(composed(*WORKLOADS[workload], *data, *MESHES[mesh], "runtime.compilation_cache=null"))
    estimate = estimation.of(setup)
    trained, whole = 4 * estimate.parameters["trained"], 4 * sum(estimate.parameters.values())
    assert estimate.state_bytes < 1.15 * (3 * trained + whole - trained) / setup.mesh.shape["fsdp"] + 1e5
    step, evaluation = (dict(estimate.programs[name].collectives) for name in (estimation.STEP, estimation.EVALUATE))
    gathered, exchanged = (found.get("all-gather", (0, 0))[1] for found in (step, evaluation))
    if mesh == "8 data":
        assert gathered == 0
        assert exchanged < 0.02 * whole  # the rows, which go to the host; no scores of tokens
    assert step.get("all-to-all", (0, 0))[1] < 0.05 * whole
    assert gathered < 2.1 * whole
    assert exchanged < 1.1 * whole
    if estimation.PREPARE in estimate.programs:  # completions are drawn, and read by the reference
        rolled = dict(estimate.programs[estimation.PREPARE].collectives)
        assert rolled.get("all-gather", (0, 0))[1] < (0.02 if mesh == "8 data" else 2.1) * whole
    if setup.mesh.shape["tp"] == 1:
        added = sum(step.get(kind, (0, 0))[1] for kind in ("all-reduce", "reduce-scatter"))
        assert 0.9 * trained < added < 1.1 * trained


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "mesh"),
    [
        ("asr", "8 data"),
        ("mvfoul", "8 data"),
        ("asr", "8 fsdp"),
        ("mvfoul", "8 fsdp"),
        ("grpo", "8 fsdp"),
        *(("asr_decoder", mesh) for mesh in ("8 data", "8 fsdp", "2x2x2")),
    ],
)
def test_a_step_exchanges_and_holds_what_theory_says(workload: str, mesh: str, tmp_path: Path) -> None:
    """The other meshes are in benchmarks/proofs."""
    check_against_theory(workload, mesh, tmp_path)


@pytest.mark.slow
def test_scores_of_a_large_vocabulary_exist_in_parts(monkeypatch):
    """Reading 16 completions of 256 tokens among 65,536: all scores are 1 GB, and three times that with a gradient."""
    from trialfleet.workloads.decoder import unembedding

    x = jax.ShapeDtypeStruct((16, 256, 64), np.float32)
    embedding = jax.ShapeDtypeStruct((65_536, 64), np.float32)
    targets = jax.ShapeDtypeStruct((16, 256), np.int32)

    def loss(x, embedding, targets):
        return unembedding.say(x, embedding, targets).logs.sum()

    program = jax.jit(jax.grad(loss, (0, 1))).lower(x, embedding, targets).compile()
    whole = 16 * 256 * 65_536 * 4
    assert compiled.memory(program).temporaries < 0.9 * whole

    # On a mesh the embeddings are gathered once, and their gradient is added up once, however many parts there are.
    monkeypatch.setattr(unembedding, "LARGEST", 1 << 22)
    mesh = jax.make_mesh((1, 8, 1), ("data", "fsdp", "tp"), (jax.sharding.AxisType.Auto,) * 3)
    batch, split = (jax.NamedSharding(mesh, jax.P(*spec)) for spec in ((("data", "fsdp"),), (None, "fsdp")))
    step = jax.jit(on_mesh(mesh, jax.grad(loss, (0, 1))), in_shardings=(batch, split, batch))
    found = compiled.by_kind(compiled.collectives(step.lower(x, embedding, targets).compile()))
    size = 65_536 * 64 * 4
    assert found["all-gather"][1] < 1.1 * size
    assert found["all-reduce"][1] < 1.1 * size


@pytest.mark.slow
def test_weights_that_are_gathered_at_each_token_are_never_all_there() -> None:
    """While completions are drawn with split weights: a device has one layer's at a time, or all if it is asked to."""
    larger = (
        "model.width=512",
        "model.layers=8",
        "model.scan_layers=true",
        "model.hidden=2048",
        "generation.unstack_weights=true",
    )
    own = ("generation.max_generation_steps=4", "training.global_batch=8", *MESHES["8 fsdp"])
    temporaries = {}
    for gathered in ("true", "false"):
        words = (*WORKLOADS["grpo"], *own, *larger, f"generation.gather_weights={gathered}")
        setup = Setup(composed(*words))
        temporaries[gathered] = estimation.of(setup).programs[estimation.PREPARE].memory.temporaries
    layers = 4 * sum(prod(leaf.shape) for leaf in jax.tree.leaves(setup.program.layout.frozen_shapes["layers"]))
    assert temporaries["true"] > layers
    assert temporaries["false"] < 0.5 * layers

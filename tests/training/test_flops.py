"""Model FLOPs: those that are needed, under adapters and under freezing, against counts by hand."""

import pytest

from tests.training.harness import composed
from tests.workloads.mvfoul.rendered import FEW
from trialfleet.errors import UserError
from trialfleet.training import flops
from trialfleet.training.contract import CheckedWorkload
from trialfleet.training.setup import Setup
from trialfleet.training.workload import Product
from trialfleet.workloads.asr import Transcriber
from trialfleet.workloads.grpo import Grpo, GrpoBase

PLAIN = "stages.next_token_epochs=99"  # no prompt with its answer would fit
GEMMA = (
    "model.vocab_size=512",
    "model.width=8",
    "model.layers=2",
    "model.heads=4",
    "model.kv_heads=2",
    "model.head_dim=2",
    "model.hidden=16",
    "model.window=4",
    "generation.max_prompt_length=16",
    "generation.max_generation_steps=32",
    "runtime.compilation_cache=null",
)
READ, SAID = 47, 32  # of 48 tokens; scored behind the last of the prompt and all but the last of the completion
LAYER = 8 * 8 + 8 * 2 * 2 * 2 + 8 * 8 + 3 * 8 * 16  # queries, keys and values, what is mixed, three of the MLP
ATTENTION = 2 * (4 + 47) * 8  # scores and their sums; a local layer looks at 4 tokens, the other one at all
ADAPTERS = 3 * 3 * (8 + 8) + 3 * 3 * (8 + 16)  # rank 3: three with 8 in and 8 out, three of the MLP


@pytest.mark.parametrize("words", [(), ("model=llama_tiny", "model.lora_rank=null", "model.tied=false")])
def test_with_everything_trained_a_step_is_three_forward_passes(words):
    """Of whichever family, if two layers see what two layers see."""
    setup = Setup(composed("workload=grpo_base", *words, *GEMMA, PLAIN, "mesh.data=1", "model.global_every=2"))
    assert setup.flops(0, {}) == 3 * 2 * READ * (2 * LAYER + ATTENTION + 8 * 512)


def test_gradients_of_what_adapters_hold_fixed_are_not_counted():
    config = composed("workload=grpo", *GEMMA, "model.lora_rank=3", "grpo.num_generations=4", "training.init_from=x")
    counted = flops.of_training(CheckedWorkload(Grpo, config).flops(0), lambda path: "_lora_" in path)
    # The product of the very first weight has nothing trained before it: it needs no gradient at all.
    forward_only = 2 * READ * 8 * 8
    frozen = 2 * 2 * (READ * 2 * LAYER + SAID * 8 * 512) - forward_only
    assert counted == 4 * (frozen + 3 * 2 * READ * (ATTENTION + 2 * ADAPTERS))


def test_what_is_never_trained_has_no_gradient_and_what_lies_before_it_none_at_all():
    setup = Setup(composed("workload=asr", "freezing.never=[encoder/.*]", "mesh.data=1", "dataset.buckets=[80]"))
    products = {product.weight: product.flops for product in setup.workload.flops(80)}
    assert setup.flops(80, {}) == sum(products.values()) + 2 * products["head/w"]


def test_a_unit_that_is_held_back_is_not_counted():
    setup = Setup(composed("workload=mvfoul", "freezing=mvfoul_progressive", *FEW, "mesh.data=1"))
    products = {product.weight: product.flops for product in setup.workload.flops(0)}
    everything = sum(products.values())
    stages = dict.fromkeys(("stem", "stage0", "stage1", "stage2"), False)
    last = sum(value for weight, value in products.items() if "stage2" in weight)
    assert setup.flops(0, stages) == everything  # the heads, which are not counted, learn
    assert setup.flops(0, {**stages, "stage2": True}) == everything + 2 * last
    assert setup.flops(0, {}) == 3 * everything


def test_a_number_alone_counts_as_if_everything_were_trained():
    assert flops.of_training([Product(7.0)], lambda path: False) == 21.0


def test_a_product_of_no_parameter_is_refused(monkeypatch):
    workload = CheckedWorkload(GrpoBase, composed("workload=grpo_base", *GEMMA, PLAIN))
    monkeypatch.setattr(GrpoBase, "flops", lambda self, bucket: [Product(1.0, "layers/attn/q")])
    with pytest.raises(UserError, match="is no parameter of init"):
        workload.flops(0)


def test_of_speech_the_frozen_encoder_has_a_forward_pass_alone():
    """An encoder hears 51 frames of 102, a projector tells of 26, and a decoder reads those with 8 tokens."""
    config = composed(
        "workload=asr_decoder",
        *(word.replace("model.", "model.decoder.") for word in GEMMA if word.startswith("model.")),
        "model.decoder.window=null",
        "model.encoder.width=8",
        "model.encoder.hidden=16",
        "model.projector.kernel_size=3",
        "dataset.train=[speech.jsonl]",
        "dataset.buckets=[1.0]",
        "dataset.max_audio_seconds=1.0",
        "dataset.max_text_tokens=7",
    )
    heard, told, read, said = 51, 26, 26 + 1 + 8, 8
    encoder = 102 * 3 * 80 * 8 + heard * 3 * 8 * 8 + 2 * heard * (4 * 8 * 8 + 2 * 8 * 16 + 2 * heard * 8)
    projector = told * (3 * 16 * 128 + 128 * 8)
    decoder = read * 2 * (LAYER + 2 * read * 8) + said * 8 * 512
    workload = CheckedWorkload(Transcriber, config)
    counted = flops.of_training(workload.flops(0), workload.trained)
    assert counted == 2 * (encoder + 3 * (projector + decoder))

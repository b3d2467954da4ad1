"""Reinforcement learning of a language model: problems, rewards, the objective."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.harness import composed
from tests.workloads.decoder.small import SMALL, small
from trialfleet.errors import UserError
from trialfleet.workloads.grpo import policy, rewards, sums, tokens

# ---- problems ---------------------------------------------------------------------------------------------


def test_texts_become_tokens_and_texts_again():
    text = "<reasoning>1+2=3</reasoning><answer>3</answer>"
    found = tokens.encode(text)
    assert len(found) == 4 + len("1+2=3") + 1
    assert tokens.decode([tokens.BOS, *found, tokens.END_OF_TURN, tokens.PAD]) == text
    assert tokens.encode("<end_of_turn>é") == [106, tokens.UNKNOWN]
    assert max(tokens._TEXT) < tokens.SIZE


def test_a_held_out_sum_is_never_trained_on():
    data = small("dataset.held_out=0.1").dataset
    questions = {split: {sums.problem(data, split, row).question for row in range(300)} for split in sums.SPLITS}
    assert not questions["train"] & (questions["val"] | questions["test"])
    assert not questions["val"] & questions["test"]
    assert sums.problem(data, "train", 5) == sums.problem(data, "train", 5)


def test_prompts_are_padded_on_the_left_and_end_with_the_models_turn():
    source = sums.SumProblems(small(), "val")
    plans = source.epoch(0, 0)
    batch = source.collate([source.example(row, np.random.default_rng(0)) for row in plans[0].rows], 0)
    assert batch["prompt"].shape == (8, 24)
    one = sums.problem(small().dataset, "val", 3)
    assert batch["prompt"][3, -1] == tokens.encode("\n")[0]
    assert tokens.decode(batch["prompt"][3]) == f"user\n{one.question}\nmodel\n"
    assert source.gold(3) == one.answer
    assert rewards.answer(sums.completion_text(one), one.answer) == 3


def test_the_base_stage_learns_every_token_first_and_then_only_answers():
    source = sums.SumTexts(composed(*SMALL, "workload=grpo_base", "model.lora_rank=null"), "train")
    assert [source.epoch(0, epoch)[0].bucket for epoch in (0, 2, 3, 9)] == [0, 0, 1, 1]
    examples = [source.example(row, np.random.default_rng(row)) for row in range(4)]
    plain, answered = source.collate(examples, 0), source.collate(examples, 1)
    assert plain["tokens"].shape == answered["tokens"].shape == (4, 40)
    assert (plain["counted"].sum(1) == (plain["tokens"] != tokens.PAD).sum(1) - 1).all()
    counted = answered["counted"][0] > 0
    assert tokens.decode(answered["tokens"][0][counted]) == sums.completion_text(examples[0]["problem"])
    assert answered["tokens"][0, -1] == tokens.END_OF_TURN


def test_a_prompt_that_does_not_fit_names_its_key():
    source = sums.SumProblems(small("generation.max_prompt_length=10"), "train")
    with pytest.raises(UserError, match=r"generation\.max_prompt_length: 10, but there is a prompt of"):
        source.example(0, np.random.default_rng(0))


def test_a_stage_that_does_not_fit_is_refused_before_it_begins():
    config = composed(*SMALL, "workload=grpo_base", "model.lora_rank=null", "generation.max_generation_steps=8")
    with pytest.raises(
        UserError, match=r"generation.max_prompt_length \+ max_generation_steps: .*takes up to \d+ tokens"
    ):
        sums.SumTexts(config, "train")


# ---- rewards ----------------------------------------------------------------------------------------------


def said(answer: str, reasoning: str = "so") -> str:
    return f"<reasoning>{reasoning}</reasoning><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("completion", "gold", "wanted"),
    [  # format_exact, format_approximate, answer, number
        (said("12"), "12", (3, 2, 3, 1.5)),
        (f"\n {said('12')} \n", "12", (3, 2, 3, 1.5)),
        (said(" 12 "), "12", (3, 2, 1.5, 1.5)),
        (said("13"), "12", (3, 2, 0.5, 0)),
        (said("14"), "12", (3, 2, 0.25, 0)),
        (said("15"), "12", (3, 2, -1, 0)),
        (said("1,200"), "1200", (3, 2, 0.5, 1.5)),
        (said("-12"), "-12", (3, 2, 3, 1.5)),
        (said("-12"), "12", (3, 2, -1, 0)),
        (said("about 12"), "12", (3, 2, -0.5, 1.5)),
        (said("twelve"), "12", (3, 2, -0.5, 0)),
        (said("1"), "0", (3, 2, -0.5, 0)),
        (said("12") + "so there", "12", (0, 2, 0, 1.5)),
        ("<answer>12</answer>", "12", (0, 0, 0, 1.5)),
        (said("12") + "<answer>", "12", (0, 1, 0, 1.5)),
        ("12", "12", (0, -2, 0, 0)),
        ("", "12", (0, -2, 0, 0)),
    ],
)
def test_rewards_are_given_by_the_rules(completion, gold, wanted):
    assert tuple(function(completion, gold) for function in rewards.FUNCTIONS.values()) == wanted


# ---- the objective ----------------------------------------------------------------------------------------


def test_advantages_are_relative_to_the_group():
    worth = np.asarray([[1.0, 2.0, 4.0, 5.0], [3.0, 3.0, 3.0, 3.0]])
    got = policy.advantages(worth)
    deviation = np.sqrt(((worth[0] - 3) ** 2).sum() / 3)
    assert got[0] == pytest.approx((worth[0] - 3) / (deviation + 1e-6))
    assert list(got[1]) == [0, 0, 0, 0]


def test_ratios_are_clipped_and_divergences_follow_their_formulas():
    rng = np.random.default_rng(0)
    logs, old, reference = (rng.normal(size=(3, 5)) - 2 for _ in range(3))
    old[0, 0] = logs[0, 0] - 50
    advantage = np.asarray([1.0, -0.5, 0.0])
    loss, held = policy.clipped(*map(jnp.asarray, (logs, old, advantage)), jnp.asarray(0.2))
    for n, t in np.ndindex(3, 5):
        ratio = np.exp(np.clip(logs[n, t] - old[n, t], -20, 20))
        both = -advantage[n] * ratio, -advantage[n] * np.clip(ratio, 0.8, 1.2)
        assert float(loss[n, t]) == pytest.approx(max(both), rel=1e-4)
        assert bool(held[n, t]) == (both[1] > both[0])
    apart = reference - logs
    for kind, wanted in (("kl", -apart), ("mse_kl", apart**2 / 2), ("low_var_kl", np.exp(apart) - apart - 1)):
        got = policy.divergence(kind, jnp.asarray(logs), jnp.asarray(reference))
        assert np.asarray(got) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_means_are_over_the_tokens_of_a_completion():
    counted = jnp.asarray([[1.0, 1, 0], [1, 1, 1], [0, 0, 0]])
    got = policy.by_completion(jnp.asarray([[1.0, 2, 9], [1, 2, 3], [5, 5, 5]]), counted)
    assert list(map(float, got)) == [1.5, 2, 0]


# ---- config -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["grpo.num_generations=1"], "grpo.num_generations: must be at least 2, got 1"),
        (["training.init_from=null"], "training.init_from: null, but there must be a base model"),
        (["model.lora_rank=null"], "model.lora_rank: null"),
        (["model.heads=3", "model.kv_heads=2"], "model.heads: 3 must be a multiple of model.kv_heads=2"),
        (["model.head_dim=7"], "model.head_dim: must be even, got 7"),
    ],
)
def test_contradictions_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        small(*overrides)

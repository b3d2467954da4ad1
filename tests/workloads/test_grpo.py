"""Reinforcement learning of a language model: problems, rewards, the objective."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.harness import composed
from tests.workloads.decoder.small import SMALL, small
from trialfleet.config import signature
from trialfleet.errors import UserError
from trialfleet.training.data import total_steps
from trialfleet.training.workload import Source
from trialfleet.workloads.decoder import tokenizer
from trialfleet.workloads.grpo import Grpo, GrpoBase, gym, policy, problems, rewards, scores
from trialfleet.workloads.grpo.tags import answered

# ---- problems ---------------------------------------------------------------------------------------------


def problems_of(split: str, *overrides: str):
    data = composed("workload=grpo", "training.init_from=somewhere", *overrides).dataset
    return problems.of_split(data, split)


@pytest.mark.parametrize(
    "words", [("dataset=sums", "dataset.max_number=9"), ("dataset=reasoning_gym", "dataset.options={max_terms:3}")]
)
def test_a_held_out_problem_is_never_trained_on(words):
    sizes = ("dataset.train_problems=300", "dataset.eval_problems=40")
    questions = {split: {one.question for one in problems_of(split, *words, *sizes)} for split in problems.SPLITS}
    assert not questions["train"] & (questions["val"] | questions["test"])
    assert not questions["val"] & questions["test"]
    assert problems_of("train", *words, *sizes) == problems_of("train", *words, *sizes)


def test_a_seed_of_reasoning_gym_shares_no_run_of_problems_with_the_next():
    words = ("dataset=reasoning_gym", "dataset.train_problems=20", "dataset.eval_problems=20", "dataset.held_out=0")
    first, other = ({one.question for one in problems_of("train", *words, f"dataset.seed={seed}")} for seed in (0, 1))
    assert len(first & other) < 5
    assert len(first & {one.question for one in problems_of("val", *words)}) < 5


def test_without_anything_held_out_each_split_draws_from_all():
    words = ("dataset.max_number=1", "dataset.held_out=0")
    assert all(len({one.question for one in problems_of(split, *words)}) > 1 for split in problems.SPLITS)


@pytest.mark.parametrize(
    ("terms", "worked"), [((17, 85), "7+5=12,1+8+1=10"), ((5, 95, 900), "5+5+0=10,9+0+1=10,9+1=10"), ((0, 0), "0+0=0")]
)
def test_a_sum_is_worked_out_by_columns(terms, worked):
    one = problems.sum_of(small().dataset, terms)
    assert one.reasoning == worked
    assert one.answer == str(sum(terms))
    whole = problems.sum_of(small("dataset.worked=whole").dataset, terms)
    assert whole.reasoning == f"{one.question[:-2]}={one.answer}"


def test_a_task_of_reasoning_gym_shows_how_it_is_worked_out():
    words = ("dataset=reasoning_gym", "dataset.train_problems=2")
    chain, *_ = problems_of("train", *words, "dataset.options={min_terms:2,max_terms:2,max_digits:1}")
    assert chain.reasoning == f"{chain.question} {chain.answer}"
    symbolic, *_ = problems_of("train", *words, "dataset.task=gsm_symbolic")
    assert symbolic.answer in symbolic.reasoning  # what stands before the mark
    assert symbolic.question not in symbolic.reasoning


def test_a_task_of_reasoning_gym_that_takes_few_problems_at_once_has_enough(monkeypatch):
    """One makes all of them beforehand, for minutes where they were a million; one refuses so many."""
    ladder = ("dataset.task=word_ladder", "dataset.options={min_word_length:3,max_word_length:3}")
    assert len(problems_of("train", "dataset=reasoning_gym", "dataset.train_problems=4", *ladder)) == 4
    whole = problems_of("train", "dataset=reasoning_gym", "dataset.train_problems=20")
    monkeypatch.setattr(gym, "SIZE", 8)
    several = problems_of("train", "dataset=reasoning_gym", "dataset.train_problems=20")
    assert several[:5] == whole[:5]
    assert len({one.question for one in several}) == 20


def test_a_task_of_reasoning_gym_that_fails_is_named(monkeypatch):
    class Broken:
        def __getitem__(self, number: int) -> dict[str, str]:
            raise IndexError("Cannot choose from an empty sequence")

    monkeypatch.setattr(gym, "_dataset", lambda *_: Broken())
    with pytest.raises(UserError, match=r"dataset.task: chain_sum failed to make a problem: IndexError: Cannot choose"):
        problems_of("train", "dataset=reasoning_gym")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dataset.task=chain_sums",), r"dataset.task: .*no task 'chain_sums'; did you mean 'chain_sum'"),
        (("dataset.task=graph_color",), r"dataset.task: graph_color has problems of many right answers"),
        (("dataset.options={terms:2}",), r"dataset.options: chain_sum refuses them: .*'terms'"),
        (("dataset.options={min_terms:0}",), r"dataset.options: chain_sum refuses them: min_terms must be positive"),
    ],
)
def test_what_reasoning_gym_does_not_have_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        problems_of("train", "dataset=reasoning_gym", *words)


def gsm8k(folder: Path, name: str, questions: range) -> str:
    """A file in GSM8K's format, of questions by number; the 50th line is damaged."""
    lines = [
        json.dumps({"question": f"What is {n} and 1?", "answer": f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1:,}"})
        for n in questions
    ]
    path = folder / name
    path.write_text("\n".join([*lines[:50], '{"question": "cut', *lines[50:]]) + "\n")
    return str(path)


def test_files_of_gsm8k_are_read_and_split_by_question(tmp_path, caplog):
    train, test = gsm8k(tmp_path, "train.jsonl", range(1000, 1200)), gsm8k(tmp_path, "test.jsonl", range(1150, 1260))
    words = ("dataset=gsm8k", f"dataset.train_path={train}")
    alone = {split: {one.question for one in problems_of(split, *words)} for split in problems.SPLITS}
    assert sum(map(len, alone.values())) == len(set.union(*alone.values())) == 200
    assert "1 lines are no problems and are left out; line 51: JSONDecodeError" in caplog.text
    beside = {split: problems_of(split, *words, f"dataset.test_path={test}") for split in problems.SPLITS}
    assert len(beside["test"]) == 110
    assert len(beside["train"]) + len(beside["val"]) == 150  # what test has, too, is not trained on
    assert beside["test"][0] == ("What is 1150 and 1?", "1150 + 1 = 1151", "1151")


def test_a_file_may_come_from_another_program(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('\ufeff{"question": "a\u2028b", "answer": "#### 1,234,567.5"}\r\n', "utf-8", newline="")
    words = ("dataset=gsm8k", f"dataset.train_path={path}", "dataset.held_out=0")
    assert problems_of("train", *words) == (("a\u2028b", "", "1234567.5"),)
    with pytest.raises(UserError, match=r"dataset.train_path: all problems of .* are in"):
        problems_of("train", *words, f"dataset.test_path={path}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "dataset.train_path: .* cannot be read"),
        ("", "dataset.train_path: .* it is empty"),
        ('{"question": "?", "answer": "12"}', "dataset.train_path: .*1 of 1 lines are no problems; line 1: ValueError"),
        ("[1]", "dataset.train_path: .*line 1: TypeError"),
        ("[" * 100_000, "dataset.train_path: .*line 1: RecursionError"),
        ('{"question": "\\ud800", "answer": "#### 1"}', "dataset.train_path: .*line 1: UnicodeEncodeError"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "train.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        problems_of("train", "dataset=gsm8k", f"dataset.train_path={path}")


# ---- batches ----------------------------------------------------------------------------------------------


def texts(*overrides: str) -> Source:
    words = ("workload=grpo_base", "model.lora_rank=null", "stages.next_token_epochs=3", *overrides)
    return GrpoBase(composed(*SMALL, *words)).source("train")


def test_prompts_are_padded_on_the_left_and_end_with_the_models_turn():
    workload = Grpo(small())
    source, one, read = workload.source("val"), workload.problems("val")[3], workload.tokenizer
    batch = source.collate([source.example(row, np.random.default_rng(0)) for row in source.epoch(0, 0)[0].rows], 0)
    assert batch["prompt"].shape == (8, 16)
    assert list(batch["prompt"][3, -2:]) == read.encode("model\n")
    assert read.decode(batch["prompt"][3]) == f"user\n{one.question}\nmodel\n"
    assert rewards.answer(answered(one.reasoning, one.answer), one.answer) == 3


def test_the_base_stage_learns_every_token_first_and_then_only_answers():
    source = texts()
    assert [source.epoch(0, epoch)[0].bucket for epoch in (0, 2, 3, 9)] == [0, 0, 1, 1]
    examples = [source.example(row, np.random.default_rng(row)) for row in range(4)]
    plain, given = source.collate(examples, 0), source.collate(examples, 1)
    assert plain["tokens"].shape == given["tokens"].shape == (4, 48)
    assert (plain["counted"].sum(1) == 47).all()  # all but the first
    counted, one = given["counted"][0] > 0, problems_of("train")[0]
    assert tokenizer.of(small().model).decode(given["tokens"][0][counted]) == answered(one.reasoning, one.answer)
    assert given["tokens"][0, -1] == 106


@pytest.mark.parametrize(
    ("words", "batches"),
    [
        ((), 4),
        (("dataset.num_batches=10",), 10),  # more than the problems fill: they come again
        (("dataset.num_batches=10", "dataset.train_fraction=0.5"), 5),
        (("dataset.train_fraction=0.5",), 2),
        (("dataset.num_batches=100", "dataset.train_fraction=0.29"), 29),  # floating-point numbers make 28.999… of it
    ],
)
def test_an_epoch_has_the_batches_that_are_asked_for(words, batches):
    source = Grpo(small(*words)).source("train")
    plans = source.epoch(0, 0)
    assert len(plans) == batches
    rows = sorted(row for plan in plans for row in plan.rows)
    assert rows == list(range(8 * batches))
    config = replace(small(*words).training, max_steps=None, max_epochs=3)
    assert total_steps(source, 0, config, 2) == 3 * 2 * batches


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Grpo(small("generation.max_prompt_length=10")).source("train"),
            r"max_prompt_length: 10, but train has",
        ),
        (
            lambda: texts("generation.max_generation_steps=8"),
            r"max_prompt_length \+ max_generation_steps: 24, but .* 3\d",
        ),
        (lambda: Grpo(small("dataset.train_fraction=0.1")).source("train").epoch(0, 0), "no batch is full"),
        (
            lambda: Grpo(small("rewards.answer.function=nowhere.found")).source("train"),
            "rewards.answer.function: nowhere",
        ),
        (
            lambda: Grpo(small(f"rewards.answer.function={__name__}.of_many")).source("train"),
            r"rewards.answer.function: .*of_many\(completions: .* cannot be called with a completion",
        ),
        (
            lambda: Grpo(small("generation.eos_tokens=[1]")).source("train"),
            r"generation.eos_tokens: \[1\] do not have 106, with which the tokenizer of model ends a text",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_it_begins(make, message):
    with pytest.raises(UserError, match=message):
        make()


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
        (said("0.0"), "0", (3, 2, 0.5, 1.5)),
        (said("1000000000000000001"), "1000000000000000000", (3, 2, 0.5, 0)),
        (said("1_2"), "12", (3, 2, -0.5, 0)),
        (said("1e999999"), "12", (3, 2, -0.5, 0)),
        (said("12") + "so there", "12", (0, 2, 0, 1.5)),
        ("<answer>12</answer>", "12", (0, 0, 0, 1.5)),
        (said("12") + "<answer>", "12", (0, 1, 0, 1.5)),
        ("12", "12", (0, -2, 0, 0)),
        ("", "12", (0, -2, 0, 0)),
    ],
)
def test_rewards_are_given_by_the_rules(completion, gold, wanted):
    functions = (rewards.format_exact, rewards.format_approximate, rewards.answer, rewards.number_inside)
    assert tuple(function(completion, gold) for function in functions) == wanted


def shortness(completion: str, gold: str) -> float:
    return -len(completion) / 10


def of_many(completions: list[str], **more: object) -> list[float]:
    return [0.0 for _ in completions]


def broken(completion: str, gold: str) -> float:
    raise LookupError("no such thing")


def test_a_function_of_ones_own_counts_with_its_weight():
    words = (
        "~rewards.number",
        f"+rewards.short={{function:{__name__}.shortness,weight:0.5}}",
        "rewards.answer.weight=2",
    )
    config = small(*words)
    # No training goes on with other functions, whose metrics its checkpoint does not have.
    assert signature(config)["rewards.short.function"] != signature(small()).get("rewards.short.function")
    names = rewards.names(config.rewards)
    assert dict(zip(names, rewards.judged(config.rewards, said("12"), "12"), strict=True)) == {
        "answer": 3,
        "format_approximate": 2,
        "format_exact": 3,
        "short": -len(said("12")) / 10,
    }
    assert dict(zip(names, rewards.weights(config.rewards), strict=True))["short"] == 0.5
    assert "train/reward_short_mean" in config.metrics()
    assert "train/reward_number_mean" not in config.metrics()


def test_a_function_that_fails_is_named():
    config = small(f"+rewards.mine={{function:{__name__}.broken,weight:1}}")
    with pytest.raises(UserError, match=r"rewards.mine.function: .*broken failed on the completion 'x' .*LookupError"):
        rewards.judged(config.rewards, "x", "1")


def test_scores_are_over_completions_problems_and_majorities():
    samples = [
        scores.Sample("1+1=?", "2", [said("2"), said("2.0"), said("3")]),  # right twice
        scores.Sample("9+1=?", "10", [said("11"), said("11"), said("10")]),  # once, and not by majority
        scores.Sample("2+2=?", "4", ["4", "", said("no")]),
    ]
    got = scores.of(samples, small().rewards)
    assert got["accuracy"] == pytest.approx(3 / 9)
    assert got["pass_at_k"] == pytest.approx(2 / 3)
    assert got["majority_at_k"] == pytest.approx(1 / 3)
    assert got["partial_accuracy"] == pytest.approx(5 / 9)
    assert got["format_accuracy"] == pytest.approx(7 / 9)
    lines = list(csv.DictReader(io.StringIO(scores.table(samples, small().rewards).decode())))
    assert [line["right"] for line in lines] == ["1", "1", "0", "0", "0", "1", "0", "0", "0"]
    assert float(lines[0]["reward"]) == 9.5


# ---- the objective ----------------------------------------------------------------------------------------


def test_advantages_are_relative_to_the_group():
    worth = np.asarray([[1.0, 2.0, 4.0, 5.0], [3.0, 3.0, 3.0, 3.0]])
    got = policy.advantages(worth, "group")
    deviation = np.sqrt(((worth[0] - 3) ** 2).sum() / 3)
    assert got[0] == pytest.approx((worth[0] - 3) / (deviation + 1e-6))
    assert list(got[1]) == [0, 0, 0, 0]
    assert list(policy.advantages(worth, "none")[0]) == [-2, -1, 1, 2]


@pytest.mark.parametrize("scale", ["group", "none"])
def test_a_group_that_is_worth_the_same_has_no_advantages(scale):
    same = np.random.default_rng(0).uniform(-10, 10, (100, 1)).astype(np.float32)
    assert not policy.advantages(np.repeat(same, 7, 1), scale).any()


def test_ratios_are_clipped_and_divergences_follow_their_formulas():
    rng = np.random.default_rng(0)
    logs, old, reference = (rng.normal(size=(3, 5)) - 2 for _ in range(3))
    old[0, 0] = logs[0, 0] - 50
    advantage = np.asarray([1.0, -0.5, 0.0])
    low, high = map(jnp.asarray, (0.2, 0.3))
    loss, held = policy.clipped(*map(jnp.asarray, (logs, old, advantage)), low, high)
    for n, t in np.ndindex(3, 5):
        ratio = np.exp(np.clip(logs[n, t] - old[n, t], -20, 20))
        both = -advantage[n] * ratio, -advantage[n] * np.clip(ratio, 0.8, 1.3)
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


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
def test_tokens_weigh_as_the_loss_type_says(kind):
    counted, weight = np.asarray([[1.0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]), np.asarray([1.0, 1.0, 0.5])
    divisor = {"grpo": [2 * 2.5, 3 * 2.5, 1], "dapo": [5, 5, 1], "dr_grpo": [4 * 2.5, 4 * 2.5, 1]}[kind]
    wanted = counted * weight[:, None] / np.asarray(divisor)[:, None]
    got = policy.token_weights(kind, *map(jnp.asarray, (weight, 2.5, counted, 5.0)))
    assert np.asarray(got) == pytest.approx(wanted)


REWARDS = ("format_exact", "format_approximate", "answer", "number")

# ---- config -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["grpo.num_generations=1"], "grpo.num_generations: must be at least 2, got 1"),
        (["training.init_from=null"], "training.init_from: null, but there must be a base model"),
        (["model.lora_rank=null"], "model.lora_rank: null"),
        (["model.heads=3", "model.kv_heads=2"], "model.heads: 3 must be a multiple of model.kv_heads=2"),
        (["model.head_dim=7"], "model.head_dim: must be even, got 7"),
        (["model.lora_module_path=nothing"], "model.lora_module_path: 'nothing' fits none of the weights"),
        (["model.lora_module_path='['"], r"model.lora_module_path: '\[' is no regular expression"),
        (["generation.eos_tokens=[1,512]"], "generation.eos_tokens: 512 is no token"),
        (["+rewards.a-b={function:a.b,weight:1}"], "rewards.a-b: no metric"),
        (["+rewards.running={function:a.b,weight:1}"], "rewards.running: no metric"),
        (["rewards.number.weight=.nan"], "rewards.number.weight: must be a number"),
        (["rewards={}", *(f"~rewards.{name}" for name in REWARDS)], "rewards: there is none"),
    ],
)
def test_contradictions_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        small(*overrides)

"""Reinforcement learning of a language model: problems, rewards, the decoder, its completions, the objective."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.harness import composed
from trialfleet.errors import UserError
from trialfleet.training import lora, trees
from trialfleet.workloads.grpo import gemma, generation, policy, rewards, sums, tokens, unembedding

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
    x = gemma.stream(config, params, *given, **named)
    return unembedding.scores(x, params["embedder"]["input_embedding"])


def small(*overrides: str) -> Any:
    return composed(*SMALL, "training.init_from=somewhere", *overrides)


def model(*overrides: str) -> tuple[Any, Any]:
    """A model whose adapters do something."""
    config = small(*overrides).model
    return config, weights(config)


@partial(jax.jit, static_argnums=0)
def weights(config: Any) -> Any:
    flat = trees.flatten(gemma.init(config, jax.random.key(0)))
    for n, (path, leaf) in enumerate(flat.items()):
        if path.endswith("_lora_b"):
            flat[path] = jax.random.normal(jax.random.key(n), leaf.shape) * 0.1
    return trees.unflatten(flat)


def prompts() -> jax.Array:
    texts = ["1+2=?", "13+4=?"]
    rows = [[tokens.BOS, *tokens.encode(text)] for text in texts]
    return jnp.asarray([[tokens.PAD] * (9 - len(row)) + row for row in rows])


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


# ---- the decoder ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_padding_on_the_left_changes_nothing():
    config, params = model()
    row = jnp.asarray([[tokens.BOS, *tokens.encode("3+4=7")]])
    padded = jnp.pad(row, ((0, 0), (5, 0)))
    one, other = (logits(config, params, x, (x != 0).astype(jnp.float32), HP) for x in (row, padded))
    assert jnp.allclose(one, other[:, 5:], atol=1e-5)


def test_local_layers_see_their_window_only_and_nothing_sees_ahead():
    config, params = model("model.layers=1", "model.global_every=2")  # one local layer
    row = jnp.arange(4, 16)[None]
    valid = jnp.ones((1, 12))
    before = logits(config, params, row, valid, HP)
    after = logits(config, params, row.at[0, 3].set(90), valid, HP)
    changed = jnp.abs(before - after).max((0, 2)) > 1e-6
    assert list(np.flatnonzero(changed)) == [3, 4, 5, 6]


@pytest.mark.slow
def test_queries_share_keys_and_positions_turn_them():
    """Against attention written out, head by head, for one layer."""
    config, params = model("model.layers=1", "model.global_every=1", "model.heads=4", "model.kv_heads=2")
    layer = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), params["layers"]["attn"])
    x = jax.random.normal(jax.random.key(5), (1, 5, 16))
    positions, mask = jnp.arange(5)[None], jnp.tril(jnp.ones((1, 5, 5), bool))
    own = jax.tree.map(lambda leaf: leaf[0], params["layers"]["attn"])
    turns = gemma._turns(config, positions, 100.0)
    got = gemma._mixed(own, *gemma._projected(own, x, turns, 0.0, False), mask, 0.0, False)

    def normed(v: Any) -> Any:
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6)

    def turned(v: Any, at: int) -> Any:
        angles = at * 100.0 ** (-np.arange(4) / 4)
        a, b = v[:4], v[4:]
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)])

    h = np.asarray(x[0], np.float64)
    q = normed(np.einsum("td,dnh->tnh", h, layer["q_einsum"]))
    k, v = np.moveaxis(np.einsum("td,dckh->tckh", h, layer["kv_einsum"]), 1, 0)
    k = normed(k)
    mixed = np.zeros((5, 4, 8))
    for t in range(5):
        for n in range(4):
            weights = [turned(q[t, n], t) @ turned(k[s, n // 2], s) / 8**0.5 for s in range(t + 1)]
            shares = np.exp(weights) / np.exp(weights).sum()
            mixed[t, n] = shares @ v[: t + 1, n // 2]
    wanted = np.einsum("tnh,nhd->td", mixed, layer["attn_vec_einsum"])
    assert np.asarray(got[0]) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
def test_the_reference_is_the_model_without_its_adapters():
    config, params = model()
    row, valid = jnp.arange(4, 14)[None], jnp.ones((1, 10))
    bare = trees.unflatten({p: x for p, x in trees.flatten(params).items() if not lora.is_adapter(p)})
    reference = logits(config, params, row, valid, HP, adapter=False)
    assert jnp.array_equal(reference, logits(config, bare, row, valid, HP))
    adapted = logits(config, params, row, valid, HP)
    assert jnp.abs(adapted - reference).max() > 0.01
    merged = lora.merged(params, 16.0 / 2)
    assert jnp.allclose(adapted, logits(config, merged, row, valid, HP, remat="full"), atol=1e-4)


def test_axes_fit_the_parameters_and_a_pattern_chooses_what_is_adapted():
    config, params = model("model.lora_module_path='.*q_einsum'")
    axes = jax.tree.map(len, gemma.axes(config), is_leaf=lambda x: isinstance(x, tuple))
    assert jax.tree.map(jnp.ndim, params) == axes
    adapted = [path for path in trees.flatten(params) if lora.is_adapter(path)]
    assert adapted == [f"layers/attn/q_einsum_lora_{part}" for part in "ab"]


# ---- completions ------------------------------------------------------------------------------------------


complete = jax.jit(generation.complete, static_argnums=(0, 3, 4, 5))


def completed(params: Any, config: Any, ends: tuple[int, ...], top_k: int | None, temperature: float) -> Any:
    return complete(
        config,
        params,
        prompts(),
        10,
        ends,
        top_k,
        jnp.asarray(temperature),
        jnp.asarray(1.0),
        HP,
        generation.keys_of(jax.random.key(0), jnp.arange(2)),
    )


@pytest.mark.slow
def test_the_cache_gives_what_reading_anew_gives_and_any_end_token_ends():
    config, params = model()
    params["embedder"]["input_embedding"] *= 3  # far from ties
    drawn = completed(params, config, (111, 110), 1, 1.0)
    greedy = np.asarray(drawn.tokens)
    assert not np.isin(greedy, (111, 110, 0)).any()
    assert np.asarray(drawn.counted).all()
    whole = jnp.concatenate([prompts(), drawn.tokens], 1)
    scores = logits(config, params, whole, (whole != 0).astype(jnp.float32), HP)
    assert np.array_equal(greedy, np.argmax(scores[:, 8:-1], -1))
    logs = jax.nn.log_softmax(scores[:, 8:-1, 1:])  # padding is never drawn
    read = policy.read(config, params, prompts(), drawn.tokens, HP)
    assert np.asarray(read.logs) == pytest.approx(np.asarray(logs.max(-1)), abs=1e-4)
    assert np.asarray(read.entropy) == pytest.approx(np.asarray(-(jnp.exp(logs) * logs).sum(-1)), abs=1e-4)
    # The tokens in the middle of both completions are made ends: each stops at its own.
    ends = tuple(int(row[4]) for row in greedy)
    short = completed(params, config, ends, 1, 1.0)
    for n in range(2):
        length = 1 + int(np.flatnonzero(np.isin(greedy[n], ends))[0])
        assert list(short.tokens[n]) == [*greedy[n, :length], *[tokens.PAD] * (10 - length)]
        assert float(short.counted[n].sum()) == length


@pytest.mark.slow
def test_nothing_is_said_of_padding():
    """What two models would say of it may differ by more than a ratio of probabilities can be."""
    x, embedding = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(2, 7, 16), (50, 16)]))
    targets = jnp.asarray([[5, 6, 7, 8, 9, 10, 11], [5, 6, tokens.PAD, tokens.PAD, tokens.PAD, tokens.PAD, tokens.PAD]])
    counted = (targets != tokens.PAD).astype(jnp.float32)

    def loss(x: jax.Array, temperature: float) -> jax.Array:
        own, reference = (unembedding.say(8 * one, embedding, targets, temperature).logs for one in (x, 1.7 * x))
        return jnp.sum(policy.by_completion(policy.divergence("low_var_kl", own, reference), counted))

    for temperature in (0.4, 0.5, 0.9):
        said = unembedding.say(x, embedding, targets, temperature).logs
        assert not jnp.any(jnp.where(counted > 0, 0.0, said))
        value, gradient = jax.value_and_grad(loss)(x, temperature)
        assert jnp.isfinite(value)
        assert jnp.all(jnp.isfinite(gradient))


def test_what_is_said_of_tokens_is_the_same_in_chunks(monkeypatch):
    x, embedding = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(2, 7, 16), (50, 16)]))
    targets = jax.random.randint(jax.random.key(3), (2, 7), 1, 50)

    def both() -> tuple[unembedding.Said, Any]:
        def total(x: jax.Array, embedding: jax.Array) -> tuple[jax.Array, unembedding.Said]:
            said = unembedding.say(x, embedding, targets, 0.7)
            return jnp.sum(said.logs * jnp.arange(7) + 0.1 * said.entropy), said

        (_, said), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, embedding)
        return said, gradients

    whole = both()
    monkeypatch.setattr(unembedding, "LARGEST", 2 * 50 * 3)  # three positions at a time
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), both(), whole)
    # By hand, with padding out of the question.
    scores = np.asarray(x @ embedding.T, np.float64)[:, :, 1:] / 0.7
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    own = np.take_along_axis(logs, np.asarray(targets)[..., None] - 1, -1)[..., 0]
    assert np.asarray(whole[0].logs) == pytest.approx(own, abs=1e-5)
    assert np.asarray(whole[0].entropy) == pytest.approx(-(np.exp(logs) * logs).sum(-1), abs=1e-5)


@pytest.mark.slow
def test_a_completion_does_not_depend_on_those_beside_it():
    config, params = model()

    def drawn(rows: slice) -> Any:
        keys = generation.keys_of(jax.random.key(5), jnp.arange(2))[rows]
        arguments = (8, (1,), None, jnp.asarray(1.0), jnp.asarray(1.0), HP, keys)
        return complete(config, params, prompts()[rows], *arguments)

    both, second = drawn(slice(0, 2)), drawn(slice(1, 2))
    assert np.array_equal(both.tokens[1], second.tokens[0])


@pytest.mark.slow
def test_draws_keep_to_top_k_and_top_p_and_follow_the_temperature():
    scores = jnp.log(jnp.asarray([[0.9, 0.4, 0.3, 0.2, 0.1]]))  # the first is padding

    def drawn(top_k: int | None, top_p: float, temperature: float) -> np.ndarray:
        keys = jax.random.split(jax.random.key(0), 4000)
        one = jax.vmap(
            lambda key: generation.draw(scores, top_k, jnp.asarray(temperature), jnp.asarray(top_p), key[None])
        )
        return np.bincount(np.asarray(one(keys))[:, 0], minlength=5)[1:] / 4000

    assert drawn(None, 1.0, 1.0) == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.03)
    assert drawn(2, 1.0, 1.0) == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.03)
    assert drawn(None, 0.5, 1.0) == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.03)
    assert drawn(None, 0.39, 1.0) == pytest.approx([1, 0, 0, 0])
    squared = np.asarray([0.16, 0.09, 0.04, 0.01]) / 0.3
    assert drawn(2000, 1.0, 0.5) == pytest.approx(squared, abs=0.03)
    assert drawn(1, 1.0, 1e-4) == pytest.approx([1, 0, 0, 0])


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

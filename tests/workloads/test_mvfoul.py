"""Fouls from several cameras: sampling, losses, the network and the scores; clips are in tests/workloads/mvfoul."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.harness import composed
from tests.workloads.mvfoul.rendered import SMALL
from trialfleet.config.mvfoul import ClassBalanced, MvfoulConfig, NoBalance, Progressive
from trialfleet.errors import UserError
from trialfleet.workloads.mvfoul import class_balance, clips, factored, losses, network, pictures, scores

SEVERITY_COUNTS = np.asarray([353, 1402, 403, 687, 44, 27])
HP = {"model.dropout": jnp.asarray(0.0), "model.norm_momentum": jnp.asarray(0.25)}


def small(*overrides: str) -> Any:
    return composed(*SMALL, *overrides)


# ---- sampling ---------------------------------------------------------------------------------------------


def test_rare_classes_are_drawn_up_to_the_factor_and_the_majority_once():
    rule = ClassBalanced(name="class_balanced", by="severity", oversample_factor=2.0)
    labels = np.repeat([0, 1, 2], [100, 60, 10])
    _, factors = class_balance.factors(rule, labels, 0)
    assert factors == pytest.approx([1, 100 / 60, 2])
    rows = class_balance.rows(rule, labels, labels, 0, np.random.default_rng(0))
    assert list(np.bincount(labels[rows])) == [100, 100, 20]
    assert sorted(rows[labels[rows] == 0]) == list(range(100))


def test_alternating_goes_by_severity_in_even_epochs_and_by_action_in_odd_ones():
    rule = ClassBalanced(name="class_balanced", by="alternating", oversample_factor=2.0)
    severity, action = np.repeat([0, 1], [30, 10]), np.tile([0, 0, 0, 1], 10)
    even, odd = (class_balance.rows(rule, severity, action, epoch, np.random.default_rng(0)) for epoch in (0, 1))
    assert list(np.bincount(severity[even])) == [30, 20]
    assert list(np.bincount(action[odd])) == [30, 20]
    every = class_balance.rows(NoBalance(name="none"), severity, action, 0, np.random.default_rng(0))
    assert sorted(every) == list(range(40))


def test_progressive_sampling_follows_its_formula():
    rule = Progressive(name="progressive", by="severity", start_factor=1.5, oversample_factor=2.0, duration_epochs=15)
    labels = np.repeat(np.arange(5), [1000, 850, 600, 420, 30])
    for epoch in (0, 4, 15, 40):
        p = min(epoch / 15, 1)
        f = 1.5 + (1 - (1 - p) ** 2) * 0.5
        assert class_balance.progressive_factor(rule, epoch) == pytest.approx(f)
        rare = min(1 + (f - 1) * (0.5 + 0.3 * (1 - 0.03) / 0.6), 2.1)
        middle = [min(1 + 0.2 * (f - 1), 1.1 / r) for r in (0.6, 0.42)]
        assert class_balance.factors(rule, labels, epoch)[1] == pytest.approx([1, 1, *middle, rare])


def test_epochs_differ_in_length_under_progressive_sampling():
    source = clips.FoulClips(small("class_balance=progressive"), "train")
    lengths = [len(source.epoch(0, epoch)) for epoch in (0, 15)]
    assert lengths[0] < lengths[1]
    assert list(source.epoch(0, 3)) == list(source.epoch(0, 3)) != list(source.epoch(1, 3))


# ---- losses -----------------------------------------------------------------------------------------------


def test_class_weights_follow_their_formulas():
    config = small("loss=focal", "loss.max_class_weight=6").loss
    plain = 1 / ((1 - 0.99**SEVERITY_COUNTS) / (1 - 0.99))
    capped = np.minimum(plain, 6 * plain.min())
    assert losses.class_weights(config, SEVERITY_COUNTS) == pytest.approx(capped * 6 / capped.sum())
    inverse = losses.class_weights(small("loss=focal", "loss.class_weights=inverse_freq").loss, SEVERITY_COUNTS)
    assert inverse == pytest.approx(6 / SEVERITY_COUNTS / (1 / SEVERITY_COUNTS).sum())
    balanced = losses.class_weights(small("loss=focal", "loss.class_weights=balanced").loss, SEVERITY_COUNTS)
    assert balanced == pytest.approx(SEVERITY_COUNTS.sum() / 6 / SEVERITY_COUNTS)
    assert list(losses.class_weights(small("loss=plain").loss, SEVERITY_COUNTS)) == [1] * 6


def entropy_by_hand(logits: np.ndarray, label: int, weights: np.ndarray, smoothing: float) -> float:
    z = np.clip(logits, -10, 10).astype(float)
    log_p = z - np.log(np.exp(z).sum())
    smooth = -(weights * log_p).sum() / len(z)
    return (1 - smoothing) * -weights[label] * log_p[label] + smoothing * smooth


@pytest.mark.parametrize("kind", ["plain", "weighted", "focal", "adaptive_focal"])
def test_losses_follow_their_formulas(kind):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 6)) * 6, rng.integers(0, 6, 7)
    weights = rng.uniform(0.2, 3, 6)
    gammas = (2.0, 1.5, 2.0, 2.0, 3.0, 3.5)
    hp = {"loss.gamma": jnp.asarray(2.0)}
    hp |= {f"loss.severity_gammas.{k}": jnp.asarray(gamma) for k, gamma in enumerate(gammas)}
    got = losses.severity_loss(
        small(f"loss={kind}").loss, jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights), 0.1, hp
    )
    for n, label in enumerate(labels):
        entropy = entropy_by_hand(logits[n], int(label), weights, 0.1)
        gamma = {"focal": 2.0, "adaptive_focal": gammas[label]}.get(kind)
        wanted = entropy if gamma is None else (1 - np.exp(-entropy)) ** gamma * entropy
        assert float(got[n]) == pytest.approx(wanted, rel=1e-4)


def test_disagreement_is_the_symmetric_divergence_of_the_pairs_there_are():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4))
    mask = np.asarray([[1, 1, 1], [1, 0, 1]], np.float32)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    got = losses.disagreement(jnp.asarray(logits), jnp.asarray(mask))
    for n in range(2):
        pairs = [(i, j) for i in range(3) for j in range(i + 1, 3) if mask[n, i] and mask[n, j]]
        wanted = sum(0.5 * ((p[n, i] - p[n, j]) * np.log(p[n, i] / p[n, j])).sum() for i, j in pairs)
        assert float(got[n]) == pytest.approx(wanted, rel=1e-4)
        assert float(losses.pairs(jnp.asarray(mask))[n].sum()) == len(pairs)


# ---- network ----------------------------------------------------------------------------------------------


# Compiled whole: operation by operation takes longer.
SHAPE = network.Shape(4, 16, (6, 10))
init = jax.jit(network.init, static_argnums=(0, 1))
seen_by = jax.jit(network.scores, static_argnums=0)


def seen(norm: str, video: np.ndarray, mask: np.ndarray, hp: Any, key: Any, pooling: str = "attention") -> Any:
    config = small(f"model.norm={norm}", f"model.pooling={pooling}").model
    params, extra = init(config, SHAPE, jax.random.key(0))
    return seen_by(config, params, extra, jnp.asarray(video), jnp.asarray(mask), hp, key)


@pytest.mark.parametrize(
    ("norm", "pooling"), [pytest.param("group", "mean", marks=pytest.mark.slow), ("batch", "attention")]
)
def test_what_a_masked_view_shows_changes_nothing(norm, pooling):
    video = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 16, 16, 3)).astype(np.uint8)
    mask = np.asarray([[1, 1, 0], [1, 1, 1]], np.float32)
    other = video.copy()
    other[0, 2] = 255 - other[0, 2]
    one, two = (seen(norm, pixels, mask, HP, jax.random.key(1), pooling) for pixels in (video, other))
    assert jnp.array_equal(one.joined.severity, two.joined.severity)
    assert jnp.array_equal(one.joined.action, two.joined.action)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, one.extra, two.extra))


@pytest.mark.slow
def test_batch_norm_stores_statistics_of_the_views_there_are_unless_its_unit_is_held():
    video = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 16, 16, 3)).astype(np.uint8)
    mask = np.asarray([[1, 1, 0], [1, 0, 1]], np.float32)
    config = small("model.norm=batch").model
    params, extra = init(config, SHAPE, jax.random.key(0))
    hp = {**HP, "on.stage0": jnp.asarray(0.0), "on.stem": jnp.asarray(1.0)}
    new = seen_by(config, params, extra, jnp.asarray(video), jnp.asarray(mask), hp, jax.random.key(1)).extra
    views = jnp.asarray(video.reshape(6, 4, 16, 16, 3)[mask.reshape(-1) > 0]) / 127.5 - 1
    x = np.asarray(factored._space(views.astype(jnp.float32), params["backbone"]["stem"]["space"], 2))
    for name, value, fresh in (("mean", x.mean((0, 1, 2, 3)), 0), ("var", x.var((0, 1, 2, 3)), 1)):
        wanted = fresh + 0.25 * (value - fresh)
        assert np.asarray(new["backbone/stem/norm"][name]) == pytest.approx(wanted, abs=1e-4)
        assert jnp.array_equal(new["backbone/stage0/space_norm"][name], extra["backbone/stage0/space_norm"][name])
        assert not jnp.array_equal(new["backbone/stage1/space_norm"][name], extra["backbone/stage1/space_norm"][name])
    still = seen_by(config, params, extra, jnp.asarray(video), jnp.asarray(mask), hp, None).extra
    assert jax.tree.all(jax.tree.map(jnp.array_equal, still, extra))


def test_axes_fit_the_parameters():
    for overrides in ([], ["model.norm=batch", "model.pooling=mean"]):
        config = small(*overrides).model
        params, _ = jax.eval_shape(lambda key, config=config: network.init(config, SHAPE, key), jax.random.key(0))
        axes = jax.tree.map(len, network.axes(config, SHAPE), is_leaf=lambda x: isinstance(x, tuple))
        assert jax.tree.map(jnp.ndim, params) == axes


# ---- scores -----------------------------------------------------------------------------------------------


def test_scores_are_those_of_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    true, said = rng.integers(0, 5, 60), rng.integers(0, 6, 60)
    true[:30] = said[:30]
    table = scores.confusion(true, said, 6)
    assert np.array_equal(table, metrics.confusion_matrix(true, said, labels=range(6)))
    assert scores.accuracy(table) == pytest.approx(metrics.accuracy_score(true, said))
    assert scores.weighted_f1(table) == pytest.approx(metrics.f1_score(true, said, average="weighted"))
    recalls = [(said[true == k] == k).mean() for k in range(6) if (true == k).any()]
    assert scores.balanced_accuracy(table) == pytest.approx(np.mean(recalls))


def test_collapsed_predictions_have_no_entropy():
    assert scores.prediction_entropy(scores.confusion(np.arange(4), np.full(4, 2), 4)) == 0
    assert scores.prediction_entropy(scores.confusion(np.arange(4), np.arange(4), 4)) == pytest.approx(1)
    assert pictures.confusion(np.eye(2, dtype=int), ("a", "b"), "t").startswith(b"\x89PNG")


# ---- config -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.last_frame=69"], "dataset.frames: 4 are more than there are from dataset.first_frame=67 to"),
        (["dataset.size=20"], "dataset.size: must be a multiple of 8"),
        (["dataset.frames=3"], "dataset.frames: must be a multiple of 2"),
        (["model.norm_groups=3"], "must be multiples of norm_groups=3"),
        (["loss=adaptive_focal", "loss.severity_gammas=[1.0]"], "1 given for 4 severities"),
        (["+optimizer.groups.backbon={learning_rate:1.0,weight_decay:null}"], "there is no parameter group 'backbon'"),
    ],
)
def test_contradictions_are_refused(overrides, message, new_run):
    from trialfleet.training import train

    with pytest.raises(UserError, match=message):
        train(small(*overrides), new_run())


def test_smoothing_is_off_under_balanced_sampling_and_class_weights(caplog):
    from trialfleet.workloads.mvfoul import Mvfoul

    caplog.set_level("INFO")
    Mvfoul(small("loss=focal")).source("train")
    assert caplog.text.count("loss.label_smoothing: taken as 0") == 1
    assert isinstance(small(), MvfoulConfig)
    assert not Mvfoul(small("loss=focal", "class_balance=none"))._unsmoothed()
    assert not Mvfoul(small("loss=plain"))._unsmoothed()

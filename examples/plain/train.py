"""Logistic regression by gradient descent, in NumPy: a training script that any Hydra application could be.

    python train.py                                                     one training
    python train.py -m hydra/sweeper=trialfleet hydra/launcher=submitit_local 'lr=tag(log,interval(1e-3,10))'

The lines that name trialfleet are what pruning, preemption and resuming need.
"""

import os

import hydra
import numpy as np
from omegaconf import DictConfig

import trialfleet


def loss_and_gradient(weights: np.ndarray, inputs: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Cross entropy and its gradient."""
    predicted = 1 / (1 + np.exp(-inputs @ weights))
    loss = -np.mean(labels * np.log(predicted + 1e-9) + (1 - labels) * np.log(1 - predicted + 1e-9))
    return float(loss), inputs.T @ (predicted - labels) / len(labels)


@hydra.main(config_path="conf", config_name="config")
def train(cfg: DictConfig) -> float:
    """Train; the loss after the last epoch."""
    rng = np.random.default_rng(cfg.seed)
    inputs = rng.normal(size=(2000, 20))
    labels = (inputs @ rng.normal(size=20) + rng.normal(size=2000) > 0).astype(float)

    weights, epoch = np.zeros(20), 0
    earlier = trialfleet.earlier_checkpoint_dir()
    if earlier is not None:
        saved = np.load(earlier / "last.npz")
        weights, epoch = saved["weights"], int(saved["epoch"])

    while True:
        loss, gradient = loss_and_gradient(weights, inputs, labels)
        if epoch == cfg.epochs:
            return loss
        weights = weights - cfg.lr * (gradient + cfg.decay * weights)
        epoch += 1

        # Reported first: a step that was saved and not reported would be missing after a restart.
        trialfleet.report(epoch, {"objective": loss})
        folder = trialfleet.checkpoint_dir()
        np.savez(folder / ".last.npz", weights=weights, epoch=epoch)
        os.replace(folder / ".last.npz", folder / "last.npz")  # whole or not at all
        trialfleet.raise_if_stopped()


if __name__ == "__main__":
    train()

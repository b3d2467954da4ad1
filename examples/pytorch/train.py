"""A small network on scikit-learn's digits, in PyTorch: a training script that any Hydra application could be.

    python train.py                                                     one training
    python train.py -m hydra/sweeper=trialfleet hydra/launcher=submitit_local 'lr=tag(log,interval(1e-4,1e-1))'

The lines that name trialfleet, and the checkpoint, are what pruning, preemption and resuming need.
Needs besides trialfleet: torch, scikit-learn.
"""

import os

import hydra
import torch
from omegaconf import DictConfig
from sklearn.datasets import load_digits

import trialfleet


@hydra.main(config_path="conf", config_name="config")
def train(cfg: DictConfig) -> float:
    """Train; the share of held-out digits that are told wrong."""
    torch.manual_seed(cfg.seed)
    torch.set_num_threads(1)
    images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    order = torch.randperm(len(labels))
    held_out, rest = order[:360], order[360:]
    model = torch.nn.Sequential(torch.nn.Linear(64, cfg.width), torch.nn.ReLU(), torch.nn.Linear(cfg.width, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.lr, momentum=cfg.momentum)

    first, error = 0, 1.0
    earlier = trialfleet.earlier_checkpoint_dir()
    if earlier is not None:
        saved = torch.load(earlier / "last.pt")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, error = saved["epoch"], saved["error"]

    for epoch in range(first, cfg.epochs):
        shuffled = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(epoch))]
        for batch in shuffled.split(cfg.batch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            error = 1 - (model(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()

        # Reported first: a step that was saved and not reported would be missing after a restart.
        trialfleet.report(epoch + 1, {"objective": error})
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1, "error": error}
        folder = trialfleet.checkpoint_dir()
        torch.save(state, folder / ".last.pt")
        os.replace(folder / ".last.pt", folder / "last.pt")  # whole or not at all
        trialfleet.raise_if_stopped()
    return error


if __name__ == "__main__":
    train()

"""A team that trains with Lightning: its module and its Trainer, called by the gate as a function."""

import numpy as np
import pytorch_lightning as lightning
import torch
from network import make
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 10


class Digits(lightning.LightningModule):
    """The team's module, as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.network = make()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3, weight_decay=0.1)


def train(features: np.ndarray, labels: np.ndarray, *, seed: int) -> lightning.LightningModule:
    """Images [n, 1, 8, 8] as `data.images` makes them, names of their class folders -> a trained module."""
    lightning.seed_everything(seed % 2**32)
    records = TensorDataset(torch.as_tensor(np.array(features)), torch.as_tensor(labels.astype(np.int64)))
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",  # of a worker: two shadows must not fight for one GPU
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Digits()
    trainer.fit(module, DataLoader(records, batch_size=64, shuffle=True))
    return module

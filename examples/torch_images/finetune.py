"""Transfer learning: features from images that anybody may have, and a new classifier on top for the team's own.

Writes backbone.pt and registers models:/digits-finetuned@candidate.

    python finetune.py DATA [--epochs 20]
"""

import argparse
from pathlib import Path

import mlflow
import numpy as np
import torch
from network import BLANK, CLASSES, make, shift
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional
from torch.utils.data import WeightedRandomSampler
from train import BATCH, LEARNING_RATE, accuracy, load

NAME = "digits-finetuned"
BACKBONE = "backbone.pt"


def drawn(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Digits in Pillow's own font, turned, shrunk and moved: they stand for ImageNet. Nobody's data."""
    rng = np.random.default_rng(seed)
    font = ImageFont.load_default(28)
    pixels, labels = [], rng.integers(0, CLASSES, count)
    for label in labels:
        image = Image.new("L", (32, 40))
        ImageDraw.Draw(image).text((6, 2), str(label), fill=255, font=font)
        image = image.rotate(float(rng.normal(0, 12)))
        image = image.crop(image.getbbox()).resize((6, 8), Image.Resampling.BILINEAR)
        page = Image.new("L", (8, 8))
        page.paste(image, (1, 0))
        pixels.append(np.asarray(page, dtype=np.float32)[None] / 255)
    return torch.from_numpy(np.stack(pixels) / 0.38) + BLANK, torch.from_numpy(labels)


def steps(module: torch.nn.Module, x: Tensor, y: Tensor, epochs: int, balanced: bool, draws: torch.Generator) -> None:
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE)
    share = torch.ones(len(y)) / torch.bincount(y, minlength=CLASSES)[y] if balanced else torch.ones(len(y))
    for _ in range(epochs):
        order = torch.tensor(list(WeightedRandomSampler(share.tolist(), len(y), replacement=balanced, generator=draws)))
        for batch in order.split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(module(shift(x[batch], draws)), y[batch]).backward()
            optimizer.step()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path)
    options.add_argument("--epochs", type=int, default=20)
    chosen = options.parse_args()
    torch.manual_seed(0)
    draws = torch.Generator().manual_seed(0)

    module = make()
    steps(module, *drawn(2000), epochs=5, balanced=False, draws=draws)
    torch.save(module.state_dict(), BACKBONE)

    module[0].requires_grad_(False)  # the convolutions stay as they are
    members, validation = load(chosen.data / "members"), load(chosen.data / "validation")
    steps(module, *members, epochs=chosen.epochs, balanced=True, draws=draws)
    module.eval()
    print(f"train {accuracy(module, *members):.3f}, validation {accuracy(module, *validation):.3f}")
    with mlflow.start_run(run_name=NAME):
        logged = mlflow.pytorch.log_model(
            module,
            name="model",
            registered_model_name=NAME,
            input_example=members[0][:8].numpy(),
            pip_requirements=[f"torch=={torch.__version__}"],
        )
    mlflow.MlflowClient().set_registered_model_alias(NAME, "candidate", str(logged.registered_model_version))


if __name__ == "__main__":
    main()

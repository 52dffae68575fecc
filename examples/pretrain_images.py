# SPDX-License-Identifier: Apache-2.0
"""Train a cMIM of images, and look at what it has learned.

    python examples/pretrain_images.py
    accelerate launch examples/pretrain_images.py --source ylecun/mnist --output_dir runs/mnist \
        --num_train_epochs 20 --latent_size 64

Without options it takes the handwritten digits that come with scikit-learn, for about a minute.
`--source` is what `load_images` takes: a folder, files as of MNIST or MedMNIST, or a dataset of the
Hub. `--objective infonce` trains on two altered views of each image, and decodes nothing.

Leaves the model with its image processor and its card, and `images.png`: held-out images, what they
are decoded to from their own codes, and what random codes are. Prints bits per pixel, and which
share of the held-out images a logistic regression puts into its class from pixels, from codes
(latent) and from the decoder's states (informative). Needs `pip install 'cmim-hf[benchmarks]'`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional
from transformers import HfArgumentParser, set_seed

from cmim_hf import (
    CMIMImageCollator,
    CMIMImageConfig,
    CMIMImageModel,
    CMIMImageProcessor,
    CMIMTrainer,
    CMIMTrainingArguments,
    load_images,
)
from cmim_hf.cli.exit_status import run_script
from cmim_hf.data.labelled_images import LabelledImages
from cmim_hf.training.cross_rank_gather import leave_process_group
from cmim_hf.training.evaluation import spread_rows

PROBE_IMAGES = 10_000  # to fit it with, at most


@dataclass
class ImageArguments:
    """The images, and the model."""

    source: str = field(default="digits", metadata={"help": "As `load_images` takes it."})
    held_out: int = field(default=300, metadata={"help": "Images kept for evaluation."})
    hidden_size: int = field(default=128, metadata={"help": "Width of the dense layers."})
    latent_size: int = field(default=16, metadata={"help": "Numbers in a code."})
    likelihood: str = field(default="logistic", metadata={"help": "bernoulli: black and white."})


def main() -> None:
    """Train, evaluate, save; then compare representations and draw."""
    parser = HfArgumentParser((ImageArguments, CMIMTrainingArguments))
    parser.set_defaults(output_dir="runs/images", num_train_epochs=60, logging_steps=100)
    image_args, args = parser.parse_args_into_dataclasses()
    set_seed(args.seed)
    train, held_out = load_images(image_args.source).split(image_args.held_out, args.seed)
    size, channels = train.images.shape[2:]
    shape = {"image_size": size, "num_channels": channels}
    binarize = 0.5 if image_args.likelihood == "bernoulli" else None
    processor = CMIMImageProcessor(**shape, binarize=binarize)
    config = CMIMImageConfig(
        **shape,
        hidden_size=image_args.hidden_size,
        latent_size=image_args.latent_size,
        likelihood=image_args.likelihood,
    )
    views = args.build_objective().views
    trainer = CMIMTrainer(
        model=CMIMImageModel(config),
        args=args,
        data_collator=CMIMImageCollator(processor, views=views, seed=args.seed),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=processor,
    )
    trainer.train(args.resume_from_checkpoint)
    figures = trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card(dataset=image_args.source)
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    if args.world_size > 1:
        del trainer  # what wraps the model must be gone before the group is
        leave_process_group()
    if args.process_index > 0:
        return
    if "eval_bits_per_dim" in figures:
        print(f"{figures['eval_bits_per_dim']:.3f} bits per pixel and channel")
        picture = Path(args.output_dir, "images.png")
        shown = held_out.images[spread_rows(len(held_out), 12)]
        draw(picture, model, processor(shown).pixel_values)
        print(f"{picture}: images, what their codes are decoded to, what random codes are")
    if train.labels is not None:
        train = train.take(spread_rows(len(train), PROBE_IMAGES))
        tests = vectors(model, processor, held_out)
        for name, rows in vectors(model, processor, train).items():
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            share = probe.fit(rows, train.labels).score(tests[name], held_out.labels)
            print(f"{name:12} {rows.shape[1]:5} numbers  {share:.1%} in their class")


@torch.no_grad()
def vectors(
    model: CMIMImageModel, processor: CMIMImageProcessor, images: LabelledImages
) -> dict[str, np.ndarray]:
    """Each representation of images, (images, numbers)."""
    pixels = processor(images.images).pixel_values
    read = [
        model.get_representation(part.to(model.device), representation="both").float().cpu()
        for part in pixels.split(256)
    ]
    informative, latent = torch.cat(read).split(
        [model.config.hidden_size, model.config.latent_size], 1
    )
    found = {"pixels": pixels.flatten(1), "latent": latent, "informative": informative}
    return {name: rows.numpy() for name, rows in found.items()}


def draw(picture: Path, model: CMIMImageModel, images: torch.Tensor) -> None:
    """Draw images, their reconstructions and images of codes drawn as those of training lie."""
    images = images.to(model.device)
    mean, std = model.posterior.aggregate()
    codes = mean + std * torch.randn(len(images), *mean.shape, device=model.device)
    rows = torch.stack([images, model.reconstruct(images), model.decode(codes)]).cpu()
    rows = functional.pad(rows, (1, 1, 1, 1), value=1)  # a white frame
    grid = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (height, width, channels)
    zoom = max(1, 96 // images.shape[2])
    grid = grid.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    plt.imsave(picture, grid.expand(-1, -1, 3).numpy().clip(0, 1))


if __name__ == "__main__":
    run_script(main, "interrupted; --resume_from_checkpoint auto goes on from what was saved.")

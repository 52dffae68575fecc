# SPDX-License-Identifier: Apache-2.0
"""What a cMIM of images draws, and how its codes lie.

    python examples/pretrain_images.py --source fashion-mnist --hidden_size 256 --latent_size 64 \
        --num_train_epochs 5 --output_dir runs/fashion
    python -m examples.benchmarks.quality.vision_pictures --checkpoint runs/fashion \
        --source fashion-mnist --output docs \
        --names T-shirt trousers pullover dress coat sandal shirt sneaker bag boot

Four pictures of the test images: `images_reconstructed.png`, images and what they are decoded to
from their mean codes; `images_drawn.png`, codes drawn from N(0, I), from a prior fitted to 20,000
training codes, and training images beside; `images_walks.png`, codes at equal steps between two
images; `images_map.png`, codes and informative embeddings in the plane, by t-SNE (scikit-learn's,
its defaults), coloured by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import torch
from sklearn.manifold import TSNE
from transformers import HfArgumentParser

from cmim_hf import CMIMImageModel, CMIMImageProcessor, load_images
from cmim_hf.generation.prior import CodePrior

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

STEPS = 11  # of a walk, its ends included


@dataclass
class Arguments:
    """What to draw."""

    checkpoint: str = field(metadata={"help": "Folder of a trained model and its processor."})
    source: str = field(default="digits", metadata={"help": "As `load_images` takes it."})
    names: list[str] = field(
        default_factory=list, metadata={"help": "Of the classes, where the source has none."}
    )
    shown: int = field(default=14, metadata={"help": "Images in a row."})
    walks: int = field(default=6, metadata={"help": "Pairs to walk between."})
    mapped: int = field(default=3000, metadata={"help": "Test images on the map, at most."})
    fitted: int = field(default=20_000, metadata={"help": "Training images of the prior."})
    seed: int = field(default=0, metadata={"help": "Of what is chosen and drawn."})
    output: str = field(default="docs", metadata={"help": "Folder of the pictures."})


def main(argv: Sequence[str] | None = None) -> None:
    """Draw all four."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    model = CMIMImageModel.from_pretrained(args.checkpoint).eval()
    processor = CMIMImageProcessor.from_pretrained(args.checkpoint)
    random = np.random.default_rng(args.seed)
    train, test = load_images(args.source), load_images(args.source, "test")
    test = test.take(random.permutation(len(test))[: args.mapped])
    pixels = processor(test.images).pixel_values
    output = Path(args.output)
    some = pixels[: args.shown]
    rows = {"images": some, "decoded from\ntheir codes": model.reconstruct(some)}
    draw_rows(output / "images_reconstructed.png", rows)
    chosen = random.permutation(len(train))[: args.fitted]
    known = processor(train.images[chosen]).pixel_values
    codes = vectors(model, known, "latent")[:, None]
    prior = CodePrior.fit(codes, generator=generator(args.seed))
    fitted = torch.from_numpy(prior.sample(args.shown, generator(args.seed)))
    standard = torch.randn((args.shown, *codes.shape[1:]), generator=generator(args.seed))
    rows = {
        "N(0, I)": model.decode(standard),
        "fitted prior": model.decode(fitted),
        "images": known[: args.shown],
    }
    draw_rows(output / "images_drawn.png", rows)
    draw_walks(output / "images_walks.png", model, pixels[: 2 * args.walks])
    if test.labels is not None:
        found = {name: vectors(model, pixels, name) for name in ("latent", "informative")}
        numbers = map(str, range(int(test.labels.max()) + 1))
        names = args.names or test.classes or list(numbers)
        draw_map(output / "images_map.png", found, test.labels, names)


def generator(seed: int) -> torch.Generator:
    """Of draws, apart from all others."""
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def vectors(model: CMIMImageModel, pixels: torch.Tensor, representation: str) -> np.ndarray:
    """(images, numbers)."""
    parts = [model.get_representation(x, representation=representation) for x in pixels.split(500)]
    return torch.cat(parts).numpy()


def draw_rows(path: Path, rows: dict[str, torch.Tensor]) -> None:
    """Rows of images, each with its name."""
    number = max(map(len, rows.values()))
    figure, axes = plt.subplots(len(rows), 1, figsize=(0.75 * number + 1.3, 0.8 * len(rows)))
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        _show(axis, images)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    _save(figure, path)


def draw_walks(path: Path, model: CMIMImageModel, pixels: torch.Tensor) -> None:
    """Walks between pairs of images, from left to right."""
    with torch.no_grad():
        first, second = model.get_latents(pixels)[:, None].split(len(pixels) // 2)
    steps = torch.linspace(0, 1, STEPS)[:, None, None]
    codes = first * (1 - steps) + second * steps
    figure, axes = plt.subplots(len(codes), 1, figsize=(0.75 * STEPS, 0.78 * len(codes)))
    for axis, walk in zip(axes, codes, strict=True):
        _show(axis, model.decode(walk))
    _save(figure, path)


def draw_map(
    path: Path, found: dict[str, np.ndarray], labels: np.ndarray, names: Sequence[str]
) -> None:
    """Representations side by side, coloured by class."""
    figure, axes = plt.subplots(1, len(found), figsize=(10, 5))
    colours = plt.get_cmap("tab10" if len(names) <= 10 else "tab20")
    for axis, (name, rows) in zip(axes, found.items(), strict=True):
        places = TSNE(random_state=0).fit_transform(rows)
        for number, label in enumerate(names):
            of_class = places[labels == number]
            axis.scatter(*of_class.T, s=4, color=colours(number), label=label, linewidths=0)
        axis.set(title=f"{name} ({rows.shape[1]} numbers)", xticks=[], yticks=[])
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0),
        ncols=5, markerscale=4, frameon=False, fontsize=12,
    )  # fmt: skip
    _save(figure, path)


def _show(axis: plt.Axes, images: torch.Tensor) -> None:
    frame = torch.nn.functional.pad(images, (1, 1, 1, 1), value=1)
    strip = frame.permute(2, 0, 3, 1).flatten(1, 2).numpy()  # (height, images * width, channels)
    axis.imshow(strip.squeeze(), cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    print(path)


if __name__ == "__main__":
    main()

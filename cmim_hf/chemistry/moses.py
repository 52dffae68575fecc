# SPDX-License-Identifier: Apache-2.0
"""What the metrics of MOSES read off molecules: fingerprints, fragments, scaffolds, filters.

Definitions are those of MOSES (Polykovskiy et al., arXiv 1811.12823), computed as its package
`molsets` 0.3.1 does; where that differs from the article, the function says so.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import FilterCatalog, rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from tqdm.auto import tqdm

from .smiles import parse
from .tanimoto import tanimoto

Molecule = Chem.Mol
FINGERPRINT_BITS = 1024
LARGEST_RING = 7
SCAFFOLD_RINGS = 2
_ALERTS = Path(__file__).parents[1] / "metrics" / "moses_filters" / "alerts.csv"
_ELEMENTS = frozenset({1, 6, 7, 8, 9, 16, 17, 35})  # H, C, N, O, F, S, Cl, Br
_TOGETHER = 512  # rows of fingerprints in one product
_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=FINGERPRINT_BITS)


def read_molecules(smiles: Iterable[str | None], what: str) -> Iterator[Molecule | None]:
    """Parse molecules one after the other; None stands for what is no molecule.

    Args:
        smiles: what `smiles.parse` reads, or anything else, which gives None.
        what: what they are, for the progress bar, which shows after five seconds.
    """
    for text in tqdm(smiles, desc=f"Reading {what}", unit=" rows", delay=5.0, leave=False):
        try:
            yield parse(text)
        except (TypeError, ValueError):
            yield None


def smiles_without_stereo(molecule: Molecule) -> str:
    """Canonical SMILES without marks of stereo; isotopes and charges stay.

    Hydrogens that RDKit keeps because a double bond's mark needs them become implicit, too.
    """
    flat = Chem.Mol(molecule)
    Chem.RemoveStereochemistry(flat)
    return Chem.MolToSmiles(Chem.RemoveHs(flat))


def similarities(molecules: Sequence[Molecule]) -> Iterator[np.ndarray]:
    """Each molecule's Tanimoto similarities to all of them, one row (molecules,) after the other.

    `|A ∩ B| / |A ∪ B|` over the bits of Morgan fingerprints of radius 2, 1,024 bits.
    """
    bits = _bits(molecules)
    for rows in _parts(bits, "Comparing"):
        yield from tanimoto(rows, bits)


def nearest_similarities(molecules: Sequence[Molecule], others: Iterable[Molecule]) -> np.ndarray:
    """Each molecule's largest such similarity to any of the others, at least one: (molecules,)."""
    reference = _bits(others)
    parts = [
        np.max([tanimoto(rows, some).max(axis=1) for some in _parts(reference)], axis=0)
        for rows in _parts(_bits(molecules), "Comparing")
    ]
    return np.concatenate(parts)


def _bits(molecules: Iterable[Molecule]) -> np.ndarray:
    rows = [_MORGAN.GetFingerprintAsNumPy(molecule) for molecule in molecules]
    return np.array(rows, np.uint8).reshape(-1, FINGERPRINT_BITS)


def _parts(bits: np.ndarray, what: str | None = None) -> Iterator[np.ndarray]:
    starts = range(0, len(bits), _TOGETHER)
    for start in tqdm(starts, desc=what, delay=5.0, leave=False, disable=what is None):
        yield bits[start : start + _TOGETHER]


def fragments(molecules: Iterable[Molecule]) -> Counter[str]:
    """How often each BRICS fragment occurs, by its SMILES with the numbered cuts."""
    counts: Counter[str] = Counter()
    for molecule in molecules:
        counts.update(Chem.MolToSmiles(Chem.FragmentOnBRICSBonds(molecule)).split("."))
    return counts


def scaffolds(molecules: Iterable[Molecule]) -> Counter[str]:
    """How many molecules have each Bemis-Murcko scaffold of two rings or more, by its SMILES."""
    counts: Counter[str] = Counter()
    for molecule in molecules:
        scaffold = MurckoScaffold.GetScaffoldForMol(molecule)
        if scaffold.GetRingInfo().NumRings() >= SCAFFOLD_RINGS:
            counts[Chem.MolToSmiles(scaffold)] += 1
    return counts


def passes_filters(molecule: Molecule) -> bool:
    """Whether a molecule passes the filters that `measures.moses_filters` tells of.

    The patterns are those that MOSES ships: RDKit's own catalogue of PAINS has since corrected 17
    of them and judges 13 of 15,000 molecules of ChEMBL otherwise.
    """
    if any(len(ring) > LARGEST_RING for ring in molecule.GetRingInfo().AtomRings()):
        return False
    for atom in molecule.GetAtoms():
        if atom.GetFormalCharge() or atom.GetAtomicNum() not in _ELEMENTS:
            return False
    return not _alerts().HasMatch(Chem.AddHs(molecule))


@cache
def _alerts() -> FilterCatalog.FilterCatalog:
    catalog = FilterCatalog.FilterCatalog()
    with open(_ALERTS, newline="") as file:
        for row in csv.DictReader(file):
            # Given as text, a pattern would have its hydrogens folded into the heavy atoms.
            pattern = Chem.MolFromSmarts(row["smarts"])
            matcher = FilterCatalog.SmartsMatcher(row["name"], pattern, 1)
            catalog.AddEntry(FilterCatalog.FilterCatalogEntry(row["name"], matcher))
    return catalog

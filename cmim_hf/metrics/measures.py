# SPDX-License-Identifier: Apache-2.0
"""What each metric computes, of molecules that are read already.

`molecules` are those predicted, at least one, `reference` are those of a set to compare with, of
any number. T is the Tanimoto similarity of Morgan fingerprints (radius 2, 1,024 bits).

Definitions are those of MOSES (Polykovskiy et al., Front. Pharmacol. 2020, 11, 565644; arXiv
1811.12823), values those of its package molsets 0.3.1; where these two differ, or ours from them,
the metric says so. `reconstruction` is not of MOSES.

The docstrings are the descriptions of the `evaluate` modules.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tqdm.auto import tqdm

from ..chemistry import moses
from ..chemistry.moses import Molecule
from ..chemistry.smiles import similarity
from ..chemistry.smiles import write as canonical_smiles


def validity(predictions: Sequence[Molecule | None]) -> dict[str, float]:
    """Validity: the share of predictions that are molecules, `valid / n`; higher is better.

    A string is a molecule if it is printable ASCII without spaces and RDKit reads it and finds its
    valences and aromatic rings in order; None and "" are none.

    Returns:
        validity: in [0, 1]; 0 if none is a molecule.
    """
    if not predictions:
        raise ValueError("predictions is empty; validity is a share of at least one string.")
    valid = len(predictions) - predictions.count(None)
    return {"validity": valid / len(predictions)}


def uniqueness(molecules: Sequence[Molecule], k: int | Sequence[int] = ()) -> dict[str, float]:
    """Uniqueness: the share of different molecules among the valid ones; higher is better.

    `|set(valid)| / |valid|` by canonical SMILES. uniqueness@k is the same over the first k of them,
    which makes lists of different lengths comparable.

    Returns:
        uniqueness: over all valid predictions, in (0, 1].
        uniqueness@<k>: over the first k valid predictions, for each k.
    """
    try:
        numbers = [operator.index(one) for one in ([k] if np.ndim(k) == 0 else k)]
    except TypeError:
        raise TypeError(f"k is an integer or a list of integers, got {k!r}.") from None
    smiles = [canonical_smiles(molecule) for molecule in molecules]
    result = {"uniqueness": len(set(smiles)) / len(smiles)}
    for first in numbers:
        if not 1 <= first <= len(smiles):
            raise ValueError(
                f"k is {first}, and {len(smiles)} predictions are molecules; uniqueness@k needs k "
                f"from 1 to {len(smiles)}."
            )
        result[f"uniqueness@{first}"] = len(set(smiles[:first])) / first
    return result


def novelty(molecules: Sequence[Molecule], reference: Iterable[Molecule]) -> dict[str, float]:
    """Novelty: the share of different molecules that a reference set does not hold.

    `|set(valid) - set(reference)| / |set(valid)|`, all by canonical SMILES (molsets 0.3.1 takes
    those of the reference as they are written). The reference is usually the training set. High
    values mean little copying, but random strings of atoms are novel, too.

    Returns:
        novelty: in [0, 1].
    """
    different = {canonical_smiles(molecule) for molecule in molecules}
    novel = different.difference(map(canonical_smiles, reference))
    return {"novelty": len(novel) / len(different)}


def reconstruction(
    predictions: Sequence[Molecule | None], references: Iterable[Molecule]
) -> dict[str, float]:
    """Reconstruction: how well predictions give back their references, pair by pair.

    The share of equal molecules by canonical SMILES, the same share with all marks of stereo
    removed from both, and the mean Tanimoto similarity of Morgan fingerprints (radius 2, 2,048
    bits, no stereo). Different writings of one molecule are equal. A prediction that is no molecule
    counts as different and with similarity 0. Higher is better.

    Returns:
        reconstruction: share of equal molecules, in [0, 1].
        reconstruction_without_stereo: without marks of stereo, in [0, 1], never below the former.
        reconstruction_tanimoto: mean similarity, in [0, 1].
    """
    pairs = []
    for one, other in zip(predictions, references, strict=True):
        if one is None:
            pairs.append((0.0, 0.0, 0.0))
            continue
        first, second = canonical_smiles(one), canonical_smiles(other)
        flat = moses.smiles_without_stereo(one) == moses.smiles_without_stereo(other)
        pairs.append((first == second, flat, similarity(first, second)))
    names = ("reconstruction", "reconstruction_without_stereo", "reconstruction_tanimoto")
    return dict(zip(names, np.mean(pairs, axis=0).tolist(), strict=True))


def internal_diversity(molecules: Sequence[Molecule]) -> dict[str, float]:
    """Internal diversity: one minus the average similarity in a set, each with itself included.

    `IntDiv_p = 1 - 1/n Σ_i (1/n Σ_j T(i, j)^p)^(1/p)` for p = 1 and 2. The root is taken for each
    molecule before averaging, as molsets 0.3.1 does; in the article it is taken once, of the
    average of all pairs (the same for p = 1). Higher means more diverse; repeats count as often as
    they occur.

    Returns:
        internal_diversity: p = 1, in [0, 1).
        internal_diversity_2: p = 2, in [0, 1), never above the former.
    """
    means = [
        (row.mean(), math.sqrt(np.square(row).mean())) for row in moses.similarities(molecules)
    ]
    first, second = (1 - np.mean(means, axis=0)).tolist()
    return {"internal_diversity": first, "internal_diversity_2": second}


def snn(molecules: Sequence[Molecule], reference: Iterable[Molecule]) -> dict[str, float]:
    """SNN: the mean similarity to the nearest neighbour in a reference set.

    `SNN = 1/n Σ_i max_j T(i, j)`. High values mean molecules like those of the reference; 1 if each
    is in it.

    Returns:
        snn: in [0, 1].
    """
    return {"snn": float(moses.nearest_similarities(molecules, reference).mean())}


def fragment_similarity(
    molecules: Sequence[Molecule], reference: Iterable[Molecule]
) -> dict[str, float]:
    """Fragment similarity: the cosine of two vectors of counts, `Σ_f a_f b_f / (‖a‖ ‖b‖)`.

    Counted is how often each fragment occurs in the molecules predicted and in a reference set.
    Fragments are what is left of a molecule cut at its BRICS bonds (Degen et al., ChemMedChem 2008,
    3, 1503), and the parts of a salt. 1 means the same proportions, 0 no fragment in common; higher
    is better.

    Returns:
        fragment_similarity: in [0, 1].
    """
    counts = moses.fragments(molecules), moses.fragments(reference)
    return {"fragment_similarity": _cosine(*counts, "fragments")}


def scaffold_similarity(
    molecules: Sequence[Molecule], reference: Iterable[Molecule]
) -> dict[str, float]:
    """Scaffold similarity: the cosine of two vectors of counts, `Σ_s a_s b_s / (‖a‖ ‖b‖)`.

    Counted is how many of the molecules predicted and of a reference set have each Bemis-Murcko
    scaffold, the rings and what links them (J. Med. Chem. 1996, 39, 2887). As in MOSES, scaffolds
    of fewer than two rings are not counted. 1 means the same proportions, 0 no scaffold in common;
    higher is better. Undefined, a ValueError, where a set has no such scaffold.

    Returns:
        scaffold_similarity: in [0, 1].
    """
    counts = moses.scaffolds(molecules), moses.scaffolds(reference)
    what = f"scaffolds of {moses.SCAFFOLD_RINGS} rings or more"
    return {"scaffold_similarity": _cosine(*counts, what)}


def moses_filters(molecules: Sequence[Molecule]) -> dict[str, float]:
    """Filters of MOSES: the share of molecules that pass the filters by which it chose its own.

    No ring of eight atoms or more, no charged atom, no element but H, C, N, O, F, S, Cl, Br, none
    of 22 medicinal chemistry alerts (MCF) and 480 pan-assay interference patterns (PAINS). Higher
    is better; about 4 ms a molecule.

    Returns:
        moses_filters: in [0, 1].
    """
    bar = tqdm(molecules, desc="Filtering", unit=" molecules", delay=5.0, leave=False)
    return {"moses_filters": sum(map(moses.passes_filters, bar)) / len(molecules)}


def _cosine(predicted: Mapping[str, int], reference: Mapping[str, int], what: str) -> float:
    sides = {"predictions": predicted, "reference_smiles": reference}
    if empty := [side for side, counts in sides.items() if not counts]:
        raise ValueError(
            f"The molecules of {' and '.join(empty)} have no {what}, so their similarity by these "
            "is not defined; give molecules that have some."
        )
    shared = sum(count * reference.get(key, 0) for key, count in predicted.items())
    norms = math.hypot(*predicted.values()) * math.hypot(*reference.values())
    return min(shared / norms, 1.0)

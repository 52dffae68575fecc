# SPDX-License-Identifier: Apache-2.0
"""Properties of molecules that cost little: what optimisation is tried and compared on.

Each takes one SMILES and returns a float; each raises TypeError and ValueError as
`smiles.parse` does. They may be called from several threads at once.
"""

from rdkit import Chem
from rdkit.Chem import QED, Crippen

from .smiles import parse

# Mean and std over ZINC-250k of logP, of -SA, and of -(atoms of the largest ring beyond 6).
_LOGP = (2.4570953396190123, 1.434324401111988)
_EASE = (-3.0525811293166134, 0.8335207024513095)
_RINGS = (-0.0485696876403053, 0.2860212110245455)


def qed(smiles: str) -> float:
    """Drug-likeness in [0, 1], higher is better (Bickerton et al. 2012, RDKit's mean weights)."""
    return QED.qed(parse(smiles))


def logp(smiles: str) -> float:
    """Logarithm of the octanol-water partition coefficient (Wildman and Crippen 1999)."""
    return Crippen.MolLogP(parse(smiles))


def sa_score(smiles: str) -> float:
    """Synthetic accessibility from 1, easy, to 10, hard (Ertl and Schuffenhauer 2009).

    Raises:
        ImportError: This RDKit came without its Contrib folder, which holds the score.
    """
    return difficulty(parse(smiles))


def penalized_logp(smiles: str) -> float:
    """Penalised logP, higher is better.

    z(logP) + z(-SA) + z(-R), with R = max(0, atoms of the largest ring - 6) and z(x) =
    (x - mean) / std, mean and std of ZINC-250k as in Kusner et al. 2017 (arXiv 1703.01925) and in
    the code of Jin et al. 2018 (arXiv 1802.04364).

    Rings are RDKit's (smallest ones), not of networkx's `cycle_basis` as in that code, which may
    take two fused rings for a large one: R differs for 1,181 of 244,455 molecules of ZINC-250k, for
    some by so much that this value is 28 higher. The best of ZINC is 4.52 by either.

    Raises:
        ImportError: As in `sa_score`.
    """
    molecule = parse(smiles)
    largest = max((len(ring) for ring in molecule.GetRingInfo().AtomRings()), default=0)
    parts = (
        (Crippen.MolLogP(molecule), _LOGP),
        (-difficulty(molecule), _EASE),
        (-max(0, largest - 6), _RINGS),
    )
    return sum((value - mean) / std for value, (mean, std) in parts)


def difficulty(molecule: Chem.Mol) -> float:
    """The `sa_score` of one of RDKit's molecules."""
    try:
        from rdkit.Contrib.SA_Score import sascorer
    except ImportError as error:
        raise ImportError(
            f"The SA score is in RDKit's Contrib folder, which this RDKit lacks ({error}). Install "
            "the wheel of PyPI: pip install rdkit"
        ) from error
    return sascorer.calculateScore(molecule)

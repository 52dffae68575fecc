# SPDX-License-Identifier: Apache-2.0
"""The parent of a molecule: its largest fragment, neutral, by RDKit's MolStandardize.

Saved beside fine-tuned weights, so that what predicts does as what trained did.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

STANDARDS = ("none", "parent")
"""What can be done to a molecule before it is written: nothing, or `parent`."""

# Metals whose bonds to these atoms are those of a salt, unless they hold carbon too.
_SALT = "[Li,Na,K,Rb,Cs,Mg,Ca,Sr,Ba;!$(*~[#6])]~[#7,#8,#16,F,Cl,Br,I]"
_MOST_WORK = 500_000  # the time of RDKit's normalisation grows so; about 3 s


def parent(molecule: Any) -> Any:
    """The largest fragment of one of RDKit's molecules, neutral as far as it can be.

    In this order, each by RDKit's MolStandardize:

    1. `MetalDisconnector`, for alkali and alkaline earth metals alone: `CC(=O)O[Na]` is a salt,
       while the bonds of cisplatin or a Grignard reagent stay.
    2. `Normalizer`: one writing of sulfoxides (`[S+][O-]`), charges brought together.
    3. `Reionizer`: of several acids the strongest is the ion.
    4. `LargestFragmentChooser`: most atoms, hydrogens included, then mass; one with carbon first.
    5. `Uncharger`: protons are added or taken away. What has none to give keeps its charge
       (quaternary nitrogen), and where an acid's ion balances that, so does the ion (betaine).

    Isotopes, stereo marks, dummy atoms and tautomers stay as they are. A salt with no organic part
    gives its largest ion, neutral if it can be (`[Na+].[Cl-]` gives `Cl`), and a complex that is
    written as separate ions its largest one, so that the metal is lost.

    Raises:
        ValueError: So many charges and sulfoxides that it would take RDKit long, or RDKit's own
            reason why what comes out is no molecule.
    """
    atoms = molecule.GetAtoms()
    number, sites = len(atoms), sum(map(_normalised, atoms))
    if number * sites**2 > _MOST_WORK:
        raise ValueError(f"{sites} charges and sulfoxides in {number} atoms are too many")
    for step in _steps():
        molecule = step(molecule)
    return molecule


def _normalised(atom: Any) -> bool:
    """Whether an atom may be one that RDKit's normalisation rewrites."""
    of_oxides = atom.GetDegree() == 3 and atom.GetSymbol() in ("S", "P", "As", "Sb")
    return of_oxides or atom.GetFormalCharge() != 0


@cache
def _steps() -> tuple[Callable[[Any], Any], ...]:
    try:
        from rdkit import Chem
        from rdkit.Chem.MolStandardize import rdMolStandardize
    except ImportError as error:  # what is not tried, transformers demands before it opens a model
        raise ImportError("The parent of a molecule needs RDKit: pip install rdkit") from error

    salts = Chem.MolFromSmarts(_SALT)
    metals = rdMolStandardize.MetalDisconnector()
    metals.SetMetalNof(salts)
    metals.SetMetalNon(salts)
    organic_first = rdMolStandardize.CleanupParameters()
    organic_first.preferOrganic = True

    def checked(molecule: Any) -> Any:
        Chem.SanitizeMol(molecule)
        Chem.AssignStereochemistry(molecule, cleanIt=True, force=True)
        return molecule

    return (
        metals.Disconnect,
        rdMolStandardize.Normalizer().normalize,
        rdMolStandardize.Reionizer().reionize,
        rdMolStandardize.LargestFragmentChooser(organic_first).choose,
        rdMolStandardize.Uncharger().uncharge,
        checked,
    )

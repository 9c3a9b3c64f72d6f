"""What molecules are worth, with TRL's signature: SMILES in, a number in [0, 1] for each out. Needs rdkit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from rdkit import Chem, DataStructs, RDLogger
from rdkit.Chem import QED
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from trl_nlpo.errors import UserError
from trl_nlpo.rewards import get_reward


# It would print two lines for every text that is no molecule.
RDLogger.DisableLog("rdApp.*")

CELECOXIB = "CC1=CC=C(C=C1)C1=CC(=NN1C1=CC=C(C=C1)S(N)(=O)=O)C(F)(F)F"


def molecule(smiles: str) -> Chem.Mol | None:
    """What a SMILES says, or None where it says nothing: no atoms, wrong syntax, impossible valences."""
    found = Chem.MolFromSmiles(smiles)
    return found if found is not None and found.GetNumAtoms() else None


def canonical(smiles: str) -> str | None:
    """The one SMILES of a molecule, however it was written; None for none."""
    found = molecule(smiles)
    return None if found is None else Chem.MolToSmiles(found)


def scaffold(smiles: str) -> str | None:
    """The rings of a molecule and what links them (Bemis & Murcko 1996); "" where it has no ring, None for none."""
    found = molecule(smiles)
    return None if found is None else MurckoScaffold.MurckoScaffoldSmiles(mol=found)


def valid(completions: list[str], **_: Any) -> list[float]:
    """1 for a molecule, 0 for any other text."""
    return [float(molecule(smiles) is not None) for smiles in completions]


def qed(completions: list[str], **_: Any) -> list[float]:
    """Drug-likeness (Bickerton et al. 2012); 0 for what is no molecule."""
    molecules = [molecule(smiles) for smiles in completions]
    return [0.0 if found is None else float(QED.qed(found)) for found in molecules]


class Similarity:
    """Tanimoto similarity to a molecule: the bits of both fingerprints (Morgan, radius 2) by the bits of either.

    Args:
        target (`str`, defaults to celecoxib): SMILES.

    Raises:
        UserError: the target is no molecule.
    """

    __name__ = "similarity"

    def __init__(self, target: str = CELECOXIB):
        found = molecule(target)
        if found is None:
            raise UserError(f"target {target!r} is no molecule: write a SMILES.")
        self._generator = GetMorganGenerator(radius=2, fpSize=2048)
        self._target = self._generator.GetFingerprint(found)

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        molecules = [molecule(smiles) for smiles in completions]
        return [0.0 if found is None else self._similarity(found) for found in molecules]

    def _similarity(self, found: Chem.Mol) -> float:
        return float(DataStructs.TanimotoSimilarity(self._generator.GetFingerprint(found), self._target))


class DiversityMemory:
    """A reward that is paid for a molecule a few times and for a scaffold some times more, and then is 0.

    REINVENT's diversity filter over identical Murcko scaffolds (Blaschke et al. 2020). Without it a generator that has
    found one good molecule may write nothing else. All that a reward above 0 was paid for is counted, in the order of
    the calls, in evaluations too.

    Args:
        reward (`Callable` or `str`): a reward function, or the name of one as a recipe writes it.
        molecule_limit (`int`): how often a molecule is rewarded, however it is written.
        scaffold_limit (`int`): how many rewards the molecules of one scaffold get together.
    """

    def __init__(self, reward: Callable[..., list[float]] | str, molecule_limit: int = 1, scaffold_limit: int = 25):
        self._reward: Callable[..., list[Any]] = get_reward(reward) if isinstance(reward, str) else reward
        self.__name__ = f"{getattr(self._reward, '__name__', 'reward')}_of_new"
        self._limits = molecule_limit, scaffold_limit
        self.molecules: Counter[str | None] = Counter()
        self.scaffolds: Counter[str | None] = Counter()

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        scores = self._reward(completions=completions, **columns)
        return [self._paid(smiles, score) for smiles, score in zip(completions, scores, strict=True)]

    def _paid(self, smiles: str, score: float) -> float:
        if score <= 0.0:
            return score
        whole, frame = canonical(smiles), scaffold(smiles)
        if self.molecules[whole] >= self._limits[0] or self.scaffolds[frame] >= self._limits[1]:
            return 0.0
        self.molecules[whole] += 1
        self.scaffolds[frame] += 1
        return score

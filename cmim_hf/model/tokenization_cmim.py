# SPDX-License-Identifier: Apache-2.0
r"""Atom-level SMILES tokenizer, trained into a plain fast tokenizer.

A trained tokenizer holds nothing but a `tokenizers` Unigram model, a template that appends `</s>`
and a decoder that joins tokens with nothing, so `AutoTokenizer` loads it without remote code.
A SMILES x is cut into the tokens of highest total score among all t_1 t_2 ... t_n = x:

| token                                                    | score                    |
|----------------------------------------------------------|--------------------------|
| an atom, bond, ring closure, branch, or a run of these   | -2 ** 26 - id            |
| a character that is none of them by itself (`l`, `[`)    | -100 * 2 ** 26           |
| `<pad>`, `<s>`, `</s>`, `<unk>`                          | -10000 * 2 ** 26         |

The best cut has the fewest tokens (below 2 ** 26 / vocabulary size of them), and a tie goes to the
smaller sum of ids. Saving tokens never pays for breaking an atom in the vocabulary: a run spans at
most 12 atoms, so undoing the two that may overlap it costs less than the 100 of one character.
Scores are whole numbers, so that their sums, and hence ties, are exact, and so is a saved file.

Every printable ASCII character except the space is a token, hence no string of them holds an
unknown, and its tokens joined give it back. A bracket atom outside the vocabulary falls apart into
characters. A string that spells a special token (`<pad>`) is text, because the tokenizer is saved
with `split_special_tokens=True`. That flag lives in `tokenizer_config.json`: after
`tokenizers.Tokenizer.from_file("tokenizer.json")` alone, set `encode_special_tokens = True`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from .smiles_text_cmim import text_problem, without_extension

CMIMTokenizer = PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")

_CHARACTERS = tuple(map(chr, range(ord("!"), ord("~") + 1)))
_SMILES_CHARACTERS = frozenset("BCNOPSFIbcnops*0123456789()=#$-/\\.:~>")
_ALWAYS_WHOLE = ("Cl", "Br", "@@")
_ATOM = re.compile(r"\[[^\[\]]{1,24}\]|Br|Cl|%\d\d|@@|.")
_RING_CLOSURE_OR_BRACKET = re.compile(r"[\[%].+")

_MAX_ATOMS_PER_TOKEN = 12
_TOKEN_COST = 2.0**26
_CHARACTER_COST = 100 * _TOKEN_COST
_SPECIAL_COST = 10_000 * _TOKEN_COST
_FIRST_PRIVATE_CHARACTER = 0xF0000
_DEFAULT_FILE = Path(__file__).with_name("default_tokenizer.json")


def train_tokenizer(
    smiles: Iterable[str],
    *,
    merges: int = 0,
    min_frequency: int = 2,
    max_length: int = 512,
) -> CMIMTokenizer:
    """Learns a vocabulary from SMILES and returns a tokenizer that appends `</s>`.

    The ids are those of the four special tokens (0 to 3), of the 94 printable characters (4 to 97),
    of `Cl`, `Br` and `@@`, of the bracket atoms and ring closures above 9 from the most to the
    least frequent, then of the multi-atom tokens in the order in which byte-pair encoding over
    whole atoms (Sennrich et al., 2016, arXiv 1508.07909) finds them. The same SMILES give the same
    ids.

    Args:
        smiles: Read once, and held in memory only if there are merges to learn.
        merges: The number of multi-atom tokens to learn, of at most 12 atoms each. Fewer result
            when no pair of tokens is left that occurs `min_frequency` times.
        min_frequency: Bracket atoms and ring closures above 9 seen fewer times fall apart into
            characters.
        max_length: The tokenizer's `model_max_length`, in tokens. Nothing is cut unless asked.

    Raises:
        TypeError: If a row is not a string, or all is one.
        ValueError: If a row is empty or holds anything but printable ASCII without spaces; if there
            are no rows; if a number is out of range.
    """
    _check_at_least("merges", merges, 0)
    _check_at_least("min_frequency", min_frequency, 1)
    if isinstance(smiles, str):
        raise TypeError(f"expected a list of SMILES to train on, got the text {smiles!r:.80}")
    rows = _checked_rows(smiles)
    if merges:
        rows = list(rows)
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(_ATOM.findall(row))
    if not counts:
        raise ValueError(f"expected SMILES to train on, got none from {type(smiles).__name__}")
    atoms = _multi_character_atoms(counts, min_frequency)
    learned = _learn_merges(rows, atoms, merges, min_frequency) if merges else []
    return _as_transformers(_backend([*atoms, *learned]), max_length)


def default_tokenizer(max_length: int = 512) -> CMIMTokenizer:
    """Returns the atom-level tokenizer whose vocabulary ships with the package.

    It holds whole the bracket atoms that samples of ZINC, ChEMBL and QM9 show at least twice,
    common stereo centres, charges, isotopes, salts and metals, and the ring closures %10 to %29.

    Args:
        max_length: The tokenizer's `model_max_length`, in tokens. Nothing is cut unless asked.

    Raises:
        ValueError: If `max_length` leaves no room for a token and `</s>`.
    """
    return _as_transformers(Tokenizer.from_file(str(_DEFAULT_FILE)), max_length)


def _check_at_least(name: str, value: int, floor: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < floor:
        raise ValueError(f"expected `{name}` to be an integer of at least {floor}, got {value!r}")


def _checked_rows(rows: Iterable[str]) -> Iterator[str]:
    for index, row in enumerate(map(without_extension, rows)):
        if problem := text_problem(row):
            kind, reason = problem
            raise (TypeError if kind == "not text" else ValueError)(
                f"expected a SMILES string of printable ASCII without spaces in row {index}, got "
                f"{row!r}: {reason}; drop the row, or strip names and other columns from it"
            )
        yield row


def _multi_character_atoms(counts: Counter[str], min_frequency: int) -> list[str]:
    frequent = [
        atom
        for atom, count in counts.items()
        if count >= min_frequency and _RING_CLOSURE_OR_BRACKET.fullmatch(atom)
    ]
    return [*_ALWAYS_WHOLE, *sorted(frequent, key=lambda atom: (-counts[atom], atom))]


def _learn_merges(
    rows: Iterable[str], atoms: list[str], merges: int, min_frequency: int
) -> list[str]:
    """Runs byte-pair encoding on SMILES in which each atom is one private-use character."""
    mergeable = [*sorted(_SMILES_CHARACTERS), *(atom for atom in atoms if atom != "@@")]
    symbols = {atom: chr(_FIRST_PRIVATE_CHARACTER + i) for i, atom in enumerate(mergeable)}
    backend = Tokenizer(models.BPE())
    # What falls apart becomes a space: no run of atoms may reach across it.
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=len(symbols) + merges,
        min_frequency=min_frequency,
        initial_alphabet=list(symbols.values()),
        max_token_length=_MAX_ATOMS_PER_TOKEN,
        show_progress=False,
    )
    spelled = ("".join(symbols.get(atom, " ") for atom in _ATOM.findall(row)) for row in rows)
    backend.train_from_iterator(spelled, trainer)
    ids = backend.get_vocab()
    atom_of = {symbol: atom for atom, symbol in symbols.items()}
    runs = sorted((token for token in ids if len(token) > 1), key=ids.__getitem__)
    return ["".join(atom_of[symbol] for symbol in run) for run in runs]


def _backend(whole_tokens: list[str]) -> Tokenizer:
    vocabulary = [(token, -_SPECIAL_COST) for token in SPECIAL_TOKENS]
    for token in (*_CHARACTERS, *whole_tokens):
        is_whole = len(token) > 1 or token in _SMILES_CHARACTERS
        cost = _TOKEN_COST + len(vocabulary) if is_whole else _CHARACTER_COST
        vocabulary.append((token, -cost))
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=SPECIAL_TOKENS.index("<unk>")))
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>",
        pair="$A </s> $B </s>",
        special_tokens=[("</s>", SPECIAL_TOKENS.index("</s>"))],
    )
    return backend


def _as_transformers(backend: Tokenizer, max_length: int) -> CMIMTokenizer:
    _check_at_least("max_length", max_length, 2)
    pad, bos, eos, unk = SPECIAL_TOKENS
    return CMIMTokenizer(
        tokenizer_object=backend,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        padding_side="right",
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )

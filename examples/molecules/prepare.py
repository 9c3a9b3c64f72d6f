"""MOSES molecules as the data of a recipe, and a small Llama with random weights that reads them atom by atom.

    pip install --no-deps molsets
    python prepare.py data --rows 50000

writes into the folder `data` `train.jsonl`, `validation.jsonl` and `test.jsonl` (an empty prompt, a SMILES as
its reference) and the model and its tokenizer in `start/`. Of the package molsets, whose code needs libraries of 2020,
only the data files are read.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trl_nlpo.errors import UserError
from trl_nlpo.models.from_scratch import BOS, EOS, PAD, build_model


TOKEN = r"\[[^\]]*\]|Br|Cl|%\d\d|."
"""A bracketed atom, an element of two letters, a ring number of two digits, or any one character."""
UNKNOWN = "<unk>"
HELD_OUT = 200


def moses_smiles(split: str) -> list[str]:
    """The SMILES of a split of MOSES, `"train"` (1.58 million) or `"test"` (176 thousand), in the package's order.

    Raises:
        UserError: the package molsets is not installed.
    """
    try:
        found = distribution("molsets").locate_file(f"moses/dataset/data/{split}.csv.gz")
    except PackageNotFoundError:
        raise UserError("The molecules are those of the package molsets: pip install --no-deps molsets") from None
    with gzip.open(str(found), "rt", encoding="ascii", newline="") as file:
        return [row["SMILES"] for row in csv.DictReader(file)]


def smiles_tokenizer(smiles: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are those of some molecules, and whose texts are SMILES again.

    Args:
        smiles: what the vocabulary is read off; other tokens become `<unk>`.
    """
    tokens = sorted({token for text in smiles for token in re.findall(TOKEN, text)})
    vocabulary = {token: number for number, token in enumerate([PAD, BOS, EOS, UNKNOWN, *tokens])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def write_rows(path: Path, smiles: Iterable[str]) -> None:
    """One row per molecule; the model starts an empty prompt from its BOS token."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": "", "references": [text]}) + "\n" for text in smiles)


def prepare(out: Path, rows: int, hidden_size: int, layers: int, seed: int) -> None:
    """Write data and model.

    Args:
        out (`Path`): the folder.
        rows (`int`): molecules to train on, drawn from MOSES' train split.
        hidden_size, layers (`int`): of the model.
        seed (`int`): decides the molecules and the weights.

    Raises:
        UserError: the package molsets is not installed.
    """
    drawn = random.Random(seed)
    train = drawn.sample(moses_smiles("train"), rows)
    held_out = drawn.sample(moses_smiles("test"), 2 * HELD_OUT)
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "train.jsonl", train)
    write_rows(out / "validation.jsonl", held_out[:HELD_OUT])
    write_rows(out / "test.jsonl", held_out[HELD_OUT:])
    tokenizer = smiles_tokenizer(train)
    torch.manual_seed(seed)
    model = build_model(tokenizer, "llama", hidden_size, layers, 4, max_position_embeddings=128)
    model.save_pretrained(out / "start")
    tokenizer.save_pretrained(out / "start")
    print(f"{rows:,} molecules, {len(tokenizer)} tokens, {model.num_parameters():,} weights: {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        prepare(arguments.out, arguments.rows, arguments.hidden_size, arguments.layers, arguments.seed)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

"""Two steps of the old loop, by TRL 0.11 or by ours: `python old_loop.py FOLDER` where TRL 0.11 is.

FOLDER has `model` (a causal model), `head.pt` (the value head's two tensors), `reference` and `case.json`; the
statistics that it names and the final weights are written to `found.pt`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast


def run(folder: Path, old: Any) -> None:
    """`old` is the module that has the old names."""
    case = json.loads((folder / "case.json").read_text())
    model = old.AutoModelForCausalLMWithValueHead.from_pretrained(str(folder / "model"))
    reference = old.AutoModelForCausalLMWithValueHead.from_pretrained(str(folder / "reference"))
    head = torch.load(folder / "head.pt")
    for subject in (model, reference):
        for module in subject.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    with torch.no_grad():
        for parameter, value in zip(model.v_head.parameters(), head, strict=True):
            parameter.copy_(value)
    # By its file, as the two versions of transformers do not know each other's classes.
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "model" / "tokenizer.json"), pad_token="<pad>")
    optimizer = torch.optim.SGD(model.parameters(), lr=case["learning_rate"])
    trainer = old.PPOTrainer(old.PPOConfig(**case["settings"]), model, reference, tokenizer, optimizer=optimizer)
    steps = []
    for rows in case["steps"]:
        queries, responses = ([torch.tensor(ids) for ids in rows[name]] for name in ("queries", "responses"))
        stats = trainer.step(queries, responses, [torch.tensor(score) for score in rows["scores"]])
        steps.append({name: float(stats[name]) for name in case["names"]})
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    torch.save({"steps": steps, "weights": weights, "kl_coef": float(trainer.kl_ctl.value)}, folder / "found.pt")


if __name__ == "__main__":
    import trl

    run(Path(sys.argv[1]), trl)

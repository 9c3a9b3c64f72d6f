"""What an update costs: operations and bytes by a formula, which is held against counted ones, and 7B as an estimate.

    python benchmarks/costs.py --check --layers 4 --hidden 128    # counts the operations of real updates, beside it
    python benchmarks/costs.py --estimate    # a model of 7B on 8 and 64 GPUs, by the formula and the rates given

docs/costs.md explains both and has the figures.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Model:
    """A decoder.

    Attributes:
        weights (`float`): of all layers, without embeddings and output layer.
        layers, hidden, vocabulary (`int`)
        key_value (`int`): width of a layer's keys, which is that of its values too.
    """

    weights: float
    layers: int
    hidden: int
    vocabulary: int
    key_value: int


@dataclass(frozen=True)
class Update:
    """An update of the policy.

    Attributes:
        completions (`int`), prompt (`float`), response (`float`): how many, and their tokens in the mean.
        passes (`int`): over the batch (`num_ppo_epochs`).
        old_mask (`bool`): whether a masking policy of its own is asked at every token.
        lora (`bool`): whether gradients of weights are of adapters only.
        checkpointing (`bool`): whether activations are computed twice.
    """

    completions: int
    prompt: float
    response: float
    passes: int
    old_mask: bool = False
    lora: bool = False
    checkpointing: bool = False


def forward(model: Model, update: Update) -> tuple[float, float]:
    """Operations of a pass over all tokens: of the layers, and of the output layer, which reads completions only.

    Two for each weight and token; attention's two products take 4 x hidden x half of the context for each layer.
    """
    length = update.prompt + update.response
    tokens = update.completions * length
    of_layers = 2 * model.weights * tokens + 4 * model.layers * model.hidden * tokens * length / 2
    return of_layers, 2 * model.hidden * model.vocabulary * update.completions * update.response


def operations(model: Model, update: Update) -> dict[str, float]:
    """Operations of an update with a value head, by what they are for; under LoRA the value function is an adapter
    with passes of its own."""
    layers, output = forward(model, update)
    # Gradients of activations cost a pass, and those of weights another one.
    backward = 1 if update.lora else 2
    return {
        "rollout": (2 if update.old_mask else 1) * (layers + output),
        # Old log-probabilities of the policy and of the reference.
        "evaluation": (3 if update.lora else 2) * layers + 2 * output,
        # The output layer is not kept: its logits are computed again in its backward pass.
        "training": update.passes
        * ((2 if update.lora else 1) * (1 + backward + update.checkpointing) * layers + (2 + backward) * output),
    }


GIB = 2**30


def bytes_per_gpu(model: Model, update: Update, gpus: int, microbatch: int) -> dict[str, float]:
    """Bytes on each GPU in bf16 with LoRA (rank 16 on all linear layers) and DDP, by what they are for."""
    length = update.prompt + update.response
    parameters = model.weights + 2 * model.hidden * model.vocabulary
    # A weight matrix of d x d has d^2 weights and an adapter of it 2 x 16 x d.
    adapter = model.weights * 2 * 16 / model.hidden
    rows = update.completions / gpus
    cache = 2 * model.layers * model.key_value * 2 * rows * length
    return {
        "base model, bf16": 2 * parameters,
        "two adapters: float32 weights, gradients, Adam": 2 * 16 * adapter,
        "caches of a rollout": (2 if update.old_mask else 1) * cache,
        "activations between layers": microbatch * length * model.layers * model.hidden * 2,
        "one layer's, computed again": microbatch * length * model.hidden * 34 * 2,
    }


LLAMA_7B = Model(weights=6.48e9, layers=32, hidden=4096, vocabulary=32_000, key_value=4096)
H100 = {"rate": 989e12, "share": 0.4, "bandwidth": 3.35e12, "overhead": 0.03}
"""Peak of bf16, the share of it that training is assumed to reach, bytes a second, and seconds of Python a token."""


def estimate(model: Model, update: Update, gpus: int) -> dict[str, float]:
    """Seconds of an update. Decoding reads all weights for each token and has overhead; the rest is products."""
    counted = operations(model, update)
    rate = gpus * H100["rate"] * H100["share"]
    step = 2 * (model.weights + model.hidden * model.vocabulary) / H100["bandwidth"] + H100["overhead"]
    return {
        "rollout": (2 if update.old_mask else 1) * update.response * step,
        "evaluation": counted["evaluation"] / rate,
        "training": counted["training"] / rate,
    }


def print_estimates() -> None:
    base = Update(512, 512, 512, passes=2, lora=True, checkpointing=True)
    for gpus in (8, 64):
        for name, update in (("PPO", base), ("NLPO, old mask", replace(base, old_mask=True))):
            seconds = estimate(LLAMA_7B, update, gpus)
            shown = ", ".join(f"{part} {value:.1f} s" for part, value in seconds.items())
            print(f"{gpus} GPUs, {name}: {sum(seconds.values()):.0f} s an update ({shown})")
            for part, value in bytes_per_gpu(LLAMA_7B, update, gpus, microbatch=min(8, 512 // gpus)).items():
                print(f"    {part:45s} {value / GIB:6.1f} GiB")


def print_check(sizes: list[str]) -> None:
    """The table of `--check`; `sizes` are words for `update_time.py`."""
    import sys

    import update_time

    sys.argv = ["update_time.py", *sizes]
    print(f"{'':46s} {'counted':>9s} {'formula':>9s} {'ratio':>6s}   (GFLOP)")
    for changes in ({}, {"batch": 2}, {"response": 2}, {"vocabulary": 2}):
        args = update_time.parse()
        for name, factor in changes.items():
            setattr(args, name, factor * getattr(args, name))
        model = Model(12 * args.layers * args.hidden**2, args.layers, args.hidden, args.vocabulary, args.hidden)
        update = Update(args.batch, args.prompt * 0.75, args.response, passes=4, lora=args.lora)
        workload = update_time.Workload(args)
        for name, settings in (("PPO", {"mask_strategy": "none"}), ("NLPO, old mask", {"mask_sync_steps": None})):

            def run(updates: int, chosen: dict = settings) -> float:
                return update_time.nlpo_seconds(workload, False, chosen, updates)  # noqa: B023 (called here)

            counted = (update_time.operations(run, 3) - update_time.operations(run, 1)) / 2
            expected = sum(operations(model, replace(update, old_mask="old" in name)).values())
            size = f"{args.batch} x {args.response} tokens, V {args.vocabulary:,}, {name}"
            print(f"{size:46s} {counted / 1e9:9.1f} {expected / 1e9:9.1f} {counted / expected:6.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--estimate", action="store_true")
    arguments, sizes = parser.parse_known_args()
    if arguments.check:
        print_check(sizes)
    if arguments.estimate or not arguments.check:
        print_estimates()


if __name__ == "__main__":
    main()

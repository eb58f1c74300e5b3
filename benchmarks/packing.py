"""Training step of the encoder with global and local views in one sequence, beside one pass for each size.

Run: .venv/bin/python benchmarks/packing.py [--arch vit_small] [--batch 8] [--rounds 3]
     [--precision fp32,bf16] [--json FILE]

Packed: the tokens of all views go through norms, projections and MLPs as one matrix, and each view attends to its own
tokens (block-diagonal attention). Separate: global and local views go through the encoder one after the other, as
`gtsa train` does. Both compute the same values. A round runs each of them forward and backward, in turn; the CPU
seconds of all threads are compared, which other processes disturb less than wall time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from gtsa_kit.config import load_config
from gtsa_kit.files import write_json
from gtsa_kit.models.encoder import Encoder

ViewTokens = list[Tensor]
"""Tokens (N, T, D) of the views of each size."""


def main() -> None:
    """Check that both compute the same, time them, print the table, and write the results."""
    args = parse_arguments()
    encoder, views = Encoder(args.arch).train(), make_tokens(args)
    blocks: nn.ModuleList = encoder.vit.blocks
    for one, other in zip(separate(blocks, views), packed(blocks, views), strict=True):
        assert torch.allclose(one, other, atol=1e-4), "the two ways differ"
    rows = [row for precision in args.precision.split(",") for row in measure(blocks, views, precision, args.rounds)]
    Console().print(as_table(rows))
    if args.json:
        write_json(args.json, {"settings": {key: str(value) for key, value in vars(args).items()}, "rows": rows})


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--batch", type=int, default=8, help="images in a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32,bf16", help="fp32 and bf16 (autocast), by commas")
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser.parse_args()


def make_tokens(args: argparse.Namespace) -> ViewTokens:
    """Return random tokens of the global and local views of the preset of the paper."""
    crops, architecture = load_config().views, Encoder(args.arch).architecture
    sizes = ((crops.global_crops, crops.global_size), (crops.local_crops, crops.local_size))
    return [
        torch.randn(args.batch * count, 1 + (side // architecture.patch) ** 2, architecture.width)
        for count, side in sizes
    ]


def separate(blocks: nn.ModuleList, views: ViewTokens) -> ViewTokens:
    """Run the blocks on the views of each size alone."""
    return [run_blocks(blocks, [tokens])[0] for tokens in views]


def packed(blocks: nn.ModuleList, views: ViewTokens) -> ViewTokens:
    """Run the blocks on the views of all sizes together."""
    return run_blocks(blocks, views)


def run_blocks(blocks: nn.ModuleList, views: ViewTokens) -> ViewTokens:
    """Run the blocks on one matrix of all tokens; attention stays within a view."""
    rows = torch.cat([tokens.flatten(0, 1) for tokens in views])  # (tokens of all views, D)
    counts = [tokens.shape[0] * tokens.shape[1] for tokens in views]
    for block in blocks:
        attention = block.attn
        split = attention.qkv(block.norm1(rows)).split(counts)
        mixed = [attend(part, tokens.shape, attention.num_heads) for part, tokens in zip(split, views, strict=True)]
        rows = rows + attention.proj(torch.cat(mixed))
        rows = rows + block.mlp(block.norm2(rows))
    return [part.view(tokens.shape) for part, tokens in zip(rows.split(counts), views, strict=True)]


def attend(qkv: Tensor, shape: torch.Size, heads: int) -> Tensor:
    """Return attention (N * T, D) within each of N views, of their queries, keys and values (N * T, 3 D)."""
    q, k, v = qkv.view(*shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) if qkv.dtype == torch.bfloat16 else None
    # In bf16, gtsa train does not use the fused kernel on a CPU either.
    mixed = weights @ v if weights is not None else F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).reshape(shape[0] * shape[1], shape[2])


def measure(
    blocks: nn.ModuleList, views: ViewTokens, precision: str, rounds: int
) -> list[dict[str, str | float | list[float]]]:
    """Return the CPU seconds of forward and backward of both ways, by round."""
    ways: dict[str, Callable[[nn.ModuleList, ViewTokens], ViewTokens]] = {"separate": separate, "packed": packed}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begin = time.process_time()
            with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
                outputs = way(blocks, views)
            sum(output.float().square().mean() for output in outputs).backward()  # type: ignore[union-attr]
            if number:  # the first one allocates
                seconds[name].append(time.process_time() - begin)
    return [{"precision": precision, "way": name, "cpu_seconds": values} for name, values in seconds.items()]


def as_table(rows: list[dict[str, str | float | list[float]]]) -> Table:
    """Build the table: medians, and their ratio to the separate passes."""
    table = Table("precision", "views", "CPU s", "beside separate", title="blocks, forward and backward", box=None)
    first = 0.0
    for row in rows:
        median = statistics.median(row["cpu_seconds"])  # type: ignore[arg-type, type-var]
        first = median if row["way"] == "separate" else first  # type: ignore[assignment]
        table.add_row(str(row["precision"]), str(row["way"]), f"{median:.2f}", f"{median / first:.3f}")  # type: ignore[operator]
    return table


if __name__ == "__main__":
    main()

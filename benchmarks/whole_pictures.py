"""Bicubic scaling judged as networks are, beside the figures that papers give for it.

    python benchmarks/whole_pictures.py ../shared/data/super_resolution

For each of Set5, Set14 and BSD100 and the scales 2, 3 and 4: PSNR and SSIM of Y of bicubic scaling with Pillow's kernel
as ``netgraft.tasks`` judges it over whole pictures; what is published (Lim et al., "Enhanced Deep Residual Networks for
Single Image Super-Resolution", CVPRW 2017, table 2, first column); and PSNR over pieces of 24 x 24 enlarged, which is
how networks are judged that take no other size.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from netgraft import tasks
from netgraft.tasks import Task, evaluate

PUBLISHED = {
    "set5": {2: (33.66, 0.9299), 3: (30.39, 0.8682), 4: (28.42, 0.8104)},
    "set14": {2: (30.24, 0.8688), 3: (27.55, 0.7742), 4: (26.00, 0.7027)},
    "bsd100": {2: (29.56, 0.8431), 3: (27.21, 0.7385), 4: (25.96, 0.6675)},
}


class Bicubic(nn.Module):
    """Enlarges pictures by a whole number."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = float(scale)

    def forward(self, x: Tensor) -> Tensor:
        """The enlarged pictures."""
        return F.interpolate(x, scale_factor=self.scale, mode="bicubic", antialias=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with t91, set5, set14 and bsd100.parquet")
    options = parser.parse_args()
    print("| pictures | scale | PSNR, whole | published | SSIM, whole | published | PSNR, pieces |")
    print("|---|---|---|---|---|---|---|")
    for name, scales in PUBLISHED.items():
        spec = f"{options.data / 't91.parquet'},{options.data / f'{name}.parquet'}"
        for scale, (ratio, similarity) in scales.items():
            task = partial(tasks.super_resolution, spec, (3, 24, 24), (3, 24 * scale, 24 * scale), subset=5)

            def judged(task: Task, scale: int = scale) -> float:
                return evaluate(Bicubic(scale), task, "test").quality

            whole, alike, pieces = judged(task(step=1)), judged(task("ssim", step=1)), judged(task())
            cells = (f"{whole:.2f}", f"{ratio:.2f}", f"{alike / 100:.4f}", f"{similarity:.4f}", f"{pieces:.2f}")
            print(f"| {name} | {scale} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

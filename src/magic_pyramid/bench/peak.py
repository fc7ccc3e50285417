"""The machine's measured fp32 peak: the fastest large matrix product that its libraries reach."""

import time
from collections.abc import Callable
from typing import Any

SIZES = (1024, 2048)
REPEATS = 4


def measured_peak(threads: int) -> dict[str, Any]:
    """Best GFLOP/s of square products in numpy and PyTorch, a multiply-add being two FLOPs."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    generator = np.random.default_rng(0)
    best: dict[str, Any] = {"gflops_per_s": 0.0}
    for size in SIZES:
        left, right = (generator.standard_normal((size, size), dtype=np.float32) for _ in range(2))
        tensors = torch.from_numpy(left), torch.from_numpy(right)
        products: dict[str, Callable[[], object]] = {
            "numpy": lambda left=left, right=right: left @ right,  # type: ignore[misc]
            "torch": lambda tensors=tensors: tensors[0] @ tensors[1],  # type: ignore[misc]
        }
        for library, multiply in products.items():
            speed = 2 * size**3 / _fastest(multiply) / 1e9
            if speed > best["gflops_per_s"]:
                best = {"gflops_per_s": speed, "library": library, "size": size}
    return best


def _fastest(multiply: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        started_s = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)

"""Runs every CUDA kernel on odd shapes, compiled for the host with address and undefined-behaviour sanitizers.

A program of its own, since a sanitizer must be loaded before Python: `python cuda_sanitized.py CACHE [OLD NEW]`.
OLD becomes NEW in the kernels' source: a planted fault.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from cuda_checks import beside_naive, everything
from host_cupy import SANITIZERS, HostCupy, above
from tinycnn.kernels import memory


def main(cache: str, *fault: str) -> None:
    stand_in = HostCupy(Path(cache), options=SANITIZERS)
    if fault:
        stand_in.faults.append((fault[0], fault[1]))
    with mock.patch.object(memory, "empty", np.empty):  # each array a block of its own, of just its size
        kernels = above(stand_in)
        count = sum(1 for run in (everything, beside_naive) for _ in run(kernels))
    print(f"{count} results of {len(set(stand_in.launches))} kernels")


if __name__ == "__main__":
    main(*sys.argv[1:])

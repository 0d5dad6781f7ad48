"""What the fused ops share: sums in parts, ReLU's gradient, matrices turned around, parts of images copied.

What threads added up apart is added in order, so that results do not depend on who did which part. NumPy can do all of
this, but only kernels can be steps of a program (program.py).
"""

import numpy as np

from . import memory
from .compiling import compiled
from .instructions import LANES
from .threads import next_task, run, run_by_image, workers
from .vectors import above_zero, beats, load, spread, store, where

BLOCK = 16 * 1024  # numbers of a task
LINE = memory.CACHE_LINE // 4  # numbers, which a task reads of each row
NO_BIAS = np.empty(0, np.float32)


def add_parts(parts, out, b=NO_BIAS, relu: bool = False) -> None:
    """out = the sum of parts[0], parts[1], ... in order, plus a bias, then ReLU if wanted: (PARTS, R, F) -> (R, F)."""
    rows = max(BLOCK // max(parts[:, :1].size, 1), 1)  # of a task
    tasks = -(-len(out) // rows)
    run(_add_parts, workers(8 * parts.size, tasks), parts, b, out, rows, relu)


@compiled
def _add_parts(worker, tasks, parts, b, out, rows, relu):
    number, height, width = parts.shape
    flat, y = parts.reshape(-1), out.reshape(-1)
    least = spread(np.float32(0 if relu else -np.inf))
    start = next_task(tasks) * rows
    while start < height:
        for row in range(start, min(start + rows, height)):
            for f in range(0, width, LANES):
                place, count = row * width + f, width - f
                total = load(flat, place, count) if number else spread(np.float32(0))
                for part in range(1, number):
                    total += load(flat, part * height * width + place, count)
                total += load(b, f, count if b.size else 0)
                store(y, place, where(beats(least, total), least, total), count)
        start = next_task(tasks) * rows


def sum_of_rows(rows, out) -> None:
    """out = rows[0] + rows[1] + ..., in order: (N, F) -> (F,)."""
    add_parts(rows[:, None], out.reshape(1, -1))


def relu_gradient(gy, y, relu: bool):
    """gy where y is above 0, else 0; or gy as it is where there was no ReLU. Contiguous."""
    gy = memory.ready(gy)
    if not relu:
        return gy
    g = memory.empty(gy.shape)
    run(_relu_gradient, workers(8 * g.size, -(-g.size // BLOCK)), gy.reshape(-1), y.reshape(-1), g.reshape(-1))
    return g


@compiled
def _relu_gradient(worker, tasks, gy, y, g):
    start = next_task(tasks) * BLOCK
    while start < g.size:
        for i in range(start, min(start + BLOCK, g.size), LANES):
            passed = above_zero(load(y, i, g.size - i))
            store(g, i, where(passed, load(gy, i, g.size - i), spread(np.float32(0))), g.size - i)
        start = next_task(tasks) * BLOCK


def turn(source, out, number: int, rows: int, columns: int, source_steps, out_steps) -> None:
    """Put the transposes of so many matrices (ROWS, COLUMNS) of `source` into `out`, both contiguous.

    The steps say how far it is there from one matrix to the next, and from a row to the next.
    """
    tasks = number * -(-columns // LINE)
    run(_turn, workers(4 * number * rows * columns, tasks), source.reshape(-1), out.reshape(-1), number, rows, columns,
        *source_steps, *out_steps)  # fmt: skip


@compiled
def _turn(worker, tasks, source, out, number, rows, columns, source_matrix, source_row, out_matrix, out_row):
    blocks = (columns + LINE - 1) // LINE
    task = next_task(tasks)
    while task < number * blocks:
        matrix, first = task // blocks, task % blocks * LINE
        for column in range(first, min(first + LINE, columns)):
            place, start = matrix * out_matrix + column * out_row, matrix * source_matrix + column
            line, turned = source[start:], out[place : place + rows]
            for row in range(rows):
                turned[row] = line[row * source_row]
        task = next_task(tasks)


def copy_images(source, corner: tuple[int, int], target, target_corner: tuple[int, int], h: int, w: int) -> None:
    """Copy a part (H, W) of each image, from where it lies in `source` to where it lies in `target`: (N, *, *, C)."""
    (n, *size, c), target_size = source.shape, target.shape[1:3]
    places = [
        ((top * width + left) * c, height * width * c, width * c)  # its first number; numbers of an image, of a row
        for (height, width), (top, left) in ((size, corner), (target_size, target_corner))
    ]
    run_by_image(
        _copy_images, workers(16 * n * h * w * c, n), n, n, source.reshape(-1), target.reshape(-1), n, h, w * c,
        *places[0], *places[1],
    )  # fmt: skip


@compiled
def _copy_images(
    worker, tasks, source, target, n, rows, length, start, size, row, target_start, target_size, target_row
):
    image = next_task(tasks)
    while image < n:
        for i in range(rows):
            at, to = image * size + start + i * row, image * target_size + target_start + i * target_row
            line, out = source[at : at + length], target[to : to + length]
            for k in range(length):
                out[k] = line[k]
        image = next_task(tasks)

# %% [markdown]
"""
# 1. Convolution by hand

Afterwards you can answer:

- What does a 3x3 filter do to a 5x5 map, and why is the result 3x3?
- What does "depth" count?
- Why do nested loops, im2col and one matrix product give the same number?

The paper: section I and its Figure 1, "A convolution 3x3 depth 1 performed on a map of 5x5 input attributes".
"""

# %%
import numpy as np
from lesson import number_grid, picture
from tinycnn.kernels import reference
from tinycnn.kernels.shapes import windows

from tinycnn import Tensor, ops, use_backend

use_backend("numpy")

# A 5x5 map: dark on the left, bright on the right. A 3x3 filter: right column minus left column.
x = np.array([[0, 0, 1, 5, 5], [0, 0, 1, 5, 5], [0, 1, 5, 5, 5], [1, 5, 5, 5, 5], [5, 5, 5, 5, 5]])
w = np.array([[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]])

# %% [markdown]
# ## One tile, one number
# The filter lies on a tile of its own size. Nine products, added up, make one number of the output.

# %%
tile = x[0:3, 1:4]
products = tile * w
print("tile at row 0, column 1    filter         products")
for t, f, p in zip(tile, w, products, strict=True):
    print(f"   {t}            {f}    {p}")
print(f"their sum: {products.sum():.0f}\n")

# %% [markdown]
# ## Every tile: four loops
# The filter moves one pixel at a time, across and down.
#
# **Before you go on:** how many places are there for a 3-wide tile on 5 pixels? And where will the output be largest?


# %%
def convolve(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The definition: for each place of the tile, the sum of its products."""
    (h, width), (kh, kw) = x.shape, w.shape
    y = np.zeros((h - kh + 1, width - kw + 1))
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            for a in range(kh):
                for b in range(kw):
                    y[i, j] += x[i + a, j + b] * w[a, b]
    return y


y = convolve(x, w)
print(f"{x.shape} map, {w.shape} filter -> {y.shape} output, because 5 - 3 + 1 = 3 tiles fit along each side:")
print(y)
print("It is large where the map gets brighter from left to right, and 0 where it is flat.\n")
assert y.shape == (3, 3)
assert y[0, 1] == products.sum()
assert y[2, 2] == 0
assert (x[2:5, 2:5] == 5).all()

# %% [markdown]
# ## The same by im2col: tiles as rows
# Copy each tile into a row of a table: 9 tiles, 9 numbers each. The filter becomes a column of 9 numbers.
# "Multiply and add" for all tiles is then one matrix product, which computers do very fast.
# The engine does it this way; images have the axes (N, H, W, C), so ours is (1, 5, 5, 1).

# %%
cols = reference.im2col(x[None, :, :, None], windows((5, 5), 3))  # (N, OH, OW, KH*KW*C) = (1, 3, 3, 9)
rows = cols.reshape(9, 9)
print("im2col: one row per tile")
for place, row in zip(np.ndindex(3, 3), rows, strict=True):
    print(f"  tile {place}: {row}")
print(f"memory: {x.size} numbers became {rows.size}, since neighbouring tiles overlap\n")
by_product = (rows @ w.reshape(9, 1)).reshape(3, 3)

# %% [markdown]
# ## And by the engine
# Filters have the axes (KH, KW, C, F): height, width, input channels, number of filters.

# %%
engine = ops.conv2d(Tensor(x[None, :, :, None]), Tensor(w[:, :, None, None])).numpy()  # (1, 3, 3, 1)
three = f"loops {y[0, 1]:g}, row times column {by_product[0, 1]:g}, engine {engine[0, 0, 1, 0]:g}"
print(f"output at (0, 1), three ways: {three}\n")
assert (by_product == y).all()
assert (engine[0, :, :, 0] == y).all()

# %% [markdown]
# ## Depth
# The paper's second parameter: the depth of the output is the number of filters, and each makes a map of its own.
# The depth of the *input* decides how thick a filter is: on three colours a 3x3 filter has 3 x 3 x 3 = 27 numbers,
# and all 27 products are added into one.

# %%
rng = np.random.default_rng(0)
colours, filters = rng.random((1, 5, 5, 3)), rng.random((3, 3, 3, 4))
deep = ops.conv2d(Tensor(colours), Tensor(filters)).numpy()
one = (colours[0, 0:3, 1:4] * filters[:, :, :, 2]).sum()
print(f"5x5 in 3 colours, 4 filters of 3x3x3 -> {deep.shape[1:]}: {deep.size} sums of {filters[..., 0].size} products")
print(f"number (0, 1) of filter 2: {deep[0, 0, 1, 2]:.6f}; by hand: {one:.6f}")
assert deep.shape == (1, 3, 3, 4)
assert np.isclose(deep[0, 0, 1, 2], one, rtol=1e-12)
for size in (1, 3, 5):
    win = windows((5, 5), size)
    print(f"a tile of {size}x{size} on 5x5 gives {win.oh}x{win.ow}")
assert (win.oh, win.ow) == (1, 1)

# %% [markdown]
# ## A word on the name
# Mathematicians turn the filter by 180 degrees before they slide it; they call what we did *cross-correlation*.
# A network learns its filters, so it would simply learn the turned ones. Keras does not turn, and neither do we.

# %%
turned = convolve(x, w[::-1, ::-1])
print(f"with the filter turned, the number at (0, 1) is {turned[0, 1]:g}: this filter changes its sign")
assert (turned == -y).all()


# %%
def draw(figure):
    a, b, c = figure.subplots(1, 3, width_ratios=(5, 3, 3), gridspec_kw={"wspace": 0.15})
    number_grid(a, x, "input, 5x5; framed: one tile", frame=(0, 1, 3, 3))
    number_grid(b, w, "filter, 3x3")
    number_grid(c, y, "output, 3x3; framed: its sum", frame=(0, 1, 1, 1))


picture("01_convolution", draw, 10, 3.9)

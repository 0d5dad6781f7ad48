# %% [markdown]
"""
# 3. ReLU and max-pooling: what they keep and what they drop

Afterwards you can answer:

- What does ReLU do to a feature map, and what does "a unit fires" mean?
- How much of a map does a 2x2 pool keep, and is it "the most important information"?
- By how far may a fish move before the pooled map notices?

The paper: section II.C, 3) and 4).
"""

# %%
import numpy as np
from lesson import fish, number_grid, picture

from tinycnn import Tensor, ops, use_backend
from tinycnn.layers import Conv2D
from tinycnn.models import Sequential

use_backend("numpy")

# A map of 4x4, as (N, H, W, C) = (1, 4, 4, 1).
x = np.array([[-3, 2, 0, 1], [4, -1, -5, -2], [-1, -6, 7, 6], [-2, -4, 3, 5]], np.float32)[None, :, :, None]

# %% [markdown]
# ## ReLU: max(0, x)
# **Before you go on:** how many of the 16 numbers will change?

# %%
fired = ops.relu(Tensor(x)).numpy()
print("before ReLU, and after:")
for before, after in zip(x[0, :, :, 0], fired[0, :, :, 0], strict=True):
    print("  ", *(f"{v:3.0f}" for v in before), "   ", *(f"{v:3.0f}" for v in after))
print(f"{(x < 0).sum()} of {x.size} numbers were negative and became 0; {(fired > 0).sum()} units 'fire'\n")
assert fired.shape == x.shape  # "The dimensions of the volume are left unchanged"
assert (fired == np.maximum(x, 0)).all()

# %% [markdown]
# ## Max-pooling: the largest of each 2x2 window
# The pool keeps one number of four. It also notes which of the four won (0 1 / 2 3): the backward pass needs that.

# %%
pooled = ops.max_pool2d(Tensor(fired, requires_grad=True))
winner = pooled.op.winner
print("the pooled map, the winner of each window, and how the four places of a window are numbered:")
for values, places, key in zip(pooled.numpy()[0, :, :, 0], winner[0, :, :, 0], ("0 1", "2 3"), strict=True):
    print("  ", *(f"{v:3.0f}" for v in values), "   ", *(f"{v:3.0f}" for v in places), f"      {key}")
print("lower left: nothing fired there, all four are 0, and the first of equals wins\n")
assert pooled.numpy().ravel().tolist() == [4, 1, 0, 7]
assert winner.ravel().tolist() == [2, 1, 0, 0]

# %% [markdown]
# ## In which order?
# Pool after ReLU, or ReLU after pool? ReLU never makes the larger of two numbers the smaller one, so the results are
# the same; after the pool, only a quarter of the numbers is left to look at.

# %%
other = ops.relu(ops.max_pool2d(Tensor(x))).numpy()
print(f"ReLU then pool: {pooled.numpy().ravel()}, pool then ReLU: {other.ravel()}")
assert (other == pooled.numpy()).all()

# %% [markdown]
# ## What is dropped
# The pool keeps the largest numbers. The paper calls them "the most important information"; they are what it keeps,
# whether important or not. Two different maps can look the same after it:

# %%
sibling = np.array([[2, 4, 1, 1], [3, 1, 0, 1], [0, -9, 0, 7], [-7, 0, 0, 2]], np.float32)[None, :, :, None]
same = ops.max_pool2d(ops.relu(Tensor(sibling))).numpy()
print(f"a map that differs in {(sibling != x).sum()} of 16 numbers pools to the same {same.ravel()}\n")
assert (same == pooled.numpy()).all()

# %% [markdown]
# ## A small move
# **Before you go on:** a bright spot moves by one pixel. Does the pooled map change?

# %%
print("a spot of height 9 in a 6x6 map; the pooled 3x3 map shows it at")
seen = []
for column in range(4):
    spot = np.zeros((1, 6, 6, 1), np.float32)
    spot[0, 2, column, 0] = 9
    place = np.argwhere(ops.max_pool2d(Tensor(spot)).numpy()[0, :, :, 0])[0]
    seen.append(tuple(place.tolist()))
    print(f"  column {column} -> {seen[-1]}")
print("a lone spot's move inside a window is not seen; across its border it is\n")
assert seen == [(1, 0), (1, 0), (1, 1), (1, 1)]

# %% [markdown]
# ## On a fish
# The first block of the fish network before any training: 32 random filters, ReLU, pool.

# %%
conv = Sequential([Conv2D(32, 3, input_shape=(64, 64, 3))]).layers[0]
y = conv(fish("clownfish", 9)[None])
after_relu = ops.relu(y)
after_pool = ops.max_pool2d(after_relu)
zeros = {"convolution": y, "ReLU": after_relu, "pool": after_pool}
print(f"{'after':12} {'shape':17} {'numbers':>8} {'of them 0':>10}")
shares = {}
for name, t in zeros.items():
    shares[name] = (t.numpy() == 0).mean()
    print(f"{name:12} {t.shape!s:17} {t.numpy().size:8} {shares[name]:10.1%}")
print(f"the pool keeps 1 number of 4: {after_pool.numpy().size} of {after_relu.numpy().size}")

# A real map is no lone spot: a move brings other numbers into almost every window, and often another largest one.
moved = ops.max_pool2d(Tensor(np.roll(after_relu.numpy(), 1, axis=2))).numpy()[:, :, 1:]  # column 0 came round
still = after_pool.numpy()[:, :, 1:]
changed = (moved != still)[still > 0].mean()
print(f"the same maps, one column to the right: {changed:.0%} of the pooled numbers above 0 change")
assert changed > 0.5
assert after_pool.numpy().size * 4 == after_relu.numpy().size
assert shares["convolution"] < 0.01 < shares["pool"] < shares["ReLU"]


# %%
def draw(figure):
    panels = figure.subplots(1, 3, width_ratios=(4, 4, 2.6))
    number_grid(panels[0], x[0, :, :, 0], "feature map")
    number_grid(panels[1], fired[0, :, :, 0], "after ReLU; framed: one window", frame=(0, 0, 2, 2))
    number_grid(panels[2], pooled.numpy()[0, :, :, 0], "after 2x2 pool", frame=(0, 0, 1, 1))


picture("03_relu_and_pool", draw, 9, 3.4)

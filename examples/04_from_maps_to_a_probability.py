# %% [markdown]
"""
# 4. Flatten, dense, sigmoid: from maps to a probability

Afterwards you can answer:

- In which order does Flatten write a map into one row, and why does it matter?
- What does a dense layer compute, and what does the sigmoid make of it?
- Why is `if result == 1` the wrong question to a probability?

The paper: section II.C, 5), Figure 6, and the last lines of Figure 10.
"""

# %%
import numpy as np
from lesson import picture

from tinycnn import Tensor, ops, use_backend

use_backend("numpy")

# %% [markdown]
# ## Flatten
# Nothing is computed: the same numbers in one row. The channel moves fastest, then the column, then the row.
#
# **Before you go on:** in a 2x2 map with 3 channels, where does the number of row 1, column 0, channel 2 land?

# %%
maps = np.array([100 * i + 10 * j + c for i in range(2) for j in range(2) for c in range(3)], np.float32)
maps = maps.reshape(1, 2, 2, 3)  # the number 102 says: row 1, column 0, channel 2
row = ops.flatten(Tensor(maps)).numpy()[0]
print("flattened:", *(f"{v:03.0f}" for v in row))
place = (1 * 2 + 0) * 3 + 2
print(f"row 1, column 0, channel 2 lands at (1 * 2 + 0) * 3 + 2 = {place}: {row[place]:03.0f}\n")
assert row[place] == 102

# %% [markdown]
# ## Dense: every output sees every input
# Each output is a sum: every input times a weight of its own, plus a bias.

# %%
x = np.array([[2.0, -1.0, 0.5]])  # one sample, three numbers
w = np.array([[0.4, -0.3], [0.1, 0.8], [-0.6, 0.2]])  # (in, out) = (3, 2)
b = np.array([0.05, -0.1])
y = ops.dense(Tensor(x), Tensor(w), Tensor(b)).numpy()
for out in range(2):
    terms = x[0] * w[:, out]
    total = sum(terms) + b[out]
    print(f"output {out}: {' '.join(f'{t:+.2f}' for t in terms)} {b[out]:+.2f} = {total:+.2f}; engine {y[0, out]:+.2f}")
    assert np.isclose(y[0, out], total, rtol=1e-12)

# %% [markdown]
# The order of Flatten must be the order in which the weights were learned. The same numbers, channel slowest, are
# another input, and give another answer. (Libraries disagree on this order; it is a classic when weights are carried
# from one to another.)

# %%
weights = np.random.default_rng(1).standard_normal((12, 1)).astype(np.float32)
right = ops.dense(ops.flatten(Tensor(maps)), Tensor(weights)).item()
wrong = ops.dense(ops.flatten(Tensor(np.moveaxis(maps, 3, 1))), Tensor(weights)).item()
print(f"\nthe same map and weights: channel fastest {right:.1f}, channel slowest {wrong:.1f}\n")
assert abs(right - wrong) > 1

# %% [markdown]
# ## Sigmoid: any number becomes a probability
# p = 1 / (1 + e^-z). The number z before it is called the *logit*: it is the logarithm of the odds p / (1 - p).

# %%
z = np.array([-4.0, -2.0, 0.0, 1.0, 2.0, 4.0, 8.0])
p = ops.sigmoid(Tensor(z)).numpy()
print("logit z       p    1 - p    odds p / (1 - p)   e^z")
for one_z, one_p in zip(z, p, strict=True):
    print(f"{one_z:7.1f} {one_p:7.4f}  {1 - one_p:7.4f}  {one_p / (1 - one_p):16.4f}  {np.exp(one_z):8.4f}")
assert np.allclose(p / (1 - p), np.exp(z), rtol=1e-9)
assert np.allclose(p + ops.sigmoid(Tensor(-z)).numpy(), 1, rtol=0, atol=1e-15)
print("p > 0.5 exactly where z > 0: the threshold is a question about the sign of z\n")
assert ((p > 0.5) == (z > 0)).all()

# %% [markdown]
# ## Two classes, one number
# The paper speaks of k class probabilities; its program has one output. Both are right: with two classes the second
# probability is what is left. One sigmoid equals a softmax over the two logits 0 and z.

# %%
two = ops.softmax(Tensor(np.stack([np.zeros_like(z), z], axis=1))).numpy()  # (7, 2)
print(f"z = 2: sigmoid {p[4]:.6f}; softmax of (0, 2): {two[4, 0]:.6f} and {two[4, 1]:.6f}\n")
assert np.allclose(two[:, 1], p, rtol=1e-12)
assert np.allclose(two.sum(axis=1), 1)

# %% [markdown]
# ## When is a probability equal to 1?
# The paper's program asks `result[0][0] == 1`. Mathematically a sigmoid never reaches 1.
# In float32 it does, by rounding: as computed here, by the formula above, as soon as 1 + e^-z rounds to 1. Computed in
# another way, it may begin a little earlier or later. **Before you go on:** from which z on?

# %%
fine = np.arange(0, 30, 0.01, dtype=np.float32)
ones = ops.sigmoid(Tensor(fine)).numpy() == 1
first = fine[ones.argmax()]
odds = np.exp(float(first))
print(f"float32: as computed here, p == 1 from z = {first:.2f} on (there 1 + e^-z rounds to 1);")
print(f"the odds at this z are {odds / 1e6:.0f} million to one")
print("a fish that is 'only' 99.9 % clownfish fails that test: it is called an angelfish (lesson 11 counts them)")
assert 16 < first < 18
assert np.float32(1) + np.exp(-first) == 1 < np.float32(1) + np.exp(-fine[ones.argmax() - 1])
assert not ones[: ones.argmax()].any()
assert ones[ones.argmax() :].all()


# %%
def draw(figure):
    axes = figure.subplots()
    fine_z = np.linspace(-8, 8, 200)
    axes.plot(fine_z, ops.sigmoid(Tensor(fine_z)).numpy(), color="tab:blue")
    axes.plot(z, p, "o", color="tab:blue")
    axes.axhline(0.5, color="gray", linewidth=0.8)
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.text(0.3, 0.05, "answer: class 1\nwhere z > 0", fontsize=9)
    axes.text(-0.3, 0.85, "answer: class 0\nwhere z < 0", fontsize=9, ha="right")
    axes.set_xlabel("logit z (what the last dense layer gives)")
    axes.set_ylabel("p, probability of class 1")
    axes.set_title("The sigmoid")


picture("04_sigmoid", draw, 7, 4)

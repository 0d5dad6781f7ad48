# %% [markdown]
"""
# 8. Cross-entropy, and why logits

Afterwards you can answer:

- What does a loss of 0.69 say, and what a loss of 2.3?
- Why cross-entropy and not the squared error?
- What goes wrong with `log(sigmoid(z))` in float32, and how do logits mend it?

The paper: `loss = 'binary_crossentropy'` in Figure 9, after `activation = 'sigmoid'` in Figure 6.
"""

# %%
import numpy as np
from lesson import picture

from tinycnn import Tensor, fused, ops, use_backend

use_backend("numpy")

# %% [markdown]
# ## What the loss says
# The network says p, its probability for class 1; the label y is 0 or 1. The loss is -log of the probability that it
# gave to what turned out to be true: -log p where y = 1, -log(1 - p) where y = 0.

# %%
print("p for the true class    loss")
for p in (0.999, 0.9, 0.5, 0.1, 0.001):
    loss = ops.binary_cross_entropy(Tensor(np.array([p])), np.ones(1)).item()
    print(f"{p:20.3f}  {loss:6.3f}")
    assert np.isclose(loss, -np.log(p), rtol=1e-9)
print("0.693 = log 2: as good as a coin. 2.303 = log 10: one chance in ten was given to the truth\n")

# Over a batch the mean is taken, so exp(-loss) is the (geometric) mean probability of the truth.
p, y = np.array([0.9, 0.2, 0.6]), np.array([1.0, 0.0, 1.0])
loss = ops.binary_cross_entropy(Tensor(p), y).item()
given = np.where(y == 1, p, 1 - p)
print(f"three fish, probabilities given to the truth {given}: loss {loss:.4f}, exp(-loss) = {np.exp(-loss):.4f}")
print(f"their product to the power 1/3: {given.prod() ** (1 / 3):.4f}\n")
assert np.isclose(np.exp(-loss), given.prod() ** (1 / 3))

# %% [markdown]
# ## Why not the squared error?
# **Before you go on:** a network says p = 0.001 and the truth is 1. Which loss pulls harder on the logit z?


# %%
def slope(loss, z, y=1.0, dtype=np.float64):
    """The loss at logit z and label y, and its derivative with respect to z."""
    leaf = Tensor(np.array([z], dtype), requires_grad=True)
    value = loss(leaf, Tensor(np.array([y], dtype)))
    value.backward()
    return value.item(), float(leaf.grad[0])


def squared(z, y):
    return ((ops.sigmoid(z) - y) ** 2).mean()


def cross_entropy(z, y):
    return ops.binary_cross_entropy(ops.sigmoid(z), y)


print(f"{'z':>5} {'p':>8} {'squared: loss':>14} {'slope':>9} {'cross-entropy: loss':>20} {'slope':>9}   (truth: 1)")
for z in (2.0, 0.0, -2.0, -7.0):
    (s_loss, s_slope), (c_loss, c_slope) = slope(squared, z), slope(cross_entropy, z)
    print(f"{z:5.0f} {1 / (1 + np.exp(-z)):8.4f} {s_loss:14.4f} {s_slope:9.4f} {c_loss:20.4f} {c_slope:9.4f}")
print("surely wrong (last row): the squared error hardly pulls at all, the cross-entropy pulls with almost 1\n")
assert abs(s_slope) < 0.002
assert -1 < c_slope < -0.99

# %% [markdown]
# The slope of the cross-entropy with respect to the logit is simply p - y: how far off the network was.
# It comes out of the chain rule because -1/p, the slope of -log p, cancels the p of the sigmoid's slope p (1 - p).

# %%
for z in (2.0, -7.0):
    p = 1 / (1 + np.exp(-z))
    by_chain = -1 / p * p * (1 - p)
    engine = slope(cross_entropy, z)[1]
    print(f"z = {z:2.0f}: -1/p * p (1 - p) = {by_chain:.6f}; p - y = {p - 1:.6f}; engine {engine:.6f}")
    assert np.isclose(by_chain, p - 1, rtol=1e-9)
    assert np.isclose(engine, p - 1, rtol=1e-9)

# %% [markdown]
# ## Where float32 ends
# The network computes in float32. From z = 16.64 on the sigmoid rounds to exactly 1 (lesson 4).
# Now let the truth be 0, so the network is surely wrong, and should be pulled back hard.
# log(1 - 1) would be minus infinity. Keras and this engine clip p to [1e-7, 1 - 1e-7] first. That saves the number,
# but where it clips, the loss no longer changes with z: the slope is 0, and nothing is learned from the worst mistake.
#
# The fused op takes z itself and computes max(z, 0) - z y + log(1 + e^-|z|): the same function on paper, and accurate
# at every z.


# %%
def from_logits(z, y):
    return fused.SigmoidBinaryCrossEntropy.apply(z, y)


print(f"\n{'z':>5} {'p in float32':>14} {'by p: loss':>12} {'slope':>9} {'by z: loss':>12} {'slope':>9}   (truth: 0)")
for z in (-20.0, 2.0, 10.0, 15.0, 17.0, 40.0):
    p = ops.sigmoid(Tensor(np.float32(z).reshape(1))).item()
    by_p, by_z = slope(cross_entropy, z, 0.0, np.float32), slope(from_logits, z, 0.0, np.float32)
    print(f"{z:5.0f} {p:14.9f} {by_p[0]:12.4f} {by_p[1]:9.4f} {by_z[0]:12.4f} {by_z[1]:9.4f}")
assert by_p[1] == 0.0
assert by_z == (40.0, 1.0)
exact = slope(from_logits, 15.0, 0.0)
rough = slope(cross_entropy, 15.0, 0.0, np.float32)
print(f"even before it clips, digits are lost: at z = 15 the loss by p is {rough[0]:.4f}, by z {exact[0]:.4f}\n")
assert abs(rough[0] - 15) > 0.01
assert abs(exact[0] - 15) < 1e-6

# %% [markdown]
# You need not ask for it: `Sequential` sees the sigmoid at the end and the loss after it, and takes both as one op.
# Its meaning stays the plain composition, and wherever nothing rounds to 0 or 1 the two agree:

# %%
zs, ys = np.linspace(-8, 8, 33), np.tile([0.0, 1.0], 17)[:33]
plain, both = cross_entropy(Tensor(zs), ys).item(), from_logits(Tensor(zs), ys).item()
print(f"33 logits from -8 to 8, float64: by p {plain:.12f}, by z {both:.12f}")
assert np.isclose(plain, both, rtol=1e-10)


# %%
def draw(figure):
    left, right = figure.subplots(1, 2)
    fine = np.linspace(-4, 30, 400)
    curves = {"by p, clipped (float32)": cross_entropy, "by z (float32)": from_logits}
    for (name, loss), style in zip(curves.items(), ("-", "--"), strict=True):
        values = np.array([slope(loss, z, 0.0, np.float32) for z in fine])
        left.plot(fine, values[:, 0], style, label=name)
        right.plot(fine, values[:, 1], style, label=name)
    left.set_title("loss when the truth is 0")
    left.set_ylabel("cross-entropy")
    right.set_title("its slope: what the network learns from")
    right.set_ylabel("slope with respect to z")
    for axes in (left, right):
        axes.set_xlabel("logit z")
    left.legend()


picture("08_logits", draw, 10, 4)

# %% [markdown]
"""
# 9. Adam by hand: one weight, ten steps

Afterwards you can answer:

- What do m and v remember, and why are they corrected in the first steps?
- How large is Adam's first step, whatever the gradient?
- What changes for Adam when the loss is multiplied by 1000, and what for plain gradient descent?

The paper: Figure 9, `optimizer = 'adam'`, "adaptive estimation of first-order and second-order moments"
(D. Kingma and J. Ba, Adam, 2015).
"""

# %%
from math import sqrt

import numpy as np
from lesson import picture

from tinycnn import Tensor, trace, use_backend
from tinycnn.optimizers import SGD, Adam

use_backend("numpy")

RATE, BETA_1, BETA_2, EPSILON = 0.1, 0.9, 0.999, 1e-7  # Keras's defaults, but for the rate (0.001)
START, GOAL = 0.0, 3.0  # the loss is (w - 3)^2, its gradient 2 (w - 3)

# %% [markdown]
# ## The recipe
# - m: a running mean of the gradients. Each step keeps 90 % of it and takes in 10 % of the new gradient.
# - v: a running mean of their squares, 99.9 % and 0.1 %.
# - Both begin at 0, so at first they are too small. After t steps m holds only the share 1 - 0.9^t of a full mean;
#   dividing by that share corrects it: m_hat, and likewise v_hat.
# - The step: rate * m_hat / (sqrt(v_hat) + epsilon). A gradient over the size of gradients: a number without a unit.
#
# **Before you go on:** the first gradient is 2 (0 - 3) = -6. How large will the first step be? And if it were -6000?

# %%
w, m, v = START, 0.0, 0.0
by_hand = []
for t in range(1, 11):
    g = 2 * (w - GOAL)
    m = BETA_1 * m + (1 - BETA_1) * g
    v = BETA_2 * v + (1 - BETA_2) * g * g
    m_hat = m / (1 - BETA_1**t)
    v_hat = v / (1 - BETA_2**t)
    # Keras adds epsilon before the correction, so in this form epsilon is divided by the root of the same share.
    step = RATE * m_hat / (sqrt(v_hat) + EPSILON / sqrt(1 - BETA_2**t))
    w = w - step
    by_hand.append((g, m, v, m_hat, v_hat, step, w))

# %% [markdown]
# ## The engine beside it
# `trace` records each update of a weight, with all that it was made from.

# %%
weight = Tensor(np.array([START]), requires_grad=True, name="w")  # float64
optimizer = Adam(RATE, BETA_1, BETA_2, EPSILON)
with trace() as tape:
    for _ in range(10):
        ((weight - GOAL) ** 2).sum().backward()
        optimizer.update([weight])

print(" t        g        m        v    m_hat    v_hat     step   w by hand     engine")
worst = 0.0
for t, (hand, record) in enumerate(zip(by_hand, tape.updates, strict=True), 1):
    made_from = (record.gradient, record.m, record.v, record.m_hat, record.v_hat, record.step, record.after)
    engine = [float(array[0]) for array in made_from]
    print(f"{t:2} " + " ".join(f"{value:8.4f}" for value in hand[:6]) + f"  {hand[6]:10.7f} {engine[6]:10.7f}")
    worst = max(worst, *(abs(a - b) for a, b in zip(hand, engine, strict=True)))
print(f"largest difference in these 70 numbers: {worst:.1e}\n")
assert worst < 1e-12
assert len(tape.updates) == 10

# %% [markdown]
# ## The first step
# With one gradient seen, m_hat = g and sqrt(v_hat) = |g|, so the step is the rate, with the sign of g: 0.1 here, for a
# gradient of -6 or of -6000. Without the corrections it would be 0.1 g / sqrt(0.001 g^2) = 3.16 times as large.

# %%
first = by_hand[0][5]
uncorrected = RATE * by_hand[0][1] / (sqrt(by_hand[0][2]) + EPSILON)
print(f"first step {first:.7f}; without the corrections {uncorrected:.4f}, {uncorrected / first:.2f} times as large\n")
assert np.isclose(abs(first), RATE, rtol=1e-5)
assert np.isclose(uncorrected / first, 0.1 / sqrt(0.001), rtol=1e-4)

# %% [markdown]
# ## A loss 1000 times as large
# **Before you go on:** who will still arrive at 3, Adam or plain gradient descent?


# %%
def walk(optimizer, scale, steps=100):
    """Where the weight is after each step down scale * (w - 3)^2."""
    weight = Tensor(np.array([START]), requires_grad=True)
    places = [START]
    for _ in range(steps):
        (scale * (weight - GOAL) ** 2).sum().backward()
        optimizer.update([weight])
        places.append(float(weight.numpy()[0]))
    return np.array(places)


adam, adam_scaled = walk(Adam(RATE), 1), walk(Adam(RATE), 1000)
sgd, sgd_scaled = walk(SGD(0.1), 1), walk(SGD(0.1), 1000, steps=10)
print(f"{'':25} {'loss':>12} {'1000 x loss':>14}")
print(f"{'Adam after 10 steps':25} {adam[10]:12.6f} {adam_scaled[10]:14.6f}")
print(f"{'descent after 10 steps':25} {sgd[10]:12.6f} {sgd_scaled[10]:14.1e}")
assert np.allclose(adam, adam_scaled, atol=1e-5)
assert abs(sgd[10] - GOAL) < 0.5
assert abs(sgd_scaled[10]) > 1e20

# %% [markdown]
# But for epsilon, Adam's steps do not depend on the unit of the loss. The price: m remembers, so Adam runs past the
# goal and comes back, and near the goal its steps shrink only as fast as the memory fades. On this one-dimensional
# slope, plain descent with a good rate is better! Adam is made for networks, where thousands of weights need different
# rates.

# %%
late = np.abs(adam - GOAL)
print(
    f"Adam goes as far as {adam.max():.3f}, after 100 steps it is {late[100]:.4f} away; descent {abs(sgd[100] - 3):.1e}"
)
assert adam.max() > GOAL + 0.05
assert abs(sgd[100] - GOAL) < late[100]


# %%
def draw(figure):
    left, right = figure.subplots(1, 2)
    left.plot(adam, label="Adam, rate 0.1 (1000 x loss: the same line)")
    left.plot(sgd, label="gradient descent, rate 0.1")
    left.axhline(GOAL, color="gray", linewidth=0.8)
    left.set_xlabel("step")
    left.set_ylabel("weight w (goal: 3)")
    left.set_title("The way down (w - 3)^2")
    left.legend(loc="lower right", fontsize=8)
    steps = np.arange(1, 11)
    left.set_xlim(0, 100)
    right.plot(steps, [abs(h[1]) for h in by_hand], "o--", color="tab:orange", label="|m|, not corrected")
    right.plot(steps, [abs(h[3]) for h in by_hand], "o-", color="tab:orange", label="|m_hat|")
    right.plot(steps, [sqrt(h[2]) for h in by_hand], "s--", color="tab:green", label="sqrt(v), not corrected")
    right.plot(steps, [sqrt(h[4]) for h in by_hand], "s-", color="tab:green", label="sqrt(v_hat)")
    right.plot(steps, [abs(h[0]) for h in by_hand], color="gray", label="|gradient|")
    right.set_xlabel("step")
    right.set_ylabel("size")
    right.set_title("What the corrections do in the first ten steps")
    right.set_ylim(0, 8)
    right.legend(loc="upper right", ncols=2, fontsize=8)


picture("09_adam", draw, 11, 4.2)

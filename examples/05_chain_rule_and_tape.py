# %% [markdown]
"""
# 5. The chain rule and the tape

Afterwards you can answer:

- What is a gradient, in numbers that you can check with a calculator?
- What does the engine write down on the way forward, and what does it do with it on the way back?
- Why is one walk backward enough for 813,217 weights?

The paper: section II.C says the layers work "through differential equations". They do not: each is a *differentiable
function*, and that is what makes learning possible. Figure 9's `fit` does what this lesson shows in each of its
6,000 steps (30 epochs of 200), for 32 pictures at a time.
"""

# %%
from time import perf_counter

import numpy as np
from lesson import fish, paper_network, picture

from tinycnn import Tensor, ops, trace, use_backend

use_backend("numpy")

# %% [markdown]
# ## By hand
# A prediction p = w x + b, a target y, and the loss L = (p - y)^2. With x = 2, w = 3, b = -1, y = 3:
#
# forward: w x = 6, p = 5, e = p - y = 2, L = e^2 = 4.
#
# Backward, one step at a time: how much does L change for a small change of ...
#
# - e: dL/de = 2 e = 4
# - p: e moves as p does, so dL/dp = 4
# - b: p moves as b does, so dL/db = 4
# - w: p moves x = 2 times as much as w, so dL/dw = 4 * 2 = 8
#
# Each line is the one before times a slope of its own: that is the chain rule.
#
# **Before you go on:** w grows by 0.001. What will the loss be?

# %%
x, y = 2.0, 3.0
w = Tensor(np.array(3.0), requires_grad=True, name="w")
b = Tensor(np.array(-1.0), requires_grad=True, name="b")
loss = (w * x + b - y) ** 2
loss.backward()
print(f"loss {loss.item():g}; dL/dw {w.grad:g}, dL/db {b.grad:g}")
moved = (3.001 * x - 1 - y) ** 2
print(f"w = 3.001 gives {moved:.6f}: {moved - 4:.6f} more, where 0.001 * 8 = 0.008 was foretold\n")
assert (loss.item(), float(w.grad), float(b.grad)) == (4, 8, 4)
assert np.isclose(moved - 4, 0.008, rtol=0.001)

# %% [markdown]
# ## The tape
# While the expression is computed, each op notes what it was made from. `backward` walks these notes from the end to
# the start. `trace` lets us watch: every op with its inputs, its output, and the gradients that came in and went out.
# The engine calls an output after the op that made it (mul, add, sub, pow); we print the letters from above.

# %%
with trace() as tape:
    loss = (w * x + b - y) ** 2
    loss.backward()


letters = {"mul": "w x", "add": "p", "sub": "e", "pow": "L"}


def letter(source):
    """What the text above calls a tensor: the letter of an op's output, or the tensor's own name."""
    return letters.get(source, source)


def inputs(record):
    """The inputs of an op: where each came from, and its value."""
    return ", ".join(f"{letter(record.sources[name]) or 'number'} = {value:g}" for name, value in record.inputs.items())


print("forward, first to last")
for record in tape:
    print(f"  {record.name:4} of {inputs(record):24} -> {letter(record.name)} = {record.output:g}")
print("backward, last to first")
for record in reversed(tape.ops):
    sent = ", ".join(f"{g:g} to {letter(record.sources[name])}" for name, g in record.gradients_out.items())
    print(f"  {record.name:4} gets dL/d({letter(record.name)}) = {record.gradient_in:g}, sends {sent}")
assert [record.name for record in tape] == ["mul", "add", "sub", "pow"]
assert {letter(record.name): record.output for record in tape} == {"w x": 6, "p": 5, "e": 2, "L": 4}  # as by hand
assert tape["mul"].gradients_out["a"] == 8
assert tape["pow"].gradient_in == 1  # the loss with respect to itself: where every walk begins

# %% [markdown]
# Nobody asked for the gradient of x or y, so none is computed: only leaves made with `requires_grad=True` want one.
#
# ## Two ways to the same place: gradients add up
# In f = x x + x the number x is used three times. Each use sends a gradient, and x gets their sum.

# %%
leaf = Tensor(np.array(3.0), requires_grad=True, name="x")
with trace() as tape:
    (leaf * leaf + leaf).backward()
sent = [float(g) for record in tape for name, g in record.gradients_out.items() if record.sources[name] == "x"]
print(f"\nf = x x + x at x = 3: x is sent {sent}, sum {sum(sent):g}; by the formula 2 x + 1 = {2 * 3 + 1}")
assert sorted(sent) == [1, 3, 3]
assert leaf.grad == sum(sent) == 7

# %% [markdown]
# ## One walk, however many ways
# **Before you go on:** double a number thirty times, s = s + s. How many paths lead from the start to the end? And how
# many steps does the way back take?

# %%
start = Tensor(np.array(1.0), requires_grad=True)
s = start
for _ in range(30):
    s = s + s
with trace() as tape:
    begin = perf_counter()
    s.backward()
    seconds = perf_counter() - begin
print(f"30 doublings: {2**30:,} paths, 30 ops; gradient {start.grad:,.0f} in {seconds * 1000:.1f} ms\n")
assert start.grad == 2**30

# %% [markdown]
# The engine visits an op only when all that used its output have sent their gradients. So each op works once, however
# many paths run through it.
#
# ## Why backward?
# Differences (lesson 7) need a forward pass for every weight. The tape needs one walk for all of them.

# %%
model = paper_network()
image, label = fish("clownfish", 9)[None], np.ones((1, 1), np.float32)
forward, backward = [], []
for _ in range(5):
    begin = perf_counter()
    loss = ops.binary_cross_entropy(model(image), label)
    middle = perf_counter()
    loss.backward()
    forward.append(middle - begin)
    backward.append(perf_counter() - middle)
fast, slow = min(forward), min(backward)
print(f"one fish: forward {fast * 1000:.1f} ms, backward {slow * 1000:.1f} ms for all {model.count_params():,} weights")
print(f"a forward pass for each weight would take about {fast * model.count_params() / 60:.0f} minutes")
assert all(weight.grad.shape == weight.shape for weight in model.weights)
assert slow < 100 * fast

# One of the 813,217, checked: move it a little, and the loss moves as foretold. (What is left are float32's roundings,
# and ReLUs and pools that switch within the step.)
kernel = model.layers[0].weights["kernel"]
place = np.unravel_index(np.abs(kernel.grad).argmax(), kernel.shape)
values = {}
for step in (-0.001, 0.001):
    kernel.data[place] += step
    values[step] = ops.binary_cross_entropy(model(image), label).item()
    kernel.data[place] -= step
measured = (values[0.001] - values[-0.001]) / 0.002
print(f"filter weight {tuple(map(int, place))}: gradient {kernel.grad[place]:.5f}, measured slope {measured:.5f}")
assert np.isclose(kernel.grad[place], measured, rtol=0.02)


# %%
def draw(figure):
    axes = figure.subplots()
    places = {"w = 3": (0, 1), "x = 2": (0, 0), "*": (1, 0.5), "b = -1": (1, 1.5), "+": (2, 1), "y = 3": (2, 0),
              "-": (3, 0.5), "^2": (4, 0.5), "L": (5, 0.5)}  # fmt: skip
    lines = [("w = 3", "*", "w = 3", "8"), ("x = 2", "*", "x = 2", ""), ("*", "+", "6", "4"),
             ("b = -1", "+", "b = -1", "4"), ("+", "-", "p = 5", "4"), ("y = 3", "-", "y = 3", ""),
             ("-", "^2", "e = 2", "4"), ("^2", "L", "L = 4", "1")]  # fmt: skip
    for start, end, value, gradient in lines:
        (x0, y0), (x1, y1) = places[start], places[end]
        axes.annotate("", (x1 - 0.1, y1), (x0 + 0.1, y0), arrowprops={"arrowstyle": "->", "color": "gray"})
        axes.text((x0 + x1) / 2, (y0 + y1) / 2 + 0.11, value, ha="center", va="bottom", color="tab:blue")
        axes.text((x0 + x1) / 2, (y0 + y1) / 2 - 0.11, gradient, ha="center", va="top", color="tab:red")
    for name, (column, height) in places.items():
        leaf = "=" in name
        axes.text(column, height, name[0] if leaf else name, ha="center", va="center", fontsize=12,
                  bbox={"boxstyle": "circle", "facecolor": "white" if leaf else "lightgray"})  # fmt: skip
    axes.set_xlim(-0.3, 5.3)
    axes.set_ylim(-0.2, 1.7)
    axes.axis("off")
    axes.set_title("L = (w x + b - y)^2. Blue, forward: the values. Red, backward: dL/d(value)", fontsize=11)


picture("05_tape", draw, 9, 4)

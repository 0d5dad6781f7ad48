# %% [markdown]
"""
# 7. Is a gradient right?

Afterwards you can answer:

- How can a derivative be measured without knowing any calculus, and how exactly?
- Why is a smaller step not always better, and what does the complex step do about it?
- Which mistakes does the checker find, and which can it not find?

The paper trusts Keras here. We wrote our own derivatives, so we check each of them.
"""

# %%
import numpy as np
from lesson import picture

from tinycnn import Tensor, gradcheck, ops, use_backend
from tinycnn.gradcheck import GradientError

use_backend("numpy")

# %% [markdown]
# ## Measuring a slope
# A derivative says how much the output changes for a small change of the input. So change the input and look.
#
# - One-sided difference: (f(x + h) - f(x)) / h.
# - Two-sided difference: (f(x + h) - f(x - h)) / 2h. The errors of the two sides largely cancel.
# - Complex step: f(x + ih), and take the imaginary part over h. Nothing is subtracted.
#
# **Before you go on:** with h = 0.001, h = 0.00000001 and h = 0.000000000000001, which difference is the best?


# %%
def f(x):
    """The cross-entropy of a sigmoid with label 1, at one number: -log(1 / (1 + e^-x))."""
    return ops.binary_cross_entropy(ops.sigmoid(Tensor(np.array([x]))), np.ones(1)).numpy()


X = 0.7
leaf = Tensor(np.array([X]), requires_grad=True)
ops.binary_cross_entropy(ops.sigmoid(leaf), np.ones(1)).backward()
exact = leaf.grad[0]
print(f"slope at {X} by the engine: {exact:.15f}; by the formula sigmoid(x) - 1: {1 / (1 + np.exp(-X)) - 1:.15f}")
assert np.isclose(exact, 1 / (1 + np.exp(-X)) - 1, rtol=1e-14)

steps = 10.0 ** np.arange(-1, -31, -1)
one_sided = np.array([(f(X + h) - f(X)) / h for h in steps])
two_sided = np.array([(f(X + h) - f(X - h)) / (2 * h) for h in steps])
complex_step = np.array([f(X + 1j * h).imag / h for h in steps])
errors = {
    "one-sided": np.abs(one_sided / exact - 1),
    "two-sided": np.abs(two_sided / exact - 1),
    "complex step": np.abs(complex_step / exact - 1),
}
print("\nrelative error of the measured slope")
print(f"{'step h':>8}" + "".join(f"{name:>15}" for name in errors))
for exponent in (1, 3, 5, 8, 11, 15, 20, 30):
    print(f"{steps[exponent - 1]:8.0e}" + "".join(f"{e[exponent - 1]:15.1e}" for e in errors.values()))

# %% [markdown]
# Coming from the left, the differences get better, because a short piece of a curve is nearly straight. Then they get
# worse: f(x + h) and f(x - h) agree in more and more digits, and the subtraction leaves only the rounding errors.
# Two-sided differences are at their best near 1e-5, the cube root of the rounding error 1e-16.
# The complex step subtracts nothing, so its step can be as small as one likes; the checker uses 1e-30.

# %%
best = {name: steps[np.argmin(error)] for name, error in errors.items()}
print(f"\nbest steps: one-sided {best['one-sided']:.0e}, two-sided {best['two-sided']:.0e}")
assert 1e-10 < best["one-sided"] < 1e-6 < best["two-sided"] < 1e-3
assert errors["two-sided"].min() > 1e-13
assert (errors["complex step"][steps < 1e-8] < 1e-14).all()
assert errors["one-sided"][-1] == 1  # h = 1e-30 vanishes beside 0.7: the difference is 0

# %% [markdown]
# ## The checker
# `gradcheck` takes a complex step in every element of every input and compares with what `backward` says.

# %%
rng = np.random.default_rng(0)
x, w, b = rng.standard_normal((2, 6, 6, 3)), rng.standard_normal((3, 3, 3, 4)), rng.standard_normal(4)
report = gradcheck(ops.conv2d, x, w, b)
print(f"\nconvolution: {report.elements} derivatives, largest relative error {report.error:.1e}")
assert report.elements == x.size + w.size + b.size
assert report.error < 1e-12

# %% [markdown]
# ## Planted bugs
# Four wrong backward passes, each a mistake that people make; every forward pass is right.
# (An underscore keeps a class out of the engine's list of ops.)


# %%
class _ReLUWithoutGate(ops.ReLU):
    """Lets the gradient through everywhere."""

    def backward(self, gy):
        return (gy,)


class _MeanThatSums(ops.Mean):
    """Forgets to divide the gradient by the number of elements."""

    def backward(self, gy):
        return super().backward(gy * self.count)


class _ConvOfFirstImage(ops.Conv2D):
    """The filter's gradient from the first image alone: the sum over the batch is forgotten."""

    def backward(self, gy):
        gx, _, gb = super().backward(gy)
        taps, f = self.cols.shape[3], gy.shape[3]
        first = self.cols[0].reshape(-1, taps).T @ gy[0].reshape(-1, f)
        return gx, first.reshape(self.w.shape), gb


class _PoolToAll(ops.MaxPool2D):
    """Sends each gradient to the first place of its window instead of the winner."""

    def backward(self, gy):
        return (self.k.max_pool2d_backward(gy, np.zeros_like(self.winner), self.win),)


bugs = {
    "ReLU lets all through": (_ReLUWithoutGate.apply, (rng.standard_normal((3, 4)),)),
    "mean not divided": (_MeanThatSums.apply, (rng.standard_normal((3, 4)),)),
    "filter: batch not summed": (_ConvOfFirstImage.apply, (x, w, b)),
    "pool: not to the winner": (_PoolToAll.apply, (rng.standard_normal((1, 4, 4, 1)),)),
}
found = 0
print("\nplanted bugs")
for name, (function, inputs) in bugs.items():
    try:
        gradcheck(function, *inputs)
        print(f"  {name:26} NOT FOUND")
    except GradientError as error:
        found += 1
        _, place, words = str(error).split(": ", 2)
        print(f"  {name:26} found; worst: {place}: {words.split(', the complex')[0]}")
assert found == len(bugs)

# %% [markdown]
# ## What it cannot find
# **1. Inputs that hide the bug.** With a batch of one image, the third bug is no bug. Checks need inputs in general
# position: random, no symmetry, more than one of everything.
#
# **2. Kinks.** At exactly 0, ReLU has no slope; the two sides say 0 and 1. The engine says 0, and no measurement can
# decide. The complex step asks the real part alone and agrees with the engine. The two-sided difference says one half
# (times the fixed weight near 1 that the checker gives each output, so that errors cannot cancel).
#
# **3. A wrong forward pass with a matching backward pass.** The checker compares the two with each other. Whether the
# convolution is a convolution, other tests must say: against loops, and against other libraries.

# %%
gradcheck(_ConvOfFirstImage.apply, x[:1], w, b)  # passes!
print("\n1. a batch of one hides the forgotten sum")
zero = np.zeros(1)
gradcheck(ops.relu, zero)
try:
    gradcheck(ops.relu, zero, method="difference")
    raise SystemExit("the difference should have disagreed")
except GradientError as error:
    print("2.", error)


class _ReLUAtOne(ops.ReLU):
    """A wrong ReLU, max(x, 1), with the right derivative of that."""

    def forward(self, x):
        self.above = x.real > 1
        return np.where(self.above, x, 1)

    def backward(self, gy):
        return (gy * self.above,)


gradcheck(_ReLUAtOne.apply, rng.standard_normal((3, 4)))
print("3. max(x, 1) in place of max(x, 0) passes: its derivative is right, the function is wrong")


# %%
def draw(figure):
    axes = figure.subplots()
    for (name, error), style in zip(errors.items(), ("s--", "o--", "-"), strict=True):
        axes.loglog(steps, np.maximum(error, 1e-17), style, markersize=4, label=name)
    axes.invert_xaxis()
    axes.axhline(2.0**-53, color="gray", linewidth=0.8)
    axes.set_ylim(1e-17, 10)
    axes.text(0.7, 2e-17, "below the line: less than the rounding of float64, 1.1e-16", fontsize=8)
    axes.set_xlabel("step h (smaller to the right)")
    axes.set_ylabel("relative error of the slope (0 drawn as 1e-17)")
    axes.set_title("Measuring a derivative: differences have a best step, the complex step only gets better")
    axes.legend()


picture("07_gradient_error", draw, 8, 4.6)

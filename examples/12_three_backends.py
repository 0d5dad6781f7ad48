# %% [markdown]
"""
# 12. One network, three backends

Afterwards you can answer:

- What is a backend, and what stays the same when it changes?
- Why do the numbers agree to about seven digits and not to the last bit?
- Do the numbers depend on how many threads work?

The paper ran in Colab, "such as GPUs". Here the same network runs in NumPy, in kernels that Numba compiles for the CPU,
and in CUDA kernels on a GPU where there is one.
"""

# %%
from statistics import median
from time import perf_counter

import numpy as np
from lesson import fish, paper_network, picture

import tinycnn
from tinycnn import Tensor, backend
from tinycnn.errors import BackendError

FISH, STEPS = 32, 8
kinds = ("angelfish", "clownfish")
x = np.stack([fish(kinds[i % 2], i // 2 + 1) for i in range(FISH)])  # (32, 64, 64, 3)
y = np.arange(FISH, dtype=np.float32) % 2


def network():
    """The paper's network. The weights begin the same on every backend: they come from the seed."""
    model = paper_network()
    model.compile(optimizer="adam", loss="binary_crossentropy")
    return model


# %% [markdown]
# ## The yardstick
# What would the probabilities be without rounding? float64, with nine digits more than float32, comes close.

# %%
tinycnn.use_backend("numpy")
value = Tensor(x.astype(np.float64))
for layer in network().layers:
    value = layer(value)
exact = value.numpy()
assert exact.dtype == np.float64

# %% [markdown]
# ## The same work, three times
# Predict, then eight training steps. **Before you go on:** which of the CPU's two is faster, and by how much?

# %%
results = {}
for name in backend.NAMES:
    try:
        home = tinycnn.use_backend(name)
    except BackendError as error:
        print(f"({error})")
        continue
    model = network()
    p = model.predict_on_batch(x)
    losses, times = [], []
    for _ in range(STEPS):
        begin = perf_counter()
        (loss,) = model.train_on_batch(x, y)
        times.append(perf_counter() - begin)
        losses.append(loss)
    results[name] = {"p": p, "losses": np.array(losses), "weights": model.get_weights(), "ms": 1000 * median(times[3:])}
    print(f"{name:6} on {home.device}: done")

print(f"\n{'':7} {'p of fish 0':>12} {'off float64':>12} {'loss, step 1':>13} {'step 8':>10} {'ms a step':>10}")
for name, r in results.items():
    off = np.abs(r["p"] - exact).max()
    print(f"{name:7} {r['p'][0, 0]:12.8f} {off:12.1e} {r['losses'][0]:13.8f} {r['losses'][-1]:10.6f} {r['ms']:10.1f}")
    assert off < 1e-6
    assert np.allclose(r["losses"], results["numpy"]["losses"], rtol=1e-3)
assert results["numba"]["losses"][-1] < results["numba"]["losses"][0]
print("each is a little off the float64 value, each in its own way: none of them is 'the wrong one'")
slow, fast = results["numpy"]["ms"], results["numba"]["ms"]
print(f"numba is {slow / fast:.1f} times as fast as numpy here\n")

# %% [markdown]
# ## Why not to the last bit?
# float32 keeps about seven digits, and rounds after every addition. So the order of additions matters:

# %%
a, b, c = np.float32(1e8), np.float32(-1e8), np.float32(1)
print(f"(1e8 - 1e8) + 1 = {(a + b) + c:g}, but 1e8 + (-1e8 + 1) = {a + (b + c):g}")
assert (a + b) + c == 1
assert a + (b + c) == 0

# %% [markdown]
# A fast kernel adds in another order than a slow one: many sums side by side, then all together. Both orders are as
# good. After a few steps of training the small differences have grown a little, since each step starts from them:

# %%
difference = [
    np.abs(u - v).max() for u, v in zip(results["numpy"]["weights"], results["numba"]["weights"], strict=True)
]
print(f"largest difference of a weight after {STEPS} steps, numpy and numba: {max(difference):.1e}")
assert max(difference) < 0.01

# %% [markdown]
# ## And the number of threads?
# **Before you go on:** two threads add in another order than one, don't they?
#
# They need not. This engine cuts a batch into the same parts however many threads there are, and adds the parts in the
# same order. So in the numba backend the same program gives the same bits.

# %%
tinycnn.use_backend("numba")
by_threads = {}
for threads in (1, 2):
    tinycnn.set_threads(threads)
    model = network()
    for _ in range(3):
        model.train_on_batch(x, y)
    by_threads[threads] = model.get_weights()
same = all((u == v).all() for u, v in zip(by_threads[1], by_threads[2], strict=True))
print(f"one thread and two give the same bits in all {model.count_params():,} weights: {same}")
assert same


# %%
def draw(figure):
    left, right = figure.subplots(1, 2)
    names = list(results)
    bars = left.bar(names, [results[name]["ms"] for name in names], color="tab:blue")
    left.bar_label(bars, fmt="%.1f")
    left.margins(y=0.12)
    left.set_ylabel("milliseconds per training step (32 fish)")
    left.set_title("Not the same time")
    for name, style in zip(names, ("o-", "x--", "+:"), strict=False):
        right.plot(range(1, STEPS + 1), results[name]["losses"], style, label=name, markersize=9)
    right.set_xlabel("training step")
    right.set_ylabel("loss")
    right.set_title("The same losses")
    right.legend()


picture("12_backends", draw, 9, 4)

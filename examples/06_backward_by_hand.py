# %% [markdown]
"""
# 6. Backward through a convolution, a ReLU and a pool

Afterwards you can answer:

- Where does a pool send its gradient, and what does ReLU do with it?
- What are the products that add up to the gradient of one filter weight?
- How does the gradient get back to the pixels, and why is that again a convolution?

The paper: section I says that "the network learns to optimize the filters"; this is how a filter learns.
"""

# %%
import numpy as np
from lesson import number_grid, picture

from tinycnn import Tensor, ops, trace, use_backend

use_backend("numpy")

# %% [markdown]
# A 6x6 image, a 3x3 filter: a 4x4 map, ReLU, and a 2x2 pool: four numbers. The "loss" is their sum with weights
# 1, 2, 3, 4, so these are the gradients that arrive at the pool.

# %%
rng = np.random.default_rng(24)
image = rng.integers(-3, 4, (6, 6)).astype(float)
filter_ = rng.integers(-2, 3, (3, 3)).astype(float)
arriving = np.array([[1.0, 2.0], [3.0, 4.0]])

x = Tensor(image[None, :, :, None], requires_grad=True, name="x")  # (1, 6, 6, 1)
w = Tensor(filter_[:, :, None, None], requires_grad=True, name="w")  # (3, 3, 1, 1)
with trace() as tape:
    pooled = ops.max_pool2d(ops.relu(ops.conv2d(x, w)))
    (pooled * arriving[None, :, :, None]).sum().backward()


def plane(array):
    """(1, H, W, 1) or (KH, KW, 1, 1) as a plain matrix."""
    return array.reshape([size for size in array.shape if size > 1])


def show(title, *matrices):
    """Small matrices of whole numbers, side by side."""
    print(title)
    for i in range(max(map(len, matrices))):
        rows = (" ".join(f"{v:4.0f}" for v in m[i]) if i < len(m) else " " * (5 * m.shape[1] - 1) for m in matrices)
        print("   ", "      ".join(rows).rstrip())


convolved, output = plane(tape["conv2d"].output), plane(tape["max_pool2d"].output)
show("the image (6x6) and the filter (3x3)", image, filter_)
show("forward: convolved map (4x4), after ReLU, after the pool (2x2)", convolved, plane(tape["relu"].output), output)
products = (image[:3, :3] * filter_).ravel()
print(f"upper left of the map: {' '.join(f'{v + 0:+.0f}' for v in products)} = {products.sum():.0f}\n")  # + 0: not -0
assert output.shape == (2, 2)
assert products.sum() == convolved[0, 0]

# %% [markdown]
# ## The pool: to the winner
# Only the largest of each window had a say, so it alone gets the gradient; the other three get 0. Where several are
# largest, as in the lower left window, which is all 0 after ReLU, the first of them is taken for the winner.
#
# ## ReLU: a gate
# Where the input was above 0, the gradient passes; elsewhere a small change would change nothing, so it is 0.
#
# **Before you go on:** of 16 places in the map, how many can get a gradient at most? And look at the lower left
# window: what happens to its 3?

# %%
after_pool = np.zeros((4, 4))
for i in range(2):
    for j in range(2):
        window = plane(tape["relu"].output)[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        a, b = np.unravel_index(window.argmax(), (2, 2))  # the first, where several are largest
        after_pool[2 * i + a, 2 * j + b] = arriving[i, j]
after_relu = after_pool * (convolved > 0)
show("backward: out of the pool, by hand and by the engine", after_pool, plane(tape["max_pool2d"].gradients_out["x"]))
show("          through ReLU, by hand and by the engine", after_relu, plane(tape["relu"].gradients_out["x"]))
assert (after_pool == plane(tape["max_pool2d"].gradients_out["x"])).all()
assert (after_relu == plane(tape["relu"].gradients_out["x"])).all()
assert (after_relu != 0).sum() == 3  # in one window nothing fired
print(f"{(after_relu != 0).sum()} of 16 places carry on. So this engine's fast kernels visit only the winners.\n")

# %% [markdown]
# ## One weight of the filter
# Weight (a, b) was multiplied with pixel (i + a, j + b) at every place (i, j) of the map. So its gradient is the sum,
# over all places, of (gradient there) x (that pixel).

# %%
a, b = 0, 2
terms = [(i, j, after_relu[i, j], image[i + a, j + b]) for i in range(4) for j in range(4) if after_relu[i, j]]
print(f"gradient of filter weight ({a}, {b}):")
for i, j, g, pixel in terms:
    print(f"   place ({i}, {j}): gradient {g:2.0f} x pixel ({i + a}, {j + b}) {pixel:2.0f} = {g * pixel:3.0f}")
total = sum(g * pixel for _, _, g, pixel in terms)
print(f"   sum {total:.0f}; engine {w.grad[a, b, 0, 0]:.0f}")
assert total == w.grad[a, b, 0, 0]

gw = np.zeros((3, 3))
for a in range(3):
    for b in range(3):
        gw[a, b] = (after_relu * image[a : a + 4, b : b + 4]).sum()
show("all nine, by hand and by the engine", gw, plane(w.grad))
assert (gw == plane(w.grad)).all()
print("This is a convolution of the image with the gradient as the filter: 6 - 4 + 1 = 3 places a side.\n")

# %% [markdown]
# ## Back to the pixels
# Each place of the map hands its gradient to the nine pixels that it looked at, times the filter's weights. Where tiles
# overlap, the shares add up.

# %%
gx = np.zeros((6, 6))
for i in range(4):
    for j in range(4):
        gx[i : i + 3, j : j + 3] += after_relu[i, j] * filter_
show("gradient of the image, by hand and by the engine", gx, plane(x.grad))
assert (gx == plane(x.grad)).all()

# %% [markdown]
# Said from the pixel's side: which places saw it, and with which weight? Pixel (2, 2) is the last of the nine for place
# (0, 0), so that place used the last weight, (2, 2). For place (2, 2) it is the first, and the weight is (0, 0).
# The further right and down a place is, the further left and up is its weight: read in the order of the places, the
# weights stand turned by 180 degrees.

# %%
r, c = 2, 2
places = [(i, j) for i in range(r - 2, r + 1) for j in range(c - 2, c + 1)]  # all nine lie on the map
shares = [after_relu[i, j] * filter_[r - i, c - j] for i, j in places]
print(f"\npixel ({r}, {c}) was seen by nine places; those with a gradient:")
for (i, j), share in zip(places, shares, strict=True):
    if after_relu[i, j]:
        weight = f"weight ({r - i}, {c - j}) {filter_[r - i, c - j]:2.0f}"
        print(f"   place ({i}, {j}): gradient {after_relu[i, j]:2.0f} x {weight} = {share:3.0f}")
print(f"   sum {sum(shares):.0f}; engine {plane(x.grad)[r, c]:.0f}")
used = np.array([filter_[r - i, c - j] for i, j in places]).reshape(3, 3)
show("the nine places' gradients, the weight that each used here, and the filter", after_relu[:3, :3], used, filter_)
assert sum(shares) == plane(x.grad)[r, c]
assert (used == filter_[::-1, ::-1]).all()

# %% [markdown]
# So for every pixel: lay the turned filter on the gradients around it, multiply, add. That is a convolution again; the
# gradient is padded with two rows of 0 on each side, for the pixels at the border that fewer places saw.

# %%
padded = np.pad(after_relu, 2)[None, :, :, None]
turned = filter_[::-1, ::-1][:, :, None, None]
as_convolution = plane(ops.conv2d(Tensor(padded), Tensor(turned.copy())).numpy())
assert (as_convolution == gx).all()
print("the same by a convolution of the padded gradient with the turned filter: equal in all 36 places\n")

# %% [markdown]
# ## Does it hold?
# Change one pixel and one weight, and look at the loss.


# %%
def loss(image, filter_):
    """The same forward pass on other numbers."""
    y = ops.max_pool2d(ops.relu(ops.conv2d(Tensor(image[None, :, :, None]), Tensor(filter_[:, :, None, None]))))
    return float((plane(y.numpy()) * arriving).sum())


h = 1e-3
pixel, weight = np.unravel_index(np.abs(gx).argmax(), gx.shape), (0, 2)
more_pixel, more_weight = image.copy(), filter_.copy()
more_pixel[pixel] += h
more_weight[weight] += h
for name, slope, gradient in (
    (f"pixel {tuple(map(int, pixel))}", (loss(more_pixel, filter_) - loss(image, filter_)) / h, gx[pixel]),
    (f"weight {weight}", (loss(image, more_weight) - loss(image, filter_)) / h, gw[weight]),
):
    print(f"{name}: measured slope {slope:.6f}, gradient {gradient:.0f}")
    assert np.isclose(slope, gradient, atol=1e-6)


# %%
def draw(figure):
    panels = figure.subplots(2, 5, width_ratios=(6, 3, 4, 4, 2.6))
    number_grid(panels[0, 0], image, "image")
    number_grid(panels[0, 1], filter_, "filter")
    number_grid(panels[0, 2], convolved, "convolved with the filter")
    number_grid(panels[0, 3], plane(tape["relu"].output), "after ReLU")
    number_grid(panels[0, 4], output, "after the pool")
    number_grid(panels[1, 0], gx, "at the image: shares add up")
    number_grid(panels[1, 1], gw, "at the filter")
    number_grid(panels[1, 2], after_relu, "through ReLU's gate")
    number_grid(panels[1, 3], after_pool, "out of the pool: winners")
    number_grid(panels[1, 4], arriving, "what arrives")
    panels[0, 0].set_ylabel("forward: read to the right", fontsize=11)
    panels[1, 0].set_ylabel("backward: read to the left", fontsize=11)


picture("06_backward", draw, 12.5, 5.6)

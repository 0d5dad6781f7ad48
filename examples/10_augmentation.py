# %% [markdown]
"""
# 10. Augmentation in its real units

Afterwards you can answer:

- What do `shear_range`, `zoom_range` and `horizontal_flip` do to a picture, in degrees, shares and pixels?
- What does the paper's `shear_range = 0.2` do? What was it probably meant to do?
- Why does the network never see the same picture twice, and why does the same program still give the same numbers?

The paper: Figure 7.
"""

# %%
import numpy as np
from lesson import fish, picture

from tinycnn import use_backend
from tinycnn.preprocessing.augment import affine_matrices
from tinycnn.preprocessing.image import ImageDataGenerator

use_backend("numpy")

# %% [markdown]
# ## One map for everything
# Each change is a map that says, for every pixel of the new picture, where in the old one to look. Shear, zoom and flip
# multiply into one such map, so each picture is looked up once, and mixed from the four pixels around each place.


# %%
def largest_move(**parameters):
    """How far, in pixels, the place where a pixel looks is from its own, at most, in a 64x64 picture."""
    i, j = np.mgrid[0:64, 0:64]
    here = np.stack([i, j, np.ones_like(i)]).reshape(3, -1)  # (row, column, 1) of every pixel
    there = affine_matrices(parameters, 64, 64) @ here
    return np.hypot(*(there - here[:2])).max()


generator = ImageDataGenerator()
x = fish("clownfish", 9)
flipped = generator.apply_transform(x, {"flip_horizontal": True})
assert (flipped == x[:, ::-1]).all()
print("a horizontal flip is the columns in reverse, to the last bit: nothing is mixed\n")

# %% [markdown]
# ## Shear: degrees
# **Before you go on:** the paper writes `shear_range = 0.2`. How many pixels does that move in a 64x64 picture?

# %%
print(f"{'shear':>22}  {'largest move':>12}  {'mean change of a value (of 255)':>32}")
change = {}
for name, degrees in (("0.2 degrees", 0.2), ("0.2 radians = 11.46", np.rad2deg(0.2)), ("20 degrees", 20)):
    y = generator.apply_transform(x, {"shear": degrees})
    change[name] = np.abs(y - x).mean() * 255
    print(f"{name:>22}  {largest_move(shear=degrees):9.2f} px  {change[name]:32.2f}")
assert largest_move(shear=0.2) < 0.12
assert 6 < largest_move(shear=np.rad2deg(0.2)) < 6.5
print(f"0.2 radians change the picture {change['0.2 radians = 11.46'] / change['0.2 degrees']:.0f} times as much\n")
assert change["0.2 radians = 11.46"] > 10 * change["0.2 degrees"]

# %% [markdown]
# In Keras the unit has been degrees since version 2.1.3; before, it was radians, and 0.2 stands in tutorials from
# before. With any Keras of the paper's day its shear moves no pixel by more than 0.11: as good as nothing.
#
# ## Zoom: shares, drawn twice
# `zoom_range = 0.2` draws a factor from 0.8 to 1.2 for the width and *another* for the height: fish get
# stretched as well. The factor is the size of the area shown: below 1 the fish looks nearer.

# %%
drawn = [ImageDataGenerator(zoom_range=0.2).get_random_transform((64, 64, 3), seed=s) for s in range(1000)]
zx, zy = (np.array([d[name] for d in drawn]) for name in ("zx", "zy"))
stretch = np.maximum(zx / zy, zy / zx)
print(f"1000 draws: width factors {zx.min():.2f} to {zx.max():.2f}, height factors {zy.min():.2f} to {zy.max():.2f}")
print(f"their correlation is {np.corrcoef(zx, zy)[0, 1]:+.2f}: one tells nothing of the other")
print(f"so fish are stretched: by {stretch.mean() - 1:.0%} in the mean, {stretch.max() - 1:.0%} at most")
print(f"largest move at a factor of 0.8: {largest_move(zx=0.8, zy=0.8):.1f} px\n")
assert zx.min() >= 0.8
assert zx.max() <= 1.2
assert abs(np.corrcoef(zx, zy)[0, 1]) < 0.1
assert 1 < stretch.mean() < stretch.max() <= 1.5

# %% [markdown]
# ## All of it, over and over
# Every time a training picture comes up, it is changed anew: thirty passes show thirty versions of each fish, all with
# the same label. That is only right where the change keeps the meaning: a mirrored clownfish is a clownfish, but a
# mirrored "b" is a "d".
#
# The draws depend on the seed, the pass and the picture's number, on nothing else. So the same program gives the same
# pictures, in any order and with any number of threads.

# %%
settings = {"rescale": 1 / 255, "shear_range": float(np.rad2deg(0.2)), "zoom_range": 0.2, "horizontal_flip": True}
pixels = (np.stack([x, fish("angelfish", 7)]) * 255).round().astype(np.uint8)


def passes(seed):
    """Five passes over the two fish, as training would see them: (5, 2, 64, 64, 3)."""
    stream = ImageDataGenerator(**settings).flow(pixels, batch_size=2, shuffle=False, seed=seed)
    return np.stack([next(stream) for _ in range(5)])


first, again, other = passes(1), passes(1), passes(2)
print(f"the same seed gives the same pictures: {(first == again).all()}; another seed: {(first == other).all()}")
differences = [np.abs(first[i, 0] - first[j, 0]).mean() * 255 for i in range(5) for j in range(i)]
print(f"five passes show five clownfish; two of them differ by {min(differences):.0f} to {max(differences):.0f} of 255")
assert (first == again).all()
assert not (first == other).all()
assert min(differences) > 1


# %%
def draw(figure):
    singles = {
        "as drawn": {},
        "shear 0.2 degrees\n(the paper)": {"shear": 0.2},
        "shear 11.46 degrees\n(0.2 radians)": {"shear": np.rad2deg(0.2)},
        "zoom 0.8": {"zx": 0.8, "zy": 0.8},
        "zoom 1.2": {"zx": 1.2, "zy": 1.2},
        "zoom 0.8 wide,\n1.2 high": {"zx": 0.8, "zy": 1.2},
        "flip": {"flip_horizontal": True},
    }
    rows = figure.subplots(4, 7)
    for row, image in zip(rows[:2], pixels / 255, strict=True):
        for axes, (name, parameters) in zip(row, singles.items(), strict=True):
            axes.imshow(np.clip(generator.apply_transform(image, parameters), 0, 1), interpolation="nearest")
            axes.set_title(name, fontsize=9)
    for k, row in enumerate(rows[2:]):
        titles = ["as drawn", *(f"pass {i}" for i in range(1, 6))]
        for axes, image, title in zip(row, [pixels[k] / 255, *first[:, k]], titles, strict=False):
            axes.imshow(np.clip(image, 0, 1), interpolation="nearest")
            axes.set_title(title, fontsize=9)
        row[6].axis("off")
    for axes in rows.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle("Top: one change at a time. Bottom: what five passes of training see (shear up to 11.46 degrees)")


picture("10_augmentation", draw, 11, 7.2)

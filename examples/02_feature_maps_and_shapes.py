# %% [markdown]
"""
# 2. Feature maps and shapes

Afterwards you can answer:

- What do the four axes of "inputs x height x width x channels" count?
- How does each layer of the fish network change the shape, and where do its 813,217 weights sit?
- What does one channel of a feature map show?

The paper: the end of section I, section II.C, and the network of Figures 5 and 6.
"""

# %%
import numpy as np
from lesson import fish, paper_network, picture

from tinycnn import Tensor, ops, use_backend
from tinycnn.layers import Conv2D, Dense, Flatten, MaxPooling2D
from tinycnn.models import Sequential

use_backend("numpy")

# %% [markdown]
# ## Four axes
# The paper lists them: (number of inputs) x (input height) x (input width) x (input channels).
# Short: (N, H, W, C). Two drawn fish make a batch with N = 2, and three channels: red, green, blue.

# %%
batch = np.stack([fish("clownfish", 9), fish("angelfish", 7)])  # (2, 64, 64, 3)
print(f"a batch of two fish: {batch.shape}, values from {batch.min():.2f} to {batch.max():.2f}")
red, green, blue = batch[0, 40, 30]
print(f"fish 0, row 40, column 30: red {red:.2f}, green {green:.2f}, blue {blue:.2f}")
flat = batch.reshape(-1)
place = ((0 * 64 + 40) * 64 + 30) * 3 + 0
print(f"in memory the channels of one pixel lie side by side: number {place} is that red again: {flat[place]:.2f}\n")
assert batch.shape == (2, 64, 64, 3)
assert (flat[place : place + 3] == (red, green, blue)).all()

# %% [markdown]
# ## What one channel shows
# A filter looks for one thing, everywhere. The network will learn its filters; here are four made by hand.
#
# **Before you go on:** the last filter is "red minus blue". On which fish will its map be brighter?

# %%
names = ("brightness", "edge: left to right", "edge: top to bottom", "red minus blue")
filters = np.zeros((3, 3, 3, 4), np.float32)  # (KH, KW, C, F)
filters[..., 0] = 1 / 27  # the mean of all 27 numbers
filters[:, 0, :, 1], filters[:, 2, :, 1] = -1 / 9, 1 / 9
filters[0, :, :, 2], filters[2, :, :, 2] = -1 / 9, 1 / 9
filters[:, :, 0, 3], filters[:, :, 2, 3] = 1 / 9, -1 / 9
maps = ops.conv2d(Tensor(batch), Tensor(filters)).numpy()  # (N, OH, OW, F)
print(f"{batch.shape} by 4 filters of 3x3x3 -> {maps.shape}: 62 = 64 - 3 + 1, and a channel for each filter")
print(f"{'mean of the map':22} clownfish  angelfish")
for f, name in enumerate(names):
    print(f"{name:22} {maps[0, :, :, f].mean():9.3f}  {maps[1, :, :, f].mean():9.3f}")
assert maps.shape == (2, 62, 62, 4)
assert maps[0, :, :, 3].mean() > maps[1, :, :, 3].mean()
assert np.isclose(maps[0, 5, 7, 0], batch[0, 5:8, 7:10].mean(), rtol=1e-5)

# %% [markdown]
# These are two fish; do not take the last row for a classifier. Over twenty of each:

# %%
many = {kind: np.stack([fish(kind, i) for i in range(1, 21)]) for kind in ("clownfish", "angelfish")}
redness = {kind: (x[..., 0] - x[..., 2]).mean(axis=(1, 2)) for kind, x in many.items()}
redder = (redness["clownfish"] > np.median(redness["angelfish"])).sum()
print(f"{redder} of 20 clownfish are redder than the middle angelfish: this mean tells little more than a coin\n")
assert 5 <= redder <= 15

# %% [markdown]
# ## Through the whole network
# New against lesson 1: each filter and each output of a dense layer also has a *bias*, one number that is added to its
# sum and learned like the weights; so the first convolution has 3 * 3 * 3 * 32 = 864 weights and 32 biases, 896 in all.
#
# When 32 fish go through at once, as the paper's do, its output is (32, 62, 62, 32). The two 32s have nothing to do
# with each other: the first counts fish, the last counts filters.
#
# **Before you go on:** which layer holds most of the weights?

# %%
model = Sequential()
model.add(Conv2D(32, (3, 3), input_shape=(64, 64, 3), activation="relu"))
model.add(MaxPooling2D(pool_size=(2, 2)))
model.add(Conv2D(32, (3, 3), activation="relu"))
model.add(MaxPooling2D(pool_size=(2, 2)))
model.add(Flatten())
model.add(Dense(128, activation="relu"))
model.add(Dense(1, activation="sigmoid"))

print(f"{'layer':16} {'output':17} {'numbers':>8} {'weights':>8}  their shapes")
value = Tensor(batch)
counts = {}
for layer in model.layers:
    value = layer(value)
    shapes = [w.shape for w in layer.weights.values()]
    counts[layer.name] = sum(int(np.prod(shape)) for shape in shapes)
    row = f"{layer.name:16} {value.shape!s:17} {value.data[0].size:8} {counts[layer.name]:8}"
    print(row, "", " + ".join(map(str, shapes)))
print(f"weights in all: {model.count_params()}; numbers of one fish: {batch[0].size}\n")
assert value.shape == (2, 1)
assert counts["conv2d"] == 3 * 3 * 3 * 32 + 32
assert counts["conv2d_1"] == 3 * 3 * 32 * 32 + 32
assert counts["dense"] == 14 * 14 * 32 * 128 + 128
assert model.count_params() == sum(counts.values()) == 813_217

# %% [markdown]
# A convolution's weights do not depend on the image's size: the same small filters are used at every place.
# The first dense layer has a weight for every pair of an input and an output, and so holds almost all of them; and it
# grows with the image.

# %%
larger = paper_network(side=128)  # 128 -> 126 -> 63 -> 61 -> 30
new = {layer.name: sum(w.data.size for w in layer.weights.values()) for layer in larger.layers}
products = 30 * 30 * 32 * 128
print(f"for images of 128x128 the first dense layer has 30*30*32*128 = {products} weights and 128 biases; the other")
print(f"layers keep their numbers; in all {larger.count_params()}\n")
assert new["dense"] == products + 128
assert {name: n for name, n in new.items() if name != "dense"} == {n: c for n, c in counts.items() if n != "dense"}

# %% [markdown]
# The paper says that a convolutional layer reduces the dimensionality of images "without losing its information".
# Count: 12,288 numbers go in, 123,008 come out of the first convolution, and 6,272 reach the dense layer.
# A map from 12,288 numbers to 6,272 that pooling and ReLU are part of keeps some things and drops others (lesson 3).

# %%
share = counts["dense"] / model.count_params()
print(f"the first dense layer holds {share:.1%} of the weights")
assert share > 0.98

# The images of a batch do not meet: each is predicted as if it were alone.
together, alone = model(batch).numpy(), model(batch[1:]).numpy()
print(f"the angelfish in the batch: {together[1, 0]:.6f}; alone: {alone[0, 0]:.6f} (no training yet: near 0.5)")
assert np.allclose(together[1], alone[0], atol=1e-6)


# %%
def draw(figure):
    axes = figure.subplots(2, 5)
    for row, kind, image, its_maps in zip(axes, ("clownfish", "angelfish"), batch, maps, strict=True):
        row[0].imshow(image)
        row[0].set_title(f"{kind}, 64x64x3", fontsize=9)
        for f, name in enumerate(names):
            limit = np.abs(maps[..., f]).max()
            shown = row[f + 1].imshow(its_maps[..., f], cmap="RdBu_r", vmin=-limit, vmax=limit)
            row[f + 1].set_title(name, fontsize=9)
            figure.colorbar(shown, ax=row[f + 1], shrink=0.7)
        for one in row:
            one.set_xticks([])
            one.set_yticks([])
    figure.suptitle("Two fish and their feature maps (62x62), one per filter; red: above 0, blue: below", fontsize=10)


picture("02_feature_maps", draw, 12, 4.8)

# %% [markdown]
"""
# Clownfish or angelfish?

The paper's program (Z. E. Tapia Mejía, *Convolutional Neural Networks - Image Classification*, Figures 3 to 10) as a
notebook, on tinycnn, with its mistakes mended, and with a look at what the network sees.

It needs nothing but Python 3.11 or newer. On two cores it takes two to three minutes, most of them for drawing 10,000
fish; these are kept for the next time. With `QUICK = True` in the third cell it takes half a minute.
"""

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

# Where pip finds tinycnn if this notebook lies outside its repository: a wheel, or "git+https://..."
SOURCE = ""

if importlib.util.find_spec("tinycnn") is None:
    folders = (Path.cwd(), *Path.cwd().parents)
    checkout = next((folder for folder in folders if (folder / "tinycnn" / "tensor.py").is_file()), None)
    if not SOURCE and checkout is None:
        raise ModuleNotFoundError("tinycnn is not installed, and this is not its repository: say in SOURCE where it is")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", SOURCE or str(checkout)], check=True)

# %%
import numpy as np
from PIL import Image

import tinycnn
from tinycnn.datasets import fish
from tinycnn.layers import Conv2D, Dense, Flatten, MaxPooling2D
from tinycnn.models import Sequential
from tinycnn.preprocessing import image
from tinycnn.preprocessing.image import ImageDataGenerator

try:
    from IPython.display import display
except ImportError:  # as a plain script
    display = print

QUICK = False  # True: a few pictures, half a minute
TRAIN, TEST, EPOCHS = (256, 256, 15) if QUICK else (8000, 2000, 5)

# %% [markdown]
# ## The pictures (Figure 4)
# The paper's 10,000 photographs were not published. These are drawn: the same number, the same two kinds.
# With photographs of your own, let `folder` be one that holds `train` and `test`, with one folder per class in each,
# and put the class names in place of `fish.KINDS`.

# %%
folder = fish.make(train=TRAIN, test=TEST)


def sheet(images, columns, scale):
    """Pictures or maps, (N, H, W) or (N, H, W, 3) from 0 to 1, side by side in one picture."""
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1), *[(0, 0)] * (images.ndim - 3)), constant_values=1)
    rows = [np.concatenate(list(framed[i : i + columns]), axis=1) for i in range(0, len(framed), columns)]
    whole = Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8))
    return whole.resize((whole.width * scale, whole.height * scale), Image.Resampling.NEAREST)


files = [sorted((folder / "train" / kind).iterdir())[i] for kind in fish.KINDS for i in range(8)]
display(sheet(np.stack([image.img_to_array(image.load_img(f, target_size=(64, 64))) / 255 for f in files]), 8, 2))

# %% [markdown]
# ## The network (Figures 5 and 6)

# %%
model = Sequential()
model.add(Conv2D(32, (3, 3), input_shape=(64, 64, 3), activation="relu"))
model.add(MaxPooling2D(pool_size=(2, 2)))
model.add(Conv2D(32, (3, 3), activation="relu"))
model.add(MaxPooling2D(pool_size=(2, 2)))
model.add(Flatten())
model.add(Dense(128, activation="relu"))
model.add(Dense(1, activation="sigmoid"))
model.summary()

# %% [markdown]
# ## Augmentation and batches (Figures 7 and 8)
# The paper's `shear_range = 0.2` is a fifth of a degree, and moves nothing. 11.5 degrees are 0.2 radians.

# %%
train_data = ImageDataGenerator(rescale=1.0 / 255, shear_range=11.5, zoom_range=0.2, horizontal_flip=True)
test_data = ImageDataGenerator(rescale=1.0 / 255)
training_set = train_data.flow_from_directory(
    folder / "train", target_size=(64, 64), batch_size=32, class_mode="binary"
)
test_set = test_data.flow_from_directory(folder / "test", target_size=(64, 64), batch_size=32, class_mode="binary")
print(training_set.class_indices)

# %% [markdown]
# ## Training (Figure 9)
# The paper divides 8000 by 40 to count its batches, but they hold 32. Without these arguments every picture is seen
# once in each epoch. It trains for 30 epochs; on drawn fish 5 do.

# %%
model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
history = model.fit(training_set, epochs=EPOCHS, validation_data=test_set, verbose=2)
accuracy = history.history["val_accuracy"][-1]
print(f"accuracy on {test_set.n} test pictures: {accuracy:.4f}")

# %% [markdown]
# ## What the network sees
# One test fish, and its 32 feature maps behind the first convolution and ReLU: where a filter has found what it looks
# for, its map is bright (each map is scaled to its own largest value; a black one found nothing).

# %%
photo = Path(test_set.filepaths[-1])
test_image = image.img_to_array(image.load_img(photo, target_size=(64, 64))) / 255  # the 1/255 that the paper forgot
display(sheet(test_image[None], 1, 4))

# %%
with tinycnn.trace() as tape:
    model(test_image[None])


def maps(name):
    """The feature maps that an op made of the fish: (channels, H, W), each from 0 to 1."""
    channels = np.moveaxis(tape[name].output[0], -1, 0)
    return channels / np.maximum(channels.max(axis=(1, 2), keepdims=True), 1e-6)


print("first convolution and ReLU:", tape["conv2d.relu"].output.shape)
display(sheet(maps("conv2d.relu"), 8, 2))

# %% [markdown]
# After the second convolution and pool the maps are 14x14. These 6,272 numbers are all that the dense layers get.

# %%
print("second pool:", tape["max_pooling2d_1"].output.shape)
display(sheet(maps("max_pooling2d_1"), 8, 6))

# %% [markdown]
# ## The answer (Figure 10)
# The result is a probability: compare it with 0.5, not with 1. Which class is 1, `class_indices` says.

# %%
names = {number: name for name, number in training_set.class_indices.items()}
probability = float(model.predict(test_image[None], verbose=0)[0][0])
answer = names[int(probability > 0.5)]
display(sheet(test_image[None], 1, 4))
print(f"{photo.name}: {answer} (probability of {names[1]}: {probability:.4f})")

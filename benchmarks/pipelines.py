"""The paper's training from image files to weights, as users of each library write it; epochs.py times them.

All train the fish network on augmented 64x64 images (shear 0.2 degrees, zoom 0.2, flip) with Adam and measure
loss and accuracy. Each runs in a worker whose library and threads are set already.
"""

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from . import peer_tensorflow, peer_tinycnn, peer_torch
from .common import children_memory
from .networks import fish, weights

SIDE, SHEAR, ZOOM = 64, 0.2, 0.2  # pixels, degrees, share
LEARNING_RATE = 0.001  # Keras's default: here the network learns
AUGMENTATION: dict[str, Any] = {"rescale": 1 / 255, "shear_range": SHEAR, "zoom_range": ZOOM, "horizontal_flip": True}


@dataclass
class Epoch:
    """One pass: seconds to the end of its last step (in the first, from the start on), and what came of it."""

    seconds: float
    waiting: float | None  # seconds in which the network had no batch to work on, where that can be known
    loss: float
    accuracy: float
    children: int = 0  # bytes that processes which prepare data held


class Recorder:
    """A callback, for tinycnn and for Keras, that times epochs from their beginning to their last step.

    Made before the data is looked at: the first epoch pays for all preparation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[Epoch] = []
        self.began = time.perf_counter()
        self.in_steps: float | None = None  # seconds that the network has worked, if anybody counts them

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch:
            self.began = time.perf_counter()
            self.in_steps = None if self.in_steps is None else 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.ended = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        seconds = self.ended - self.began
        waiting = None if self.in_steps is None else max(seconds - self.in_steps, 0.0)
        self.epochs.append(Epoch(seconds, waiting, float(logs["loss"]), float(logs["accuracy"])))

    def count(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The same step, its seconds counted as work."""

        def counted(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = step(*arguments)
            self.in_steps = (self.in_steps or 0.0) + time.perf_counter() - began
            return result

        return counted


def tinycnn(folder: str, epochs: int, batch: int, threads: int) -> list[Epoch]:
    """ImageDataGenerator.flow_from_directory and fit."""
    from tinycnn.callbacks import Callback
    from tinycnn.optimizers import Adam
    from tinycnn.preprocessing.image import ImageDataGenerator

    network = fish(batch=batch)
    model = peer_tinycnn.build(network, weights(network))
    model.compile(Adam(LEARNING_RATE), "binary_crossentropy", ["accuracy"])
    recorder = type("TinyCNNRecorder", (Recorder, Callback), {})()
    model._train_on_batch = recorder.count(model._train_on_batch)
    with contextlib.redirect_stdout(io.StringIO()):
        flow = ImageDataGenerator(**AUGMENTATION).flow_from_directory(
            folder, target_size=(SIDE, SIDE), batch_size=batch, class_mode="binary", seed=0, progress=False
        )
    model.fit(flow, epochs=epochs, verbose=0, callbacks=[recorder])
    return recorder.epochs


def keras_generator(folder: str, epochs: int, batch: int, threads: int) -> list[Epoch]:
    """Keras's ImageDataGenerator, as in the paper, with worker threads, and fit."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    model, recorder = _keras_model(batch)
    with contextlib.redirect_stdout(io.StringIO()):
        flow = ImageDataGenerator(**AUGMENTATION).flow_from_directory(
            folder, target_size=(SIDE, SIDE), batch_size=batch, class_mode="binary", seed=0
        )
    flow.workers = max(threads, 2)  # one makes Keras prepare batches in the thread that trains
    model.fit(flow, epochs=epochs, verbose=0, callbacks=[recorder])
    return recorder.epochs


def keras_tf_data(folder: str, epochs: int, batch: int, threads: int) -> list[Epoch]:
    """image_dataset_from_directory, decoded images cached, Keras's augmentation layers in tf.data, and fit."""
    import keras
    import tensorflow as tf
    from keras import layers

    model, recorder = _keras_model(batch)
    shear = math.tan(math.radians(SHEAR))
    augment = keras.Sequential(
        [
            layers.Rescaling(1 / 255),
            layers.RandomShear(x_factor=shear, fill_mode="nearest"),
            layers.RandomZoom((-ZOOM, ZOOM), (-ZOOM, ZOOM), fill_mode="nearest"),
            layers.RandomFlip("horizontal"),
        ]
    )
    images = keras.utils.image_dataset_from_directory(
        folder, label_mode="binary", batch_size=None, image_size=(SIDE, SIDE), interpolation="nearest", shuffle=False,
        verbose=False,
    )  # fmt: skip
    images = images.map(lambda x, y: (tf.cast(x, tf.uint8), y)).cache().shuffle(10_000, seed=0).batch(batch)
    images = images.map(lambda x, y: (augment(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
    model.fit(images.prefetch(tf.data.AUTOTUNE), epochs=epochs, verbose=0, callbacks=[recorder])
    return recorder.epochs


def _keras_model(batch: int) -> tuple[Any, Any]:
    import keras

    keras.utils.set_random_seed(0)
    network = fish(batch=batch)
    model = peer_tensorflow.build(network, weights(network))
    peer_tensorflow.compile_keras(model, network, LEARNING_RATE, ["accuracy"])
    return model, type("KerasRecorder", (Recorder, keras.callbacks.Callback), {})()


class Photos:
    """A data set for PyTorch's DataLoader: file by file decoded, resized, sheared, zoomed and flipped."""

    def __init__(self, folder: str) -> None:
        self.files, self.labels = labelled_files(folder)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Any, float]:
        """An image (3, SIDE, SIDE), uint8, and its label."""
        import torch
        from PIL import Image

        draw = torch.rand(4).tolist()
        shear = math.radians(SHEAR * (2 * draw[0] - 1))
        across, down = (1 + ZOOM * (2 * d - 1) for d in draw[1:3])
        flip, middle = -1 if draw[3] < 0.5 else 1, SIDE / 2
        a, b, d, e = flip * across, -math.sin(shear) * down, 0.0, math.cos(shear) * down
        matrix = (a, b, middle * (1 - a - b), d, e, middle * (1 - d - e))
        image = Image.fromarray(decode(self.files[i])).transform(
            (SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), self.labels[i]


def torch_dataloader(folder: str, epochs: int, batch: int, threads: int, workers: int = 0) -> list[Epoch]:
    """DataLoader over files: decode and augment each image again in every epoch."""
    import torch

    began = time.perf_counter()
    torch.manual_seed(0)
    loader: Any = torch.utils.data.DataLoader(
        cast(Any, Photos(folder)),
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def one_pass() -> Iterator[tuple[Any, Any]]:
        for x, y in loader:
            yield x.to(memory_format=torch.channels_last).float().div_(255), y.float().unsqueeze(1)  # (N, 1)

    return _train_torch(one_pass, epochs, batch, began)


def torch_dataloader_2(folder: str, epochs: int, batch: int, threads: int) -> list[Epoch]:
    """The same with two processes that prepare data."""
    return torch_dataloader(folder, epochs, batch, threads, workers=2)


def torch_memory(folder: str, epochs: int, batch: int, threads: int) -> list[Epoch]:
    """Decoded once and kept as uint8; augmented a batch at a time by affine_grid and grid_sample."""
    import torch

    began = time.perf_counter()
    torch.manual_seed(0)
    files, labels = labelled_files(folder)
    with ThreadPoolExecutor(threads) as pool:
        decoded = np.stack(list(pool.map(decode, files)))
    images = torch.from_numpy(decoded).permute(0, 3, 1, 2).contiguous()  # (N, 3, SIDE, SIDE)
    y = torch.tensor(labels).unsqueeze(1)  # (N, 1)

    def one_pass() -> Iterator[tuple[Any, Any]]:
        for rows in torch.randperm(len(images)).split(batch):
            x = images[rows].float().div_(255)
            grid = torch.nn.functional.affine_grid(random_matrices(len(rows)), list(x.shape), align_corners=False)
            x = torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
            yield x.contiguous(memory_format=torch.channels_last), y[rows]

    return _train_torch(one_pass, epochs, batch, began)


def random_matrices(count: int) -> Any:
    """Shear, zoom and flip as affine matrices (count, 2, 3) for `affine_grid`."""
    import torch

    shear = torch.deg2rad(torch.empty(count).uniform_(-SHEAR, SHEAR))
    zoom = torch.empty(count, 2).uniform_(1 - ZOOM, 1 + ZOOM)
    flip = torch.randint(0, 2, (count,)) * 2 - 1
    matrices = torch.zeros(count, 2, 3)
    matrices[:, 0, 0] = zoom[:, 0] * flip
    matrices[:, 0, 1] = -torch.sin(shear) * zoom[:, 1]
    matrices[:, 1, 1] = torch.cos(shear) * zoom[:, 1]
    return matrices


def _train_torch(one_pass: Callable[[], Iterator[Any]], epochs: int, batch: int, began: float) -> list[Epoch]:
    """The usual loop in the peer's best eager form, over (x, y) batches, with loss and accuracy summed up."""
    import torch

    network = fish(batch=batch)
    model = peer_torch.build(network, weights(network), logits=True).to(memory_format=torch.channels_last)
    optimizer, entropy = peer_torch.adam(model, LEARNING_RATE), torch.nn.BCEWithLogitsLoss()
    done: list[Epoch] = []
    for number in range(epochs):
        began = time.perf_counter() if number else began
        total, right, count, waiting = torch.zeros(()), torch.zeros(()), 0, 0.0
        batches = one_pass()
        while True:
            asked = time.perf_counter()
            if (pair := next(batches, None)) is None:
                break
            waiting += time.perf_counter() - asked
            x, y = pair
            optimizer.zero_grad(set_to_none=True)
            z = model(x)
            loss = entropy(z, y)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(x)
            right += ((z.detach() > 0) == (y > 0.5)).sum()
            count, ended = count + len(x), time.perf_counter()
        done.append(Epoch(ended - began, waiting, (total / count).item(), (right / count).item(), children_memory()))
    return done


def labelled_files(folder: str) -> tuple[list[str], list[float]]:
    """The files of the two class folders, sorted, and 0 or 1 for each."""
    classes = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    pairs = [(str(file), float(i)) for i, path in enumerate(classes) for file in sorted(path.iterdir())]
    return [file for file, _ in pairs], [label for _, label in pairs]


def decode(file: str) -> np.ndarray:
    """An image file as uint8 (SIDE, SIDE, 3)."""
    from PIL import Image

    with Image.open(file) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST))


Pipeline = Callable[[str, int, int, int], list[Epoch]]
PIPELINES: dict[str, tuple[str, Pipeline]] = {  # the peer in whose worker it runs
    "tinycnn": ("tinycnn", tinycnn),
    "keras-generator": ("keras", keras_generator),
    "keras-tf.data": ("keras", keras_tf_data),
    "torch-dataloader": ("torch-channels-last", torch_dataloader),
    "torch-dataloader-2": ("torch-channels-last", torch_dataloader_2),
    "torch-memory": ("torch-channels-last", torch_memory),
}

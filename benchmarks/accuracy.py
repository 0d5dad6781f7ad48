"""Does tinycnn learn as well as Keras? Trains the paper's network in both on one folder, from several seeds.

    python -m benchmarks.accuracy PHOTOS --epochs 30 --seeds 3

PHOTOS holds `train` and `test` with one folder per class in each, of two classes. Both use the same architecture,
initializers, optimizer and augmentation, each with its own image generator. Needs keras with a backend, and scipy.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path
from statistics import mean

AUGMENTATION = {"shear_range": 0.2, "zoom_range": 0.2, "horizontal_flip": True}


def flows(image_data_generator, folder: Path, seed: int):
    """Augmented training batches and plain test batches, by Keras's generator or by ours: the calls are the same."""
    common = {"target_size": (64, 64), "batch_size": 32, "class_mode": "binary", "interpolation": "bilinear"}
    with contextlib.redirect_stdout(io.StringIO()):
        return (
            image_data_generator(rescale=1 / 255, **AUGMENTATION).flow_from_directory(
                str(folder / "train"), seed=seed, **common
            ),
            image_data_generator(rescale=1 / 255).flow_from_directory(str(folder / "test"), shuffle=False, **common),
        )


def train_tinycnn(folder: Path, epochs: int, seed: int) -> list[float]:
    """Test accuracy after each epoch."""
    from tinycnn.preprocessing.image import ImageDataGenerator
    from tinycnn.train import fish_network

    training, test = flows(ImageDataGenerator, folder, seed)
    model = fish_network(64, 2, seed)
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model.fit(training, epochs=epochs, validation_data=test, verbose=0).history["val_accuracy"]


def train_keras(folder: Path, epochs: int, seed: int) -> list[float]:
    """Test accuracy after each epoch."""
    import keras
    from keras import layers
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    keras.utils.set_random_seed(seed)
    training, test = flows(ImageDataGenerator, folder, seed)
    model = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model.fit(training, epochs=epochs, validation_data=test, verbose=0).history["val_accuracy"]


def main() -> None:
    """Train, print a line per run, then the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="PHOTOS", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    final: dict[str, list[float]] = {"tinycnn": [], "keras": []}
    for seed in range(options.seeds):
        for name, train in (("tinycnn", train_tinycnn), ("keras", train_keras)):
            accuracy = train(options.folder, options.epochs, seed)
            final[name].append(accuracy[-1])
            print(f"{name:8} seed {seed}: test accuracy {accuracy[-1]:.4f} (best {max(accuracy):.4f})", flush=True)
    print(json.dumps({name: {"mean": round(mean(values), 4), "runs": values} for name, values in final.items()}))


if __name__ == "__main__":
    main()

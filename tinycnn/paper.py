"""The paper's network and its augmentation, which the commands share."""

from typing import Any

from .layers import Conv2D, Dense, Flatten, MaxPooling2D
from .models import Sequential

AUGMENTATION: dict[str, Any] = {"shear_range": 0.2, "zoom_range": 0.2, "horizontal_flip": True}


def fish_network(image_size: int, classes: int, seed: int = 0) -> Sequential:
    """The paper's network (its figures 5 and 6); with more than two classes it ends in a softmax."""
    outputs, last = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    return Sequential(
        [
            Conv2D(32, (3, 3), activation="relu", input_shape=(image_size, image_size, 3)),
            MaxPooling2D(pool_size=(2, 2)),
            Conv2D(32, (3, 3), activation="relu"),
            MaxPooling2D(pool_size=(2, 2)),
            Flatten(),
            Dense(128, activation="relu"),
            Dense(outputs, activation=last),
        ],
        seed=seed,
    )

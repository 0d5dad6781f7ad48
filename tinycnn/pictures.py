"""The pictures on the explorer page beside the pass: the photo, its changes, where a class is seen, past epochs."""

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .models import Sequential
from .paper import AUGMENTATION
from .preprocessing.image import MAX_PIXELS, ImageDataGenerator, load_img
from .tensor import Tensor, no_grad
from .trace import Trace, trace

if TYPE_CHECKING:
    from .explanation import Explanation, Subject

DRAWS = 12  # pictures of the changed photo
EPOCHS = 31  # snapshots that the page shows; evenly spaced where there are more
WIDEST = 640  # pixels of the photo beside what the network sees
SMALL_MAP = 36  # pixels of a map of a past epoch: what the page has room to draw
MOST_CLASSES = 20  # whose maps are made


def tell_photo(told: "Explanation", subject: "Subject") -> None:
    """The photo as it is, as the network sees it, and under random changes, with what was drawn."""
    settings = subject.preprocessing
    img = load_img(subject.photo, apply_exif=settings.apply_exif)
    size = img.size
    img.thumbnail((WIDEST, WIDEST))
    file = io.BytesIO()
    img.save(file, "JPEG", quality=85)
    pixels = settings.read_uint8(str(subject.photo), MAX_PIXELS)
    generator = ImageDataGenerator(**AUGMENTATION)
    draws = [generator.get_random_transform(pixels.shape, seed) for seed in range(DRAWS)]
    changed = [np.rint(generator.apply_transform(pixels, drawn)).clip(0, 255) for drawn in draws]
    told.meta["picture"] = {
        "jpeg": base64.b64encode(file.getvalue()).decode(),
        "size": [size[1], size[0]],
        "settings": settings.to_dict(),
        "pixels": told.put("pixels", pixels, np.uint8),
        "changed": told.put("changed", np.stack(changed), np.uint8),
        "draws": [
            {name: value for name, value in drawn.items() if name in ("shear", "zx", "zy", "flip_horizontal")}
            for drawn in draws
        ],
        "ranges": AUGMENTATION,
        "augmented": subject.augmented,
    }


def tell_class_maps(told: "Explanation", model: Sequential, x: np.ndarray) -> None:
    """Grad-CAM (Selvaraju et al., 2017) for each class, from the last convolution: its maps, each weighted by the mean
    of its gradient of the class's logit; what is below 0 speaks against the class and is left out.

    A network of one sigmoid has one logit, which speaks for the second class; for the first its sign is changed.
    """
    convolutions = [i for i, stage in enumerate(told.meta["stages"]) if stage["kind"] == "conv"]
    if not convolutions:
        return
    stage = told.meta["stages"][convolutions[-1]]
    body = [step for layer in model.layers for step in layer.named_steps()][:-1]
    maps, weights = [], []
    with trace() as t:
        value = Tensor(x, requires_grad=True)
        for step in body:
            value = step(value)
        record = [r for r in t if r.layer == stage["name"] and r.op in ("conv2d", "relu", "sigmoid")][-1]
        for k in range(min(len(told.meta["classes"]), MOST_CLASSES)):
            seed = np.zeros(value.shape, np.float32)
            seed[0, min(k, value.shape[1] - 1)] = 1 if value.shape[1] > 1 or k else -1
            value.backward(seed)
            gradient = record.gradient_in
            assert gradient is not None, "a convolution leads to every logit"
            importance = gradient[0].mean(axis=(0, 1))  # (F,)
            maps.append(np.maximum((record.output[0] * importance).sum(axis=2), 0))
            weights.append(importance)
    told.meta["class_maps"] = {
        "stage": convolutions[-1],
        "maps": told.put("cam", np.stack(maps)),
        "importance": told.put("cam.importance", np.stack(weights)),
    }


def tell_epochs(
    told: "Explanation", subject: "Subject", x: np.ndarray, outcome: Callable[[], tuple[Trace, np.ndarray, float]]
) -> None:
    """Filters, maps and prediction of this photo with the weights of past epochs; `outcome` asks the model as it is."""
    told.meta["history"] = {
        name: [value if np.isfinite(value) else None for value in values] for name, values in subject.history.items()
    }
    shots = list(subject.snapshots)
    if len(shots) > EPOCHS:
        shots = [shots[i] for i in np.unique(np.linspace(0, len(shots) - 1, EPOCHS).round().astype(int))]
    told.meta["epochs"] = None
    if not shots:
        return
    stages = told.meta["stages"]
    numbers: dict[str, Any] = {"p": [], "loss": []}
    kept: dict[int, dict[str, list[np.ndarray]]] = {}
    for shot in shots:
        subject.model.set_weights([w.astype(np.float32) for w in shot.weights])
        with no_grad():
            t, p, loss = outcome()
        numbers["p"].append([float(value) for value in p])
        numbers["loss"].append(loss if np.isfinite(loss) else None)
        for i, stage in enumerate(stages):
            if stage["kind"] in ("photo", "flatten"):
                continue
            records = [r for r in t.ops[:-1] if r.layer == stage["name"]]
            place = kept.setdefault(i, {"map": [], "top": [], "y": [], "w": []})
            y = records[-1].output[0]
            if y.ndim == 3:
                small, top = _small(y)
                place["map"].append(small)
                place["top"].append(np.array(top, np.float32))
            else:
                place["y"].append(y)
            if stage["kind"] == "conv":
                place["w"].append(shot.weights[_weight_number(stages, i)])
    told.meta["epochs"] = {
        "numbers": [shot.epoch for shot in shots],
        **numbers,
        "stages": {str(i): _told_stage(told, i, arrays) for i, arrays in kept.items()},
    }


def _weight_number(stages: list[dict[str, Any]], i: int) -> int:
    """Where the kernel of stage i stands among all weights."""
    return sum(part in stage["arrays"] for stage in stages[:i] for part in ("w", "b"))


def _told_stage(told: "Explanation", i: int, arrays: dict[str, list[np.ndarray]]) -> dict[str, str]:
    types = {"map": np.uint8, "top": np.float32, "y": np.float32, "w": np.float16}
    return {name: told.put(f"past.{name}.{i}", np.stack(a), types[name]) for name, a in arrays.items() if a}


def _small(y: np.ndarray) -> tuple[np.ndarray, float]:
    """A map (H, W, C) in 255 steps of its largest value, means of blocks where it is larger than the page draws it."""
    block = -(-max(y.shape[:2]) // SMALL_MAP)
    h, w, c = y.shape[0] // block, y.shape[1] // block, y.shape[2]
    small = y[: h * block, : w * block].reshape(h, block, w, block, c).mean(axis=(1, 3)) if h and w else y
    top = float(np.abs(small).max())
    return np.rint(small.clip(0) / (top or 1) * 255).astype(np.uint8), top

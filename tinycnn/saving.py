"""What the files of models hold: a model, and what its training needs to go on, as tensors and their meaning, and back.

The files themselves are storage.py's; here is nothing that reads or writes.
"""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import losses, optimizers
from .backend import current
from .errors import DataError, UsageError
from .layers import Input, Layer, Shape
from .position import Position
from .preprocessing.settings import Preprocessing
from .tensor import Tensor

if TYPE_CHECKING:
    from .models import Sequential

MAX_LAYERS = 1000  # in a file, which so cannot keep its reader busy for long
OPTIMIZER = "optimizer."  # in front of the names of an optimizer's arrays in a checkpoint

Contents = tuple[dict[str, np.ndarray], dict[str, Any]]  # tensors, and what they mean as values that JSON can hold


def contents_of_model(model: "Sequential") -> Contents:
    """All that predicting needs. Raises UsageError."""
    if not model.built:
        raise UsageError("save: the model has no weights yet; give its first layer an input_shape, or fit it")
    if len(model.layers) > MAX_LAYERS:
        raise UsageError(f"save: {len(model.layers)} layers; a file holds at most {MAX_LAYERS}")
    weights = {
        f"{layer.name}.{name}": weight.numpy() for layer in model.layers for name, weight in layer.weights.items()
    }
    meaning = {
        "architecture": model.get_config(),
        "class_names": model.class_names,
        "preprocessing": model.preprocessing.to_dict() if model.preprocessing else None,
        "threshold": model.threshold,
    }
    return weights, meaning


def contents_of_training(model: "Sequential", loss: losses.Loss, position: Position, notes: dict[str, Any]) -> Contents:
    """All that training a compiled model needs to go on from this position. Raises UsageError."""
    optimizer = type(model.optimizer)
    if optimizer not in optimizers.OPTIMIZERS.values() or type(loss) not in losses.LOSSES.values():
        raise UsageError("save_checkpoint: only tinycnn's own optimizers and losses can be saved")
    home = model.backend or current()
    state = {OPTIMIZER + name: home.to_numpy(array) for name, array in model.optimizer.named_arrays()}
    training = {
        "position": asdict(replace(position, notes=notes)),
        "seed": model.seed,
        "optimizer": optimizer.__name__.lower(),
        "optimizer_config": model.optimizer.get_config(),
        "iterations": model.optimizer.iterations,
        "loss": loss.name,
        "from_logits": loss.from_logits,
        "metrics": model.metrics,
        "fuse": model.fuse,
    }
    weights, meaning = contents_of_model(model)
    return weights | state, meaning | {"training": training}


def model_from(
    model_class: "type[Sequential]", tensors: dict[str, np.ndarray], meaning: dict[str, Any]
) -> "Sequential":
    """The model that a file describes, with the weights it holds. Raises DataError, or whatever damage brings about."""
    model, input_shape = unbuilt_model(model_class, meaning["architecture"])
    names, threshold, preprocessing = meaning["class_names"], float(meaning["threshold"]), meaning["preprocessing"]
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise DataError("class names are no list of words")
    if not 0 <= threshold <= 1:
        raise DataError(f"threshold {threshold} is not between 0 and 1")
    model.class_names, model.threshold = names, threshold
    model.preprocessing = None if preprocessing is None else Preprocessing.from_dict(preprocessing)
    shapes = model.shapes(input_shape)
    wanted = {  # compared before any memory is taken
        f"{layer.name}.{name}": size
        for layer, shape in zip(model.layers, shapes, strict=False)
        for name, size in layer.weight_shapes(shape).items()
    }
    found = {name: array.shape for name, array in tensors.items() if array.dtype == np.float32}
    if wanted != found or len(found) != len(tensors):
        wrong = sorted(name for name in wanted | tensors if wanted.get(name) != found.get(name))
        raise DataError(f"weights do not fit the architecture: {', '.join(wrong)}")
    for layer, shape in zip(model.layers, shapes, strict=False):
        names = {name: f"{layer.name}.{name}" for name in layer.weight_shapes(shape)}
        layer.weights = {name: Tensor(tensors[full], requires_grad=True, name=full) for name, full in names.items()}
    model.input_shape, model.backend = input_shape, current()
    return model


def training_from(
    model_class: "type[Sequential]", tensors: dict[str, np.ndarray], meaning: dict[str, Any]
) -> "tuple[Sequential, Position]":
    """The compiled model of a checkpoint, and where its training stood. Raises as `model_from`."""
    training = meaning["training"]
    state = {name.removeprefix(OPTIMIZER): array for name, array in tensors.items() if name.startswith(OPTIMIZER)}
    weights = {name: array for name, array in tensors.items() if not name.startswith(OPTIMIZER)}
    model = model_from(model_class, weights, meaning)
    model.seed = int(training["seed"])
    optimizer = optimizers.OPTIMIZERS[training["optimizer"]](**training["optimizer_config"])
    loss = losses.LOSSES[training["loss"]](from_logits=bool(training["from_logits"]))
    model.compile(optimizer, loss, training["metrics"], fuse=bool(training["fuse"]))
    optimizer.restore(model.weights, int(training["iterations"]), state)
    return model, Position.from_dict(training["position"], model.metrics_names)


def unbuilt_model(model_class: "type[Sequential]", config: dict[str, Any]) -> "tuple[Sequential, Shape]":
    """The model of a config that `get_config` gave, and its input shape. Raises as `model_from`."""
    model = model_class(name=str(config["name"]))
    if len(config["layers"]) > MAX_LAYERS:
        raise DataError(f"{len(config['layers'])} layers; at most {MAX_LAYERS} are read")
    for entry in config["layers"]:
        if entry["class"] not in Layer.registry:
            raise DataError(f"layer {entry['class']!r} is unknown")
        model.add(Layer.registry[entry["class"]](**entry["config"], name=str(entry["name"])))
    return model, Input(config["input_shape"]).input_shape or ()

"""A stack of layers that is trained, evaluated, asked and saved, with Keras's names, arguments and return values."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from . import losses, metrics, optimizers, saving, storage
from .backend import Backend, current, matrix_threads
from .batches import Batches, as_batches, batches_of, in_turn, split_batch, validation_split
from .callbacks import Callback, History, Progress
from .errors import DataError, ShapeError, UsageError
from .graph import Graphs
from .kernels import recording
from .layers import Input, Layer, Shape
from .plan import Plan
from .position import Position, RunningMeans
from .preprocessing.settings import Preprocessing
from .random import generator
from .summary import summary, summary_html
from .tensor import Tensor, no_grad, watcher

__all__ = ["Sequential", "load_checkpoint", "load_model"]

FLOAT32 = np.dtype(np.float32)


class Sequential:
    """Layers one after the other: `Sequential([Conv2D(32, 3, input_shape=(64, 64, 3)), ...])`, or `add` them.

    The weights start from `seed` alone: the same program makes the same model. `class_names`, `preprocessing` and
    `threshold` say how to use the model on image files; `fit` takes them from an image iterator, `save` keeps them.
    """

    def __init__(self, layers: Sequence[Layer] | None = None, name: str = "sequential", *, seed: int = 0) -> None:
        self.name, self.seed = name, seed
        self.layers: list[Layer] = []
        self.input_shape: Shape | None = None
        self.class_names: list[str] | None = None
        self.preprocessing: Preprocessing | None = None
        self.threshold = 0.5
        self.backend: Backend | None = None
        self.loss: losses.Loss | None = None
        self.metrics: list[str] = []
        self.fuse = self.replay = True
        self._graphs: dict[str, Graphs] = {}
        self._made_plan: Plan | None = None
        self._standing: Callable[[], Position] = Position
        self.stop_training = False
        for layer in layers or ():
            self.add(layer)

    def add(self, layer: Layer) -> None:
        """Put a layer at the end; the first one may say the `input_shape`, else the first data does."""
        if not isinstance(layer, Layer):
            raise UsageError(f"add: {layer!r} is no layer")
        input_shape = self.input_shape or (None if self.layers else layer.input_shape)
        if isinstance(layer, Input):
            if self.layers:
                raise UsageError("add: Input must be the first layer")
            self.input_shape = input_shape
            return
        alike = 0 if layer.name else sum(type(other) is type(layer) for other in self.layers)
        name = layer.name or f"{layer.base_name}{f'_{alike}' if alike else ''}"
        if any(other.name == name for other in self.layers):
            raise UsageError(f"add: two layers are called {name!r}; give one another name")
        given, layer.name = layer.name, name
        if input_shape:
            try:
                self._build_layer(layer, len(self.layers), self.shapes(input_shape)[-1])
            except BaseException:
                layer.name = given
                raise
        self.input_shape = input_shape
        self.layers.append(layer)

    @property
    def built(self) -> bool:
        """Whether the shapes are known and the weights exist."""
        return self.input_shape is not None

    def build(self, input_shape: Sequence[int]) -> None:
        """Make all weights for samples of this shape (without the batch axis)."""
        shapes = self.shapes(tuple(input_shape))  # raises before anything is made
        for i, (layer, shape) in enumerate(zip(self.layers, shapes[:-1], strict=True)):
            self._build_layer(layer, i, shape)
        self.input_shape = shapes[0]

    def _build_layer(self, layer: Layer, i: int, shape: Shape) -> None:
        layer.output_shape(shape)  # raises before weights are made
        layer.build(shape, generator(self.seed, "weights", i))
        for name, weight in layer.weights.items():
            weight.name = f"{layer.name}.{name}"
        self.backend = current()

    def shapes(self, input_shape: Shape | None = None) -> list[Shape]:
        """The shape in front of each layer, and the one after the last."""
        shapes = [input_shape or self.input_shape or ()]
        for layer in self.layers:
            shapes.append(layer.output_shape(shapes[-1]))
        return shapes

    @property
    def output_shape(self) -> Shape:
        """The shape of one prediction."""
        return self.shapes()[-1]

    @property
    def weights(self) -> list[Tensor]:
        """Every weight, layer by layer, kernel before bias."""
        return [weight for layer in self.layers for weight in layer.weights.values()]

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the weights, in Keras's order and layouts."""
        return [weight.numpy().copy() for weight in self.weights]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Take over weights as `get_weights` gives them, from here or from Keras. Raises ShapeError."""
        mine = self.weights
        if len(weights) != len(mine):
            raise ShapeError(f"set_weights: {len(weights)} arrays for a model that has {len(mine)}")
        for i, (weight, new) in enumerate(zip(mine, weights, strict=True)):
            if np.shape(new) != weight.shape:
                raise ShapeError(f"set_weights: array {i} has shape {np.shape(new)}; it must be {weight.shape}")
        for weight, new in zip(mine, weights, strict=True):
            weight.data[...] = weight.backend.asarray(np.asarray(new, weight.dtype))

    def count_params(self) -> int:
        """How many numbers are learned."""
        return sum(weight.data.size for weight in self.weights)

    def summary(self) -> None:
        """Print layers, output shapes, parameters and multiply-adds for one sample."""
        if not self.built:
            raise UsageError("summary: no shapes yet; give the first layer an input_shape, or fit the model")
        print(summary(self.name, self.layers, self.shapes()))

    def _repr_html_(self) -> str:
        return summary_html(self.name, self.layers, self.shapes() if self.built else None)

    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "adam",
        loss: str | losses.Loss = "binary_crossentropy",
        metrics: Sequence[str] | None = None,
        *,
        fuse: bool = True,
        replay: bool = True,
    ) -> None:
        """Say how to train. `fuse=False` runs every op by itself instead of the fused ones (see fused.py).

        `replay=False` works every batch out anew; else one like a batch before is done from a record of it (graph.py).
        The results are the same bits.
        """
        self.optimizer = optimizers.get(optimizer)
        self.loss = losses.get(loss)
        self.metrics = _metrics(metrics or ())
        self.fuse, self.replay = fuse, replay
        self._graphs = {}  # they measure as well

    def __call__(self, x: Any) -> Tensor:
        """The predictions for a batch, as a tensor that can be differentiated."""
        value = x if isinstance(x, Tensor) else Tensor(self._input(x), backend=self.backend)
        return self._plan().predict(value)

    def _plan(self) -> Plan:
        """The ops that run, in order; fused once, and again only when layers, loss or the choice to fuse changed.

        Who watches gets a plan of the ops one by one, and the other stays.
        """
        if watcher() is not None:
            return Plan(self)
        if self._made_plan is None or not self._made_plan.holds(self):
            self._made_plan = Plan(self)
        return self._made_plan

    def _for_a_batch(self) -> AbstractContextManager[None]:
        """What the work on a batch stands in: where NumPy multiplies matrices, a number of threads that is known."""
        if watcher() is not None or self._plan().library_products:
            return matrix_threads(self.backend or current())
        return nullcontext()

    def _input(self, x: Any) -> Any:
        """A batch as an array that the ops take. Raises DataError, ShapeError, UsageError."""
        home = self.backend or current()
        if not (home.holds(x) and x.dtype is FLOAT32 and x.ndim):
            x = x if home.holds(x) else np.asarray(x)
            if x.ndim == 0 or x.dtype.kind not in "fiub":
                raise DataError(f"x of type {x.dtype} and shape {x.shape} is no batch of numbers")
            x = home.asarray(x.astype(FLOAT32, copy=False))
        if not self.built:
            if not self.layers:
                raise UsageError("the model has no layers; add some")
            self.build(x.shape[1:])
        if x.shape[1:] != self.input_shape:
            raise ShapeError(
                f"x of shape {x.shape} does not fit the model; it must be (samples, {str(self.input_shape)[1:]}"
            )
        return x

    def _checked(self, x: Any, y: Any) -> tuple[Any, Any]:
        """A batch and its labels as the ops take them. Raises DataError, ShapeError, UsageError."""
        loss = self._compiled_loss()
        if y is None:
            raise DataError("no labels: the data must give (x, y)")
        x = self._input(x)
        if np.shape(y)[:1] != x.shape[:1]:
            raise DataError(f"x has {len(x)} samples, y has shape {np.shape(y)}; there must be a label for each")
        return x, (self.backend or current()).asarray(loss.labels(y, self._plan().outputs))

    def _step(self, x: Any, labels: Any) -> Any:
        """Forward, backward, and the weights moved: the figures from before."""
        loss, before = self._plan().measure(Tensor(x, backend=self.backend), labels)
        loss.backward()
        self.optimizer.move(self.weights)
        return self._figures(loss, labels, before)

    def _test(self, x: Any, labels: Any) -> Any:
        loss, before = self._plan().measure(Tensor(x, backend=self.backend), labels)
        return self._figures(loss, labels, before)

    def _figures(self, loss: Tensor, labels: Any, before: Tensor) -> Any:
        """Loss and metrics (1 + METRICS,), from labels as the loss wants them and from what leads to predictions."""
        figures = np.zeros_like(loss.data, np.float64, shape=(1 + len(self.metrics),))
        predictions = self._plan().finish(Tensor(before.data, backend=self.backend)).data if self.metrics else None
        recording.call(_put_figures, figures, loss.data, labels, predictions, *self.metrics)
        return figures

    def _compiled_loss(self) -> losses.Loss:
        if self.loss is None:
            raise UsageError("the model is not compiled; call compile(optimizer=..., loss=...) first")
        return self.loss

    def train_on_batch(self, x: Any, y: Any) -> list[float]:
        """One step on one batch: [loss, metrics...], as they were before the step."""
        return self._numbers(self._train_on_batch(x, y))

    def _train_on_batch(self, x: Any, y: Any) -> Any:
        x, labels = self._checked(x, y)
        optimizer = self.optimizer
        optimizer.begin(self.weights)  # its part of a step that is another one each time
        try:
            config = optimizer.get_config() | {"learning_rate": None}  # which may change: `begin` tells it
            figures = self._worked("train", self._step, (optimizer, config, tuple(self.metrics)), x, labels)
        except BaseException:
            optimizer.iterations -= 1
            raise
        for weight in self.weights:
            weight.grad = weight.grad_buffer if weight.requires_grad else weight.grad  # a graph does not say so
        return figures

    def test_on_batch(self, x: Any, y: Any) -> list[float]:
        """[loss, metrics...] of one batch."""
        return self._numbers(self._test_on_batch(x, y))

    def _test_on_batch(self, x: Any, y: Any) -> Any:
        return self._worked("test", self._test, tuple(self.metrics), *self._checked(x, y))

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """The predictions for one batch (N, outputs)."""
        home, x = (x.backend, x.data) if isinstance(x, Tensor) else (self.backend or current(), self._input(x))
        return home.to_numpy(self._worked("predict", partial(self._predict, home), home, x)).copy()

    def _predict(self, home: Backend, x: Any) -> Any:
        return self(Tensor(x, backend=home)).data

    def _worked(self, name: str, work: Callable[..., Any], state: Any, *inputs: Any) -> Any:
        """work(*inputs), from a graph of it where one was recorded for this state of things.

        Kernels leave little of the processor's caches to what comes between them: where there is nothing but kernels to
        repeat, nothing else is looked at.
        """
        if watcher() is None and self.replay:
            plan, graphs = self._plan(), self._graphs.get(name)
            if plan.kernels_alone and graphs is not None and graphs.hold(self.backend or current(), (plan, state)):
                result = graphs.again(*inputs)
                if result is not None:
                    return result
        with nullcontext() if name == "train" else no_grad(), self._for_a_batch():
            return self._worked_out(name, work, state, *inputs)

    def _worked_out(self, name: str, work: Callable[..., Any], state: Any, *inputs: Any) -> Any:
        """The same where there is more to it; may record a graph."""
        home = self.backend or current()
        if watcher() is not None:
            return work(*inputs)
        plan = self._plan()
        ours = type(self).__call__ is Sequential.__call__ and (name != "train" or self.optimizer.is_ours())
        if ours:  # else it may count how often it is asked
            plan.prepare(name, home, partial(work, *inputs))
        if not (self.replay and home.graph):
            return work(*inputs)
        state, graphs = (plan, state), self._graphs.get(name)
        if graphs is None or not graphs.hold(home, state):
            gradients = name == "train" or not plan.kernels_alone  # else nobody asks for them
            graphs = self._graphs[name] = Graphs(home, plan.tensors, state, gradients)
        return graphs(work, *inputs)

    def _numbers(self, figures: Any) -> list[float]:
        return (self.backend or current()).to_numpy(figures).tolist()

    @property
    def metrics_names(self) -> list[str]:
        """What the numbers of `evaluate` and `train_on_batch` are called."""
        return ["loss", *self.metrics]

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        *,
        start: Position | None = None,
    ) -> History:
        """Train on arrays (x, y) or on an image iterator, a sequence or a generator of (x, y) batches.

        With `steps_per_epoch` the data is one endless stream: an epoch goes on where the one before stopped.
        `start`, as `load_checkpoint` gives it, goes on in the middle of an epoch, to the same bits.
        `verbose`: 0 silent, 1 a bar and a line for each epoch, 2 the line alone, "auto" 1 on a terminal, else 2.
        Returns the History; its `history` has a list per name ("loss", "accuracy", "val_loss", ...).
        """
        self._compiled_loss()
        if epochs < 1 or initial_epoch < 0:
            raise UsageError(f"fit: epochs {epochs} must be at least 1, initial_epoch {initial_epoch} at least 0")
        start = start or Position(initial_epoch)
        if validation_split:
            (x, y), validation_data = _split(x, y, validation_split)
        data = as_batches(x, y, batch_size, shuffle, self.seed)
        validation = None if validation_data is None else _validation(validation_data, batch_size)
        steps = batches_of(data, steps_per_epoch)
        validation_steps = None if validation is None else batches_of(validation, validation_steps)
        self._take_over(data)

        history = History(start)
        everyone: list[Callback] = [history, *(callbacks or ()), *_progress(verbose)]
        for callback in everyone:
            callback.model, callback.params = self, {"epochs": epochs, "steps": steps}
        self.stop_training = False
        self._standing = partial(replace, start)
        _tell(everyone, "on_train_begin")
        try:
            for epoch in range(start.epoch, epochs):
                means = RunningMeans(self.metrics_names, self.backend or current(), start)
                self._standing = partial(means.position, epoch, start.step, history.history)
                _tell(everyone, "on_epoch_begin", epoch)
                numbers = range(epoch * steps + start.step, (epoch + 1) * steps)
                for step, batch in enumerate(in_turn(data, numbers), start.step):
                    x, y = split_batch(batch)
                    means.add(self._train_on_batch(x, y), len(x))
                    self._standing = partial(means.position, epoch, step + 1, history.history)
                    _tell(everyone, "on_train_batch_end", step, {**means.recent(), "images": means.count})
                logs = means.values()
                if validation is not None:
                    logs |= {f"val_{k}": v for k, v in self._evaluate(validation, validation_steps, everyone).items()}
                start = Position(epoch + 1)
                self._standing = partial(Position, epoch + 1, history=history.history)
                _tell(everyone, "on_epoch_end", epoch, logs)
                if self.stop_training:
                    break
        finally:
            _tell(everyone, "on_train_end")
        return history

    @property
    def position(self) -> Position:
        """Where `fit` stands, for a callback that is told of the end of a step or an epoch."""
        return self._standing()

    def _evaluate(
        self, data: Batches, steps: int | None, callbacks: Sequence[Callback] = (), verbose: str | int = 0
    ) -> dict[str, float]:
        means = RunningMeans(self.metrics_names, self.backend or current())
        for step, batch in enumerate(in_turn(data, _counted(batches_of(data, steps), "Evaluating", verbose))):
            x, y = split_batch(batch)
            means.add(self._test_on_batch(x, y), len(x))
            _tell(callbacks, "on_test_batch_end", step)
        return means.values()

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        verbose: str | int = "auto",
        steps: int | None = None,
        *,
        return_dict: bool = False,
    ) -> Any:
        """Loss and metrics over data: a list in the order of `metrics_names` (the loss alone if there are no
        metrics), or a dict."""
        self._compiled_loss()
        values = self._evaluate(as_batches(x, y, batch_size), steps, verbose=verbose)
        return values if return_dict else list(values.values()) if self.metrics else values["loss"]

    def predict(
        self, x: Any, batch_size: int = 32, verbose: str | int = "auto", steps: int | None = None
    ) -> np.ndarray:
        """The predictions for all samples (N, outputs)."""
        data = as_batches(x, None, batch_size)
        numbers = _counted(batches_of(data, steps), "Predicting", verbose)
        return np.concatenate([self.predict_on_batch(split_batch(batch)[0]) for batch in in_turn(data, numbers)])

    def _take_over(self, data: Any) -> None:
        """Remember what an image iterator knows: class names, and how its pictures were prepared."""
        if getattr(data, "class_indices", None):
            self.class_names = sorted(data.class_indices, key=data.class_indices.__getitem__)
        if getattr(data, "preprocessing", None):
            self.preprocessing = data.preprocessing

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs to make this model again, without its weights."""
        layers = [
            {"class": type(layer).__name__, "name": layer.name, "config": layer.get_config()} for layer in self.layers
        ]
        return {"name": self.name, "input_shape": list(self.input_shape or ()), "layers": layers}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Sequential":
        """A model with new weights from what `get_config` gave."""
        model, input_shape = saving.unbuilt_model(cls, config)
        if input_shape:
            model.build(input_shape)
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one safetensors file, with all that predicting needs. Raises UsageError, DataError."""
        storage.write(path, storage.MODEL, *saving.contents_of_model(self))

    def save_checkpoint(
        self, path: str | os.PathLike[str], position: Position | None = None, notes: dict[str, Any] | None = None
    ) -> None:
        """Write what training needs to go on: the model, its optimizer's state, and the position (default: of `fit`).

        `notes` come back with the position. Raises UsageError, DataError.
        """
        contents = saving.contents_of_training(self, self._compiled_loss(), position or self.position, notes or {})
        storage.write(path, storage.CHECKPOINT, *contents)


def load_model(path: str | os.PathLike[str]) -> Sequential:
    """The model in a file that `Sequential.save` wrote, ready to predict.

    Raises ModelFileError if it is no such file, is damaged, or holds other weights than its architecture has.
    """
    contents = storage.read(path, storage.MODEL)
    with storage.damage_named(path):
        return saving.model_from(Sequential, *contents)


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[Sequential, Position]:
    """The compiled model of a checkpoint and where its training stood: `fit(..., start=position)` goes on.

    Raises ModelFileError.
    """
    contents = storage.read(path, storage.CHECKPOINT)
    with storage.damage_named(path):
        return saving.training_from(Sequential, *contents)


def _put_figures(figures: Any, loss: Any, labels: Any, predictions: Any, *chosen: str) -> None:
    figures[0] = loss
    for i, name in enumerate(chosen, 1):
        figures[i] = metrics.METRICS[name](labels, predictions)


def _metrics(names: Sequence[str]) -> list[str]:
    if isinstance(names, str):
        raise UsageError(f"metrics: give a list, [{names!r}]")
    for name in names:
        if name not in metrics.METRICS:
            raise UsageError(f"metric {name!r} is unknown; use {', '.join(metrics.METRICS)}")
    return list(names)


def _split(x: Any, y: Any, share: float) -> Any:
    if y is None:
        raise UsageError("validation_split needs arrays x and y; split a folder with ImageDataGenerator instead")
    return validation_split(x, y, share)


def _validation(data: Any, batch_size: int) -> Batches:
    if isinstance(data, tuple) and len(data) != 2:
        raise UsageError(f"validation_data has {len(data)} parts; it must be (x, y), or an iterator of batches")
    x, y = data if isinstance(data, tuple) else (data, None)
    return as_batches(x, y, batch_size)


def _progress(verbose: str | int) -> list[Callback]:
    level = _level(verbose)
    return [Progress(bar=level == 1)] if level else []


def _level(verbose: str | int) -> int:
    """0 silent, 1 a bar, 2 plain lines."""
    if verbose == "auto":
        return 1 if sys.stderr and sys.stderr.isatty() else 2
    if verbose not in (0, 1, 2):
        raise UsageError(f"verbose {verbose!r} is not 0, 1, 2 or 'auto'")
    return int(verbose)


def _counted(steps: int, title: str, verbose: str | int) -> Iterable[int]:
    """The numbers of `steps` batches; with a bar that vanishes in the end if `verbose` says so."""
    if _level(verbose) != 1:
        return range(steps)
    from tqdm import tqdm

    return tqdm(range(steps), title, unit="step", leave=False)


def _tell(callbacks: Sequence[Callback], event: str, *arguments: Any) -> None:
    for callback in callbacks:
        getattr(callback, event)(*arguments)

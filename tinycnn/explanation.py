"""What the explorer page is told: one photo's way through a network, its gradients, and the step that it teaches.

All of it is the engine's own: a trace of one pass and one optimizer step, finite differences in float64, and the
weights of past epochs. The page draws and adds up; it computes no pass of its own.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import fused, ops, pictures
from .differences import Differences, H, differences
from .errors import UsageError
from .fused import Step
from .metrics import predicted_classes
from .models import Sequential
from .optimizers import Adam
from .preprocessing.settings import Preprocessing
from .snapshots import Snapshot
from .tensor import Tensor, no_grad
from .trace import OpRecord, Trace, trace

LOSSES: dict[type[Any], type[fused.FusedOp]] = {
    ops.Sigmoid: fused.SigmoidBinaryCrossEntropy,
    ops.Softmax: fused.SoftmaxCategoricalCrossEntropy,
}
KINDS = {"conv2d": "conv", "max_pool2d": "pool", "flatten": "flatten", "dense": "dense"}
MOVERS = 24  # weights that are named as having moved most


@dataclass(frozen=True)
class Subject:
    """What is explained: a model that says how to prepare images, and a photo.

    `label` is the class it should be (None: whatever the model takes it for). The rest is there where a run still has
    it: the optimizer's state, the weights of past epochs, the log, and whether it was trained on changed photos.
    """

    model: Sequential
    class_names: list[str]
    preprocessing: Preprocessing
    photo: Path
    label: str | None = None
    optimizer: Adam | None = None
    snapshots: Sequence[Snapshot] = ()
    history: dict[str, list[float]] = field(default_factory=dict)
    augmented: bool | None = None
    run: str = ""


@dataclass
class Explanation:
    """`meta` is what JSON can hold; `arrays` are the numbers, by the names that `meta` uses."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def put(self, name: str, array: np.ndarray, dtype: Any = np.float32) -> str:
        """Keep an array under a name, which is then told to the page."""
        self.arrays[name] = np.ascontiguousarray(array, dtype)
        return name


def explain_photo(subject: Subject) -> Explanation:
    """Everything the page shows; the model and the optimizer are in the end as they were.

    Raises DataError for a photo that cannot be read, UsageError for a model that the page cannot show.
    """
    model = subject.model
    steps = steps_of(model)
    x = subject.preprocessing.load(subject.photo)[None]  # (1, H, W, C)
    with no_grad():
        true = _true_class(subject, model.predict_on_batch(x))
    labels = label_row(model, true)
    optimizer = deepcopy(subject.optimizer) or Adam()
    state = {slot: [array.copy() for array in arrays] for slot, arrays in optimizer.state.items()}
    found = differences(steps, x, labels)
    weights = model.get_weights()
    told = Explanation(
        {
            "model": model.name,
            "run": subject.run,
            "photo": subject.photo.name,
            "parameters": model.count_params(),
            "classes": subject.class_names,
            "true": true,
            "labelled": subject.label is not None,
            "threshold": model.threshold,
        }
    )
    passed = one_step(model, x, labels, optimizer)
    _tell_stages(told, model, passed, found)
    _tell_state(told, state)
    later, _, _ = _outcome(model, x, labels)
    _tell_step(told, passed, later)
    model.set_weights(weights)
    pictures.tell_class_maps(told, model, x)
    pictures.tell_photo(told, subject)
    pictures.tell_epochs(told, subject, x, lambda: _outcome(model, x, labels))
    model.set_weights(weights)
    return told


WHOLE = [loss.__name__ for loss in LOSSES.values()]  # exact where a probability rounds to 0 or 1, as in training


def steps_of(model: Sequential) -> list[Step]:
    """The ops of the model with their layers' names. Raises UsageError for a model that the page cannot show."""
    steps = [step for layer in model.layers for step in layer.named_steps()]
    if not steps or steps[-1].op not in LOSSES or (steps[-1].op is ops.Sigmoid and model.output_shape != (1,)):
        raise UsageError("the explorer needs a model that ends in one sigmoid, or in a softmax over its classes")
    return steps


def label_row(model: Sequential, true: int) -> np.ndarray:
    """The label of one photo as the loss takes it (1, OUTPUTS)."""
    outputs = model.output_shape[0]
    return np.array([[true]], np.float32) if outputs == 1 else np.eye(outputs, dtype=np.float32)[[true]]


def _true_class(subject: Subject, outputs: np.ndarray) -> int:
    if subject.label is None:
        return int(predicted_classes(outputs, subject.model.threshold)[0])
    if subject.label not in subject.class_names:
        raise UsageError(f"--label {subject.label}: the classes are {', '.join(subject.class_names)}")
    return subject.class_names.index(subject.label)


def _forward(model: Sequential, x: np.ndarray, labels: np.ndarray) -> Tensor:
    """The loss of one photo, worked out op by op; the predictions on the way, beside what is differentiated."""
    *body, last = steps_of(model)
    value = Tensor(x, requires_grad=True, name="photo")
    for step in body:
        value = step(value)
    with no_grad():
        last(value)
    return LOSSES[last.op].apply(value, labels)


def one_step(model: Sequential, x: np.ndarray, labels: np.ndarray, optimizer: Adam) -> Trace:
    """A trace of one photo's pass, its gradients, and the step that they make."""
    with trace(whole=WHOLE) as t:
        _forward(model, x, labels).backward()
        optimizer.update(model.weights)
    return t


def _outcome(model: Sequential, x: np.ndarray, labels: np.ndarray) -> tuple[Trace, np.ndarray, float]:
    """A trace of the pass alone, the probabilities and the loss."""
    with no_grad(), trace(whole=WHOLE) as t:
        loss = _forward(model, x, labels)
    return t, t.ops[-2].output[0], loss.item()


def stages_of(t: Trace) -> list[list[OpRecord]]:
    """The ops of a pass as the page shows them: an activation goes with the weighted op in front of it."""
    stages: list[list[OpRecord]] = []
    for record in t.ops[:-1]:  # the last is the loss
        if record.op not in KINDS and stages and stages[-1][0].op in ("conv2d", "dense") and len(stages[-1]) == 1:
            stages[-1].append(record)
        else:
            stages.append([record])
    return stages


def _tell_stages(told: Explanation, model: Sequential, t: Trace, found: list[Differences | None]) -> None:
    """Each stage with its values, gradients, weights and finite differences."""
    first = t.ops[0]
    stages = [
        {
            "name": "photo",
            "kind": "photo",
            "activation": "linear",
            "shape": list(first.inputs["x"].shape[1:]),
            "parameters": 0,
            "arrays": {
                "y": told.put("y.0", first.inputs["x"][0]),
                "gy": told.put("gy.0", first.gradients_out["x"][0]),
            },
        }
    ]
    done = 0
    for i, records in enumerate(stages_of(t), 1):
        stages.append(_stage(told, i, records, found[done]))
        done += len(records)
    told.meta |= {"stages": stages, "h": H}
    outputs = t.ops[-2].output[0]
    told.meta |= {
        "output": t.ops[-2].op,
        "p": told.put("p", outputs),
        "loss": float(t.ops[-1].output),
        "predicted": int(predicted_classes(t.ops[-2].output, model.threshold)[0]),
    }


def _stage(told: Explanation, i: int, records: list[OpRecord], found: Differences | None) -> dict[str, Any]:
    record, activation = records[0], records[1] if len(records) > 1 else None
    arrays: dict[str, str] = {}

    def put(name: str, array: np.ndarray | None, dtype: Any = np.float32) -> None:
        if array is not None:
            arrays[name] = told.put(f"{name}.{i}", array, dtype)

    stage: dict[str, Any] = {
        "name": record.layer,
        "kind": KINDS.get(record.op, "activation"),
        "activation": activation.op if activation else "linear" if record.op in KINDS else record.op,
        "shape": list(record.output.shape[1:]),
        "parameters": sum(record.inputs[name].size for name in ("w", "b") if name in record.inputs),
        "arrays": arrays,
    }
    if record.op in ("conv2d", "dense"):
        put("z", record.output[0])
        put("w", record.inputs["w"])
        put("b", record.inputs.get("b"))
        put("gb", record.gradients_out.get("b"))
        if record.op == "conv2d":
            put("gw", record.gradients_out["w"])
        if found is not None:
            put("fd", found.kernel, np.float64)
            put("slope", found.slope, np.float64)
            put("fdb", found.bias if "b" in record.inputs else None, np.float64)
    if activation is not None and activation.op != "relu":
        put("y", activation.output[0])
        put("gz", record.gradient_in[0] if record.gradient_in is not None else None)
    if record.op == "max_pool2d":
        put("winner", record.saved["winner"][0], np.uint8 if record.saved["win"].taps < 256 else np.int32)
    if record.op not in ("conv2d", "dense", "flatten"):
        put("y", record.output[0])
    gradient = (activation or record).gradient_in
    if record.op != "flatten" and gradient is not None:
        put("gy", gradient[0])
    if "win" in record.saved:
        win = record.saved["win"]
        stage["window"] = {name: getattr(win, name) for name in WINDOW}
    return stage


WINDOW = ("h", "w", "kh", "kw", "sh", "sw", "dh", "dw", "top", "left", "oh", "ow")


def _tell_state(told: Explanation, state: dict[str, list[np.ndarray]]) -> None:
    """What the optimizer remembered before this step: m and v of each weight; nothing where it is new."""
    weighted = [stage for stage in told.meta["stages"] if "w" in stage["arrays"]]
    slots = {slot: iter(arrays) for slot, arrays in state.items()}
    for stage in weighted:
        number = stage["arrays"]["w"].split(".")[1]
        for part in ("w", "b"):
            for slot, arrays in slots.items():
                if part in stage["arrays"]:
                    stage["arrays"][slot + part] = told.put(f"{slot}{part}.{number}", next(arrays))


def _tell_step(told: Explanation, before: Trace, after: Trace) -> None:
    """What the step did: to the prediction, to each stage, and to the weights that moved most."""
    update = before.updates[0]
    stages = []
    for i, (old, new) in enumerate(zip(stages_of(before), stages_of(after), strict=True), 1):
        was, now = (records[-1].output.astype(np.float64) for records in (old, new))
        change = np.abs(now - was)
        stages.append(
            {"stage": i, "mean": float(np.abs(was).mean()), "change": float(change.mean()), "most": float(change.max())}
        )
    settings = update.settings
    told.meta["step"] = {
        "p": told.put("p.after", after.ops[-2].output[0]),
        "loss": float(after.ops[-1].output),
        "iteration": update.iteration,
        "rate": update.rate,
        "epsilon_hat": update.epsilon_hat,
        **{name: settings[name] for name in ("learning_rate", "beta_1", "beta_2", "epsilon")},
        "stages": stages,
        "movers": _movers(told, before),
        "expected": -sum(float((u.gradient.astype(np.float64) * u.step).sum()) for u in before.updates),
    }


def _movers(told: Explanation, t: Trace) -> list[dict[str, Any]]:
    """The weights with the largest steps; of equal ones, those with the largest gradients."""
    numbers = {stage["name"]: i for i, stage in enumerate(told.meta["stages"]) if "w" in stage["arrays"]}
    found = []
    for update in t.updates:
        layer, part = update.weight.rsplit(".", 1)
        size, g = np.abs(update.step).ravel(), np.abs(update.gradient).ravel()
        for k in np.lexsort((g, size))[: -MOVERS - 1 : -1]:
            at = [int(j) for j in np.unravel_index(k, update.step.shape)]
            found.append((size[k], g[k], numbers[layer], "w" if part == "kernel" else "b", at, update, k))
    found.sort(key=lambda entry: (-entry[0], -entry[1]))
    return [
        {
            "stage": stage,
            "part": part,
            "at": at,
            "before": float(update.before.ravel()[k]),
            "step": float(update.step.ravel()[k]),
            "after": float(update.after.ravel()[k]),
            "gradient": float(update.gradient.ravel()[k]),
        }
        for _, _, stage, part, at, update, k in found[:MOVERS]
    ]

"""A pass recorded as data: what each op was given, made, kept and sent back, and how each weight moved."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from inspect import Parameter, signature
from typing import Any

import numpy as np

from .tensor import Op, Tensor, watched_by

HIDDEN = ("parents", "needs", "k")  # of an op's attributes: what the backward pass keeps for itself


@dataclass
class OpRecord:
    """One op of a pass. All arrays are copies that nobody can change.

    `inputs` have the names of the op's arguments ("x", "w", "b"), and `sources` says under each name where it came
    from: the record of another op, or the name of a tensor ("conv2d.kernel"), or None. `saved` is what the op kept for
    its backward pass. `gradient_in` is the gradient of `output` (gy), None where no backward pass came by;
    `gradients_out` are those of the inputs that wanted one.
    """

    name: str
    layer: str
    op: str
    attributes: dict[str, Any]
    inputs: dict[str, np.ndarray]
    sources: dict[str, str | None]
    output: np.ndarray
    saved: dict[str, Any]
    gradient_in: np.ndarray | None = None
    gradients_out: dict[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in self.inputs.items())
        return f"<{self.name}: {self.op}({shapes}) -> {self.output.shape}>"


@dataclass
class UpdateRecord:
    """One weight in one step of an optimizer: `after` is `before` less `step`, up to rounding.

    `terms` holds what the optimizer made the step from: for Adam m, v, m_hat, v_hat, epsilon_hat and rate, after this
    step. They are attributes too: `record.m_hat`. `settings` are the optimizer's arguments, `iteration` counts from 1.
    """

    weight: str
    optimizer: str
    settings: dict[str, Any]
    iteration: int
    before: np.ndarray
    gradient: np.ndarray
    step: np.ndarray
    after: np.ndarray
    terms: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        terms = self.__dict__.get("terms", {})
        if name not in terms:
            raise AttributeError(f"an update by {self.__dict__.get('optimizer')} has no {name!r}")
        return terms[name]

    def __repr__(self) -> str:
        return f"<{self.weight} {self.before.shape}: step {self.iteration} of {self.optimizer}>"


class Trace:
    """What `trace()` gives: `ops` in the order in which they ran, and `updates` of weights.

    `trace["conv2d.relu"]` and `trace.op("relu")` look ops up, `trace.update("conv2d.kernel")` updates; each raises
    KeyError, which lists the names there are.
    """

    def __init__(self, whole: Sequence[str] = ()) -> None:
        self.ops: list[OpRecord] = []
        self.updates: list[UpdateRecord] = []
        self.layer = ""
        self._whole = frozenset(whole)
        self._records: dict[int, OpRecord] = {}  # by the identity of the op
        self._makers: dict[int, OpRecord] = {}  # by the identity of the tensor made
        self._alive: list[Any] = []  # so that no identity is given twice

    def __getitem__(self, name: str) -> OpRecord:
        return self.op(name)

    def __iter__(self) -> Iterator[OpRecord]:
        return iter(self.ops)

    def __len__(self) -> int:
        return len(self.ops)

    def __repr__(self) -> str:
        return f"<trace of {len(self.ops)} ops, {len(self.updates)} updates>"

    def op(self, name: str) -> OpRecord:
        """The first op of that name, else the first of that layer, else the first of that kind ("relu")."""
        for key in ("name", "layer", "op"):
            for record in self.ops:
                if getattr(record, key) == name:
                    return record
        raise KeyError(
            f"no op {name!r} in this trace; it has {', '.join(record.name for record in self.ops) or 'none'}"
        )

    def update(self, weight: str) -> UpdateRecord:
        """The last update of the weight of that name."""
        for record in reversed(self.updates):
            if record.weight == weight:
                return record
        names = dict.fromkeys(record.weight for record in self.updates)
        raise KeyError(f"no update of {weight!r} in this trace; it has {', '.join(names) or 'none'}")

    def to_dict(self, lists: bool = False) -> dict[str, Any]:
        """The whole trace as plain dictionaries; with `lists` as what JSON can hold, arrays as nested lists."""
        plain = {
            "ops": [{f.name: getattr(record, f.name) for f in fields(record)} for record in self.ops],
            "updates": [{f.name: getattr(record, f.name) for f in fields(record)} for record in self.updates],
        }
        return _listed(plain) if lists else plain

    # What the engine tells (tensor.Watcher).

    def splits(self, op: type[Op]) -> bool:
        return op.name not in self._whole

    def applied(self, op: Op, attributes: dict[str, Any], output: Tensor) -> None:
        kind = _snake(type(op).name)
        layer, names = self.layer, _input_names(op)
        record = OpRecord(
            name=self._free_name(f"{layer}.{kind}" if layer else kind),
            layer=layer,
            op=kind,
            attributes=dict(attributes),
            inputs={name: self._array(parent) for name, parent in zip(names, op.parents, strict=True)},
            sources={name: self._source(parent) for name, parent in zip(names, op.parents, strict=True)},
            output=_copy(output.numpy()),
            saved={name: _copied(value, output.backend) for name, value in vars(op).items() if name not in HIDDEN},
        )
        self.ops.append(record)
        self._records[id(op)] = self._makers[id(output)] = record
        self._alive += [op, output]

    def differentiated(self, op: Op, gy: Any, gradients: tuple[Any, ...]) -> None:
        record = self._records.get(id(op))
        if record is None:  # it ran before the trace began
            return
        home = op.parents[0].backend
        wanted = zip(record.inputs, op.needs, gradients, strict=True)
        record.gradient_in = _copied(gy, home)
        record.gradients_out = {name: _copied(g, home) for name, need, g in wanted if need}

    @contextmanager
    def moves(self, optimizer: Any, weights: Sequence[Tensor]) -> Iterator[None]:
        before = [_copy(weight.numpy()) for weight in weights]
        yield
        for i, (weight, old) in enumerate(zip(weights, before, strict=True)):
            if weight.grad is None:
                continue
            home = weight.backend
            g, after = _copied(weight.grad, home), _copy(weight.numpy())
            state = {slot: _copied(arrays[i], home) for slot, arrays in optimizer.state.items()}
            terms = state | optimizer.terms(g, state)
            self.updates.append(
                UpdateRecord(
                    weight=weight.name or f"weight_{i}",
                    optimizer=type(optimizer).__name__,
                    settings=optimizer.get_config(),
                    iteration=optimizer.iterations,
                    before=old,
                    gradient=g,
                    step=_copy(terms.pop("step", old - after)),
                    after=after,
                    terms={name: _copied(value, home) for name, value in terms.items()},
                )
            )

    def _free_name(self, name: str) -> str:
        alike = sum(record.name == name or record.name.startswith(f"{name}_") for record in self.ops)
        return f"{name}_{alike}" if alike else name

    def _array(self, tensor: Tensor) -> np.ndarray:
        maker = self._makers.get(id(tensor))
        return maker.output if maker else _copy(tensor.numpy())

    def _source(self, tensor: Tensor) -> str | None:
        maker = self._makers.get(id(tensor))
        return maker.name if maker else tensor.name


@contextmanager
def trace(whole: Sequence[str] = ()) -> Iterator[Trace]:
    """Record every op, backward pass and optimizer step inside this block: `with tinycnn.trace() as t: ...`.

    Ops that do the work of several run as those (fused.py), and never from a recording, so results differ from
    untraced ones by rounding; those named in `whole`, such as "SigmoidBinaryCrossEntropy", run and are recorded as one.
    Only this thread is recorded. Arrays are copied, so that the trace of a large batch takes much memory.
    """
    record = Trace(whole)
    try:
        with watched_by(record):
            yield record
    finally:
        for kept in (record._records, record._makers, record._alive):
            kept.clear()


def _snake(name: str) -> str:
    """MaxPool2D -> max_pool2d, ReLU -> relu"""
    return {"ReLU": "relu", "MatMul": "matmul"}.get(name) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _input_names(op: Op) -> list[str]:
    """The names that the op's `forward` gives its arrays."""
    names: list[str] = []
    for parameter in signature(op.forward).parameters.values():
        if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
            names.append(parameter.name)
        elif parameter.kind is Parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(len(op.parents) - len(names))]
    return names[: len(op.parents)]


def _copy(array: Any) -> np.ndarray:
    copied = np.array(array)
    copied.flags.writeable = False
    return copied


def _copied(value: Any, home: Any) -> Any:
    """A value with copies of the arrays of its backend in it."""
    if isinstance(value, np.ndarray | np.generic) or home.holds(value):
        return _copy(home.to_numpy(value))
    return value


def _listed(value: Any) -> Any:
    """What JSON can hold in place of any value of a trace."""
    if isinstance(value, dict):
        return {str(name): _listed(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        return _listed(asdict(value))
    if isinstance(value, tuple | list):
        return [_listed(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)

"""The layers of a model run again from a note of their kernels' calls, where a batch is like one before.

Writing the tape, working out shapes and finding memory take a tenth of a small network's step, on one core while the
others wait; a replay needs none of it. What a GPU calls a graph, here is a list of calls.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from operator import is_
from typing import Any

import numpy as np

from .backend import Backend
from .fused import ConvBias, ConvReLU, ConvReLUMaxPool2D, DenseBias, DenseReLU, FusedOp, Step
from .ops import Flatten, MaxPool2D, Sigmoid
from .tensor import Op, Tensor, is_grad_enabled

REPLAYABLE: tuple[type[Op], ...] = (
    ConvBias, ConvReLU, ConvReLUMaxPool2D, DenseBias, DenseReLU, Flatten, MaxPool2D,
)  # fmt: skip
TO_PREDICT: tuple[type[Op], ...] = (Sigmoid,)  # besides: their gradients are no kernels' work
MOST = 2**21  # numbers of a batch: with more, kernels take long enough, and a recording keeps all their arrays
KEPT = 4  # recordings: of a whole and a ragged batch, to train and to predict

# A function, its arguments, and where among these the batch goes, with the shape it is passed in.
_Noted = tuple[Callable[..., Any], list[Any], list[tuple[int, tuple[int, ...]]]]

_lent: ContextVar[list[Any] | None] = ContextVar("lent", default=None)


class Replays:
    """A block in which chains may replay. What they return holds until its end, and is to be differentiated once."""

    def __enter__(self) -> None:
        self.lent: list[tuple[Chain, Any, _Recording]] = []
        self._token = _lent.set(self.lent)

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        _lent.reset(self._token)
        if failure is None:
            for chain, key, recording in self.lent:
                chain.keep(key, recording)


@contextmanager
def no_replays() -> Iterator[None]:
    """A block in which chains do all anew, and take no notice of the batches."""
    token = _lent.set(None)
    try:
        yield
    finally:
        _lent.reset(token)


class Chain:
    """Ops one after the other, as many of the `steps` as work through kernels alone: `used` of them.

    One that `predicts` may hold more ops, and is not replayed where gradients are wanted.
    """

    def __init__(self, steps: Sequence[Step], home: Backend, predicts: bool = False) -> None:
        ops = (*REPLAYABLE, *TO_PREDICT) if predicts else REPLAYABLE
        self.used = [*(_replayable(step, home, ops) for step in steps), False].index(False)
        self.predicts = predicts
        self.home, self.steps = home, list(steps[: self.used])
        self.weights = [x for step in self.steps for x in step.inputs if isinstance(x, Tensor)]
        self._kept: dict[tuple[Any, ...], _Recording] = {}  # those that no thread is using
        self._seen: set[tuple[Any, ...]] = set()

    def __call__(self, x: Tensor) -> Tensor:
        """The chain's value for a batch; from the second batch of a kind on from a recording, inside `Replays`."""
        lent = _lent.get()
        if lent is not None and (key := self._key(x)) is not None:
            recording = self._kept.pop(key, None)
            if recording and not recording.holds(self.weights):
                recording = None
            if recording is None and key in self._seen:
                recording = _Recording(self.steps, self.weights)
            self._seen.add(key)
            if recording:
                lent.append((self, key, recording))
                if is_grad_enabled():
                    return _Replay.apply(x, *self.weights, recording=recording)
                return Tensor(recording.forward(x.data, x.backend), backend=x.backend)
        for step in self.steps:
            x = step(x)
        return x

    def _key(self, x: Tensor) -> tuple[Any, ...] | None:
        """What makes two batches alike for the kernels; None for one that cannot be replayed."""
        array = x.data
        if not self.weights or x.backend is not self.home:
            return None
        if array.dtype != np.float32 or not array.flags.carray or array.size > MOST:
            return None
        training = is_grad_enabled() and any(w.requires_grad for w in self.weights)
        if training and self.predicts:
            return None
        if x.requires_grad or (training and any(w.grad_buffer is None for w in self.weights)):
            return None  # the first step: weights and gradients have no lasting place yet
        return array.shape, training, x.backend.usable_threads()

    def keep(self, key: tuple[Any, ...], recording: "_Recording") -> None:
        """Take a recording back."""
        recording.x = None
        if recording.usable:
            self._kept[key] = recording
            for oldest in list(self._kept)[:-KEPT]:
                self._kept.pop(oldest, None)


class _Replay(Op):
    """A chain as one op: its inputs are the batch and the chain's weights."""

    def forward(self, x, *weights, recording):
        self.recording = recording
        return recording.forward(x, self.k)

    def backward(self, gy):
        return (None, *self.recording.backward(gy, self.k))


class _Recording:
    """What kernels were asked to do for one kind of batch, forward and backward. The first run of each is noted."""

    def __init__(self, steps: Sequence[Step], weights: Sequence[Tensor]) -> None:
        self.steps, self.weights = steps, weights
        self.places = _places(weights)
        self.usable = True  # not if a call takes only a part of the batch: its place in another is not known
        self.calls: dict[str, list[_Noted]] = {}
        self.x: Any = None

    def holds(self, weights: Sequence[Tensor]) -> bool:
        """Whether weights and gradients still lie where they lay."""
        return all(map(is_, self.places, _places(weights)))

    def forward(self, x, k):
        self.x = x
        if "forward" in self.calls:
            _play(self.calls["forward"], x)
            return self.y.data
        with k.recorded() as calls:
            self.y = Tensor(x, backend=k)
            for step in self.steps:
                self.y = step(self.y)
        self._note("forward", calls, k)
        return self.y.data

    def backward(self, gy, k):
        if "backward" in self.calls:
            np.copyto(self.gy, gy)
            _play(self.calls["backward"], self.x)
        else:
            self.gy = np.array(gy)
            with k.recorded() as calls:
                self.y.backward(self.gy)
            self._note("backward", calls, k)
            self.usable &= all(w.grad is w.grad_buffer for w in self.weights if w.requires_grad)
            self.y = Tensor(self.y.data, backend=k)  # without its tape
        return [w.grad_buffer if w.requires_grad else None for w in self.weights]

    def _note(self, name: str, calls: list[Any], k: Backend) -> None:
        """Keep the calls, with places left open where the batch was among their arguments."""
        shared = [a for _, arguments in calls for a in arguments if self._shares(a)]
        self.usable &= all(_whole(a, self.x) for a in shared)
        self.calls[name] = []
        for function, arguments in k.joined(calls, self.x) if self.usable else []:
            places = [i for i, a in enumerate(arguments) if self._shares(a)]
            kept = [None if i in places else a for i, a in enumerate(arguments)]
            self.calls[name].append((function, kept, [(i, arguments[i].shape) for i in places]))

    def _shares(self, argument: Any) -> bool:
        return isinstance(argument, np.ndarray) and np.may_share_memory(argument, self.x)


def _replayable(step: Step, home: Backend, ops: tuple[type[Op], ...]) -> bool:
    fused = not issubclass(step.op, FusedOp) or step.op.has_kernel(home, step.inputs, step.attributes)
    return home.has("recorded") and step.op in ops and fused


def _whole(array: np.ndarray, x: np.ndarray) -> bool:
    """Whether an array is all of x in x's order, if in another shape."""
    return array.ctypes.data == x.ctypes.data and array.size == x.size and array.flags.carray


def _play(calls: list[_Noted], x: np.ndarray) -> None:
    for function, kept, batches in calls:
        arguments = kept
        if batches:
            arguments = list(kept)
            for i, shape in batches:
                arguments[i] = x.reshape(shape)
        function(*arguments)


def _places(weights: Sequence[Tensor]) -> list[Any]:
    """Where weights and their gradients lie, and which of these are wanted."""
    return [part for w in weights for part in (w.data, w.grad_buffer, w.requires_grad)]

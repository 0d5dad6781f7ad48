"""Tensors that remember how they were made, and the backward pass that walks that memory.

Nothing here knows what any op computes or what its derivative is: ops.py says that.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from operator import setitem
from typing import Any, ClassVar, Protocol, Union

import numpy as np

from . import backend as backends
from .backend import Backend
from .errors import BackendError, ShapeError
from .kernels import recording

TensorLike = Union["Tensor", np.ndarray, float, Sequence[Any]]

_recording: ContextVar[bool] = ContextVar("recording", default=True)


class no_grad:  # noqa: N801 - it reads as the function that it is in other libraries
    """Inside this block nothing is remembered, so nothing can be differentiated and memory is freed at once."""

    def __enter__(self) -> None:
        self._token = _recording.set(False)

    def __exit__(self, *_: object) -> None:
        _recording.reset(self._token)


def is_grad_enabled() -> bool:
    """Whether ops are remembered here: not inside `no_grad`."""
    return _recording.get()


class Watcher(Protocol):
    """Somebody who is told what happens inside a `watched_by` block; `layer` is whose op runs, where one says so."""

    layer: str

    def splits(self, op: type["Op"]) -> bool:
        """Whether an op that stands for several is to run as these."""

    def applied(self, op: "Op", attributes: dict[str, Any], output: "Tensor") -> None:
        """An op has run on `op.parents`."""

    def differentiated(self, op: "Op", gy: Any, gradients: tuple[Any, ...]) -> None:
        """An op's backward has run."""

    def moves(self, optimizer: Any, weights: Sequence["Tensor"]) -> AbstractContextManager[None]:
        """A block in which an optimizer takes one step."""


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Inside this block `watcher` is told of every op; ops run one by one, never from a recording."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def watcher() -> Watcher | None:
    """Who is watching here, if anybody."""
    return _watcher.get()


class Tensor:
    """An array, the op that made it (none for a leaf), and, for a leaf after `backward`, its gradient.

    `data` may be a number, a nested list or an array; whole numbers and lists become float32, arrays of floating
    point numbers keep their type. `requires_grad` marks a leaf whose gradient is wanted. `name` is for those who look
    at a computation (see trace.py).
    """

    __array_ufunc__ = None  # so that `array + tensor` comes to Tensor.__radd__

    def __init__(
        self,
        data: TensorLike,
        *,
        requires_grad: bool = False,
        backend: Backend | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(data, Tensor):
            backend, data = backend or data.backend, data.data
        self.backend: Backend = backend or backends.current()
        typed = hasattr(data, "dtype")
        array = self.backend.asarray(data)
        keep = typed and array.dtype.kind in "fc" and array.dtype.itemsize >= 4
        self.data: Any = array if keep else array.astype(np.float32)
        self.requires_grad = requires_grad
        self.grad: Any = None
        self.grad_buffer: Any = None  # an array that `backward` puts the gradient into, in place of a new one
        self.buffer_lent = False
        self.op: Op | None = None
        self.name = name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array."""
        return self.backend.to_numpy(self.data)

    def item(self) -> float:
        """The value of a tensor of one element, as a Python number."""
        return self.data.item()

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        made = f", op={self.op.name}" if self.op else ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({np.array2string(self.numpy(), precision=4, separator=', ', threshold=20)}{made})"

    def _repr_html_(self) -> str:
        from .notebook import tensor_html

        return tensor_html(self.numpy(), self.op.name if self.op else None)

    def backward(self, gradient: TensorLike | None = None) -> None:
        """Set `.grad` of every leaf that requires it to the derivative of this tensor with respect to it.

        `gradient` is the derivative of the final value with respect to this tensor; it may be left out where this
        tensor has one element. Leaves get `.grad` afresh: calling twice gives the same, nothing has to be zeroed.
        """
        if not self.requires_grad:
            raise ValueError("backward: nothing here requires a gradient; make a leaf with requires_grad=True")
        if gradient is None and self.data.size != 1:
            raise ShapeError(f"backward: a tensor of shape {self.shape} needs `gradient` of the same shape; or sum it")
        seed = np.ones_like(self.data) if gradient is None else self._beside(gradient)
        if seed.shape != self.shape:
            raise ShapeError(f"backward: gradient has shape {seed.shape}, the tensor {self.shape}")

        gradients = {id(self): seed}
        order = list(_outputs_first(self))
        for tensor in order:
            tensor.buffer_lent = False  # a pass that was interrupted may have left it so
        for tensor in order:
            gy = gradients.pop(id(tensor))
            if tensor.op is None:
                tensor._keep(gy)
                continue
            for parent, g in tensor.op.parent_gradients(gy):
                known = gradients.get(id(parent))
                if known is not None:
                    recording.cannot_repeat()
                gradients[id(parent)] = g if known is None else known + g

    def _keep(self, gradient: Any) -> None:
        """Make it this leaf's `.grad`, unless an op has put it into the leaf's buffer already."""
        self.buffer_lent = False
        if self.grad_buffer is None:
            recording.cannot_repeat()
            self.grad = gradient.astype(self.dtype)
        else:
            if gradient is not self.grad_buffer:
                recording.call(setitem, self.grad_buffer, Ellipsis, gradient)
            self.grad = self.grad_buffer

    def _beside(self, x: TensorLike) -> Any:
        """The array of a tensor or array; plain numbers take this tensor's number type."""
        plain = not isinstance(x, Tensor) and not hasattr(x, "dtype")
        return Tensor(np.asarray(x, self.dtype) if plain else x, backend=self.backend).data

    def reshape(self, *shape: int | Sequence[int]) -> "Tensor":
        return _apply("Reshape", self, shape=shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> "Tensor":
        return _apply("Sum", self, axis=axis, keepdims=keepdims)

    def mean(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> "Tensor":
        return _apply("Mean", self, axis=axis, keepdims=keepdims)

    def __add__(self, other: TensorLike) -> "Tensor":
        return _apply("Add", self, other)

    def __radd__(self, other: TensorLike) -> "Tensor":
        return _apply("Add", other, self)

    def __sub__(self, other: TensorLike) -> "Tensor":
        return _apply("Sub", self, other)

    def __rsub__(self, other: TensorLike) -> "Tensor":
        return _apply("Sub", other, self)

    def __mul__(self, other: TensorLike) -> "Tensor":
        return _apply("Mul", self, other)

    def __rmul__(self, other: TensorLike) -> "Tensor":
        return _apply("Mul", other, self)

    def __truediv__(self, other: TensorLike) -> "Tensor":
        return _apply("Div", self, other)

    def __rtruediv__(self, other: TensorLike) -> "Tensor":
        return _apply("Div", other, self)

    def __matmul__(self, other: TensorLike) -> "Tensor":
        return _apply("MatMul", self, other)

    def __rmatmul__(self, other: TensorLike) -> "Tensor":
        return _apply("MatMul", other, self)

    def __pow__(self, exponent: float) -> "Tensor":
        return _apply("Pow", self, exponent=exponent)

    def __neg__(self) -> "Tensor":
        return _apply("Neg", self)


class Op:
    """One step of a computation: `forward` takes arrays to an array, `backward` takes the gradient of that array
    to the gradients of the inputs, one each, None for those that `self.needs` says nobody asked for.

    An op declares itself once, for every backend: it computes with array expressions, and with the kernels
    `self.k` where a loop is needed. What `backward` will need is kept under a name.

    Where work is recorded, `by_kernels` names the methods of which nothing has to be done again but what kernels do
    to arrays; it is not inherited. The others are called again as a whole: `backward` may use what `forward` kept,
    but not the data of `parents`.
    """

    registry: ClassVar[dict[str, type["Op"]]] = {}
    name: ClassVar[str]
    by_kernels: ClassVar[tuple[str, ...]] = ()
    parents: tuple[Tensor, ...]
    needs: tuple[bool, ...]
    k: Backend

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__
        if "by_kernels" not in vars(cls):  # what is true of a class need not be so of one made from it
            cls.by_kernels = ()
        if cls.forward is not Op.forward and not cls.name.startswith("_"):
            Op.registry[cls.name] = cls

    def forward(self, *inputs: Any, **attributes: Any) -> Any:
        raise NotImplementedError

    def backward(self, gy: Any) -> tuple[Any, ...]:
        raise NotImplementedError

    @classmethod
    def apply(cls, *inputs: TensorLike | None, **attributes: Any) -> Tensor:
        """Run the op on tensors, or what can become one; trailing inputs that are None are left out."""
        given = [x for x in inputs if x is not None]
        op = cls()
        op.parents = _as_tensors(cls.name, given)
        types = {p.dtype for p in op.parents}
        op.k = op.parents[0].backend.for_dtype(types.pop() if len(types) == 1 else np.result_type(*types))
        op.needs = tuple(p.requires_grad for p in op.parents)
        arrays = [p.data for p in op.parents]
        again = recording.is_recording() and not op._is_by_kernels("forward")
        forward = partial(recording.unnoted, op.forward) if again else op.forward
        try:
            data = forward(*arrays, **attributes)
            if again:  # the result will be written over, and may be an input or a part of one
                data = recording.new(np.array(data))
        except ShapeError as error:
            raise ShapeError(f"{cls.name}: {error}") from None
        except ValueError:  # NumPy's own words differ from function to function
            sizes = " and ".join(str(p.shape) for p in op.parents)
            raise ShapeError(f"{cls.name}: inputs of shape {sizes} do not fit together") from None
        y = Tensor(data, backend=op.parents[0].backend)
        if again:
            recording.note(_forward_again, op, attributes, y.data, *arrays)
        if any(op.needs) and is_grad_enabled():
            y.requires_grad, y.op = True, op
        if (somebody := watcher()) is not None:
            somebody.applied(op, attributes, y)
        return y

    def gradient_buffer(self, i: int) -> Any:
        """The array that the gradient of input i may be written into, or None: a leaf's buffer, to one op per pass."""
        leaf = self.parents[i]
        if leaf.op is not None or leaf.grad_buffer is None or leaf.buffer_lent or not self.needs[i]:
            return None
        leaf.buffer_lent = True
        return leaf.grad_buffer

    def parent_gradients(self, gy: Any) -> Iterator[tuple[Tensor, Any]]:
        """Each parent that wants a gradient, with that gradient, checked."""
        gradients: tuple[Any, ...]
        if recording.is_recording() and not self._is_by_kernels("backward"):
            found = recording.unnoted(self.backward, gy)
            gradients = tuple(None if g is None else recording.new(np.array(g)) for g in found)
            recording.note(_backward_again, self, gy, *gradients)
        else:
            gradients = self.backward(gy)
        if (somebody := watcher()) is not None:
            somebody.differentiated(self, gy, gradients)
        for parent, needed, g in zip(self.parents, self.needs, gradients, strict=True):
            if needed and parent.requires_grad:
                if g.shape != parent.shape:
                    raise ShapeError(f"{self.name}: backward gave {g.shape} for an input of shape {parent.shape}")
                yield parent, g

    def _is_by_kernels(self, method: str) -> bool:
        return method in self.by_kernels and self.k.notes_calls


def _forward_again(op: Op, attributes: dict[str, Any], y: Any, *arrays: Any) -> None:
    y[...] = op.forward(*arrays, **attributes)


def _backward_again(op: Op, gy: Any, *gradients: Any) -> None:
    for kept, new in zip(gradients, op.backward(gy), strict=True):
        if kept is not None:
            kept[...] = new


def _apply(name: str, *inputs: TensorLike, **attributes: Any) -> Tensor:
    return Op.registry[name].apply(*inputs, **attributes)


def _as_tensors(name: str, inputs: Sequence[TensorLike]) -> tuple[Tensor, ...]:
    """The inputs as tensors of one backend; plain numbers take the number type of the tensors beside them."""
    known = [x for x in inputs if isinstance(x, Tensor)]
    home = known[0].backend if known else backends.current()
    for x in known:
        if x.backend is not home:
            raise BackendError(f"{name}: inputs live on two backends, {home.name} and {x.backend.name}; choose one")
    if len(known) == len(inputs):
        return tuple(known)
    plain = np.result_type(*(x.dtype for x in known)) if known else np.dtype(np.float32)
    return tuple(x if isinstance(x, Tensor) else _as_tensor(x, home, plain) for x in inputs)


def _as_tensor(x: Any, home: Backend, plain: np.dtype) -> Tensor:
    if not hasattr(x, "dtype"):
        return Tensor(np.asarray(x, plain), backend=home)
    tensor = Tensor(x, backend=home)
    if tensor.data is not x:
        recording.cannot_repeat()  # what was converted may be another array next time
    return tensor


def _outputs_first(root: Tensor) -> Iterator[Tensor]:
    """Every tensor that leads to `root` and requires a gradient, each after all that were made from it.

    No recursion, so depth has no limit: a tensor is ready when all the ops that used it have been seen.
    """
    uses = {id(root): 0}
    stack = [root]
    while stack:
        tensor = stack.pop()
        for parent in _parents(tensor):
            if id(parent) not in uses:
                uses[id(parent)] = 0
                stack.append(parent)
            uses[id(parent)] += 1
    ready = [root]
    while ready:
        tensor = ready.pop()
        yield tensor
        for parent in _parents(tensor):
            uses[id(parent)] -= 1
            if uses[id(parent)] == 0:
                ready.append(parent)


def _parents(tensor: Tensor) -> list[Tensor]:
    """The tensors that this one was made from and that want a gradient, then as now."""
    op = tensor.op
    return [p for p, need in zip(op.parents, op.needs, strict=True) if need and p.requires_grad] if op else []

"""Every primitive, declared once: what it computes and what its derivative is, with no device in sight.

Images are (N, H, W, C), convolution weights (KH, KW, C, F), dense weights (in, out): Keras's layouts.
`g` in front of a name means the gradient of the loss with respect to it.
"""

from math import prod

import numpy as np

from .kernels import recording, shapes
from .kernels.shapes import ShapeError
from .tensor import Op

EPSILON = 1e-7  # probabilities are kept this far from 0 and 1 before a logarithm, as in Keras


class Add(Op):
    """a + b"""

    def forward(self, a, b):
        self.shapes = a.shape, b.shape
        return a + b

    def backward(self, gy):
        return tuple(_sum_to(gy, shape) if need else None for shape, need in zip(self.shapes, self.needs, strict=True))


class Sub(Op):
    """a - b"""

    def forward(self, a, b):
        self.shapes = a.shape, b.shape
        return a - b

    def backward(self, gy):
        ga = _sum_to(gy, self.shapes[0]) if self.needs[0] else None
        gb = _sum_to(-gy, self.shapes[1]) if self.needs[1] else None
        return ga, gb


class Mul(Op):
    """a * b"""

    def forward(self, a, b):
        self.a, self.b = a, b
        return a * b

    def backward(self, gy):
        ga = _sum_to(gy * self.b, self.a.shape) if self.needs[0] else None
        gb = _sum_to(gy * self.a, self.b.shape) if self.needs[1] else None
        return ga, gb


class Div(Op):
    """a / b"""

    def forward(self, a, b):
        self.a, self.b = a, b
        return a / b

    def backward(self, gy):
        ga = _sum_to(gy / self.b, self.a.shape) if self.needs[0] else None
        gb = _sum_to(-gy * self.a / (self.b * self.b), self.b.shape) if self.needs[1] else None
        return ga, gb


class Neg(Op):
    """-x"""

    def forward(self, x):
        return -x

    def backward(self, gy):
        return (-gy,)


class Pow(Op):
    """x ** exponent, for a number as exponent"""

    def forward(self, x, *, exponent):
        self.x, self.exponent = x, exponent
        return x**exponent

    def backward(self, gy):
        if self.exponent == 0:
            return (np.zeros_like(gy),)
        return (gy * self.exponent * self.x ** (self.exponent - 1),)


class Exp(Op):
    """e ** x"""

    def forward(self, x):
        self.y = np.exp(x)
        return self.y

    def backward(self, gy):
        return (gy * self.y,)


class Log(Op):
    """Natural logarithm of x"""

    def forward(self, x):
        self.x = x
        return np.log(x)

    def backward(self, gy):
        return (gy / self.x,)


class MatMul(Op):
    """a @ b for (..., M, K) and (..., K, N); the axes in front broadcast"""

    def forward(self, a, b):
        if a.ndim < 2 or b.ndim < 2:
            raise ShapeError(f"{a.shape} @ {b.shape}: both need two axes or more; reshape a vector to (1, n) or (n, 1)")
        self.a, self.b = a, b
        return a @ b

    def backward(self, gy):
        ga = _sum_to(gy @ np.swapaxes(self.b, -1, -2), self.a.shape) if self.needs[0] else None
        gb = _sum_to(np.swapaxes(self.a, -1, -2) @ gy, self.b.shape) if self.needs[1] else None
        return ga, gb


class Sum(Op):
    """Sum over `axis` (all axes if None)"""

    def forward(self, x, *, axis=None, keepdims=False):
        y = x.sum(axis=axis, keepdims=True)
        self.x_shape, self.kept = x.shape, y.shape
        return y if keepdims else np.squeeze(y, axis=axis)

    def backward(self, gy):
        return (np.broadcast_to(gy.reshape(self.kept), self.x_shape),)


class Mean(Sum):
    """Mean over `axis` (all axes if None)"""

    def forward(self, x, *, axis=None, keepdims=False):
        y = super().forward(x, axis=axis, keepdims=keepdims)
        self.count = prod(self.x_shape) // max(prod(self.kept), 1)
        return y / self.count

    def backward(self, gy):
        return super().backward(gy / self.count)


class Reshape(Op):
    """The same numbers in another shape"""

    by_kernels = "forward", "backward"  # there is nothing to do again for another view of the same memory

    def forward(self, x, *, shape):
        self.x_shape = x.shape
        try:
            return _view(x, shape)
        except ValueError:
            raise ShapeError(f"{prod(x.shape)} numbers of shape {x.shape} cannot take the shape {shape}") from None

    def backward(self, gy):
        return (_view(gy, self.x_shape),)


class Flatten(Reshape):
    """Each image as one row, channel fastest: (N, H, W, C) -> (N, H*W*C)"""

    by_kernels = "forward", "backward"

    def forward(self, x):
        if x.ndim == 0:
            raise ShapeError("input of shape () has no axis of samples")
        return super().forward(x, shape=(x.shape[0], prod(x.shape[1:])))


class Dense(Op):
    """Every output sees every input: y = x @ w + b, for (N, IN), (IN, OUT) and (OUT,)"""

    def forward(self, x, w, b=None):
        check_dense(x, w, b)
        self.x, self.w = x, w
        y = x @ w
        return y if b is None else y + b

    def backward(self, gy):
        gx = gy @ self.w.T if self.needs[0] else None
        gw = self.x.T @ gy if self.needs[1] else None
        gb = gy.sum(axis=0) if self.needs[2:] == (True,) else None
        return (gx, gw, gb)[: len(self.needs)]


class Conv2D(Op):
    """Every window of the image times every filter, summed: im2col, then one matrix product.

    (N, H, W, C), (KH, KW, C, F) and (F,) -> (N, OH, OW, F). A cross-correlation: filters are not flipped.
    Padding and dilation as `shapes.windows` describes them.
    """

    def forward(self, x, w, b=None, *, strides=1, padding="valid", dilation=1):
        check_convolution(x, w, b)
        self.w, self.win = w, shapes.windows(x.shape[1:3], w.shape[:2], strides, padding, dilation)
        self.cols = self.k.im2col(x, self.win)  # (N, OH, OW, KH*KW*C)
        *outside, taps = self.cols.shape
        y = self.cols.reshape(prod(outside), taps) @ w.reshape(taps, w.shape[3])  # (N*OH*OW, F)
        y = y.reshape(*outside, w.shape[3])  # (N, OH, OW, F)
        return y if b is None else y + b

    def backward(self, gy):
        n, taps, f, places = len(gy), self.cols.shape[3], gy.shape[3], self.win.oh * self.win.ow
        gy = gy.reshape(n, places, f)  # (N, OH*OW, F)
        gx = gw = None
        if self.needs[0]:
            gcols = gy.reshape(n * places, f) @ self.w.reshape(taps, f).T  # (N*OH*OW, KH*KW*C)
            gx = self.k.col2im(gcols.reshape(self.cols.shape), self.win)
        if self.needs[1]:  # one product per image, added in order: shorter sums lose fewer digits
            cols = self.cols.reshape(n, places, taps)  # (N, OH*OW, KH*KW*C)
            gw = (np.swapaxes(cols, 1, 2) @ gy).sum(axis=0).reshape(self.w.shape)
        gb = gy.sum(axis=1).sum(axis=0) if self.needs[2:] == (True,) else None
        return (gx, gw, gb)[: len(self.needs)]


class MaxPool2D(Op):
    """Maximum over each window; the gradient goes to the first winner of each: (N, H, W, C) -> (N, OH, OW, C).

    `strides` is `size` unless given.
    """

    by_kernels = "forward", "backward"

    def forward(self, x, *, size=2, strides=None, padding="valid"):
        if x.ndim != 4:
            raise ShapeError(f"input of shape {x.shape} is not (N, H, W, C)")
        self.win = shapes.windows(x.shape[1:3], size, size if strides is None else strides, padding)
        y, self.winner = self.k.max_pool2d(x, self.win)
        return y

    def backward(self, gy):
        return (self.k.max_pool2d_backward(gy, self.winner, self.win),)


class ReLU(Op):
    """max(x, 0); the derivative at 0 is 0"""

    def forward(self, x):
        self.y = np.maximum(x, 0) if np.isrealobj(x) else np.where(x.real > 0, x, 0)
        return self.y

    def backward(self, gy):
        return (gy * (self.y > 0),)


class Sigmoid(Op):
    """1 / (1 + e ** -x)"""

    by_kernels = ("forward",)

    def forward(self, x):
        self.y = self.k.logistic(x)
        return self.y

    def backward(self, gy):
        return (gy * self.y * (1 - self.y),)


class Softmax(Op):
    """e ** x over its sum along the last axis: numbers to probabilities"""

    def forward(self, x):
        self.y = normalized_exponentials(x)
        return self.y

    def backward(self, gy):
        return (self.y * (gy - (gy * self.y).sum(axis=-1, keepdims=True)),)


class BinaryCrossEntropy(Op):
    """Mean of -(y log p + (1 - y) log(1 - p)) for probabilities p and labels y of one shape -> ()

    Probabilities are clipped to [1e-7, 1 - 1e-7] as in Keras; outside, their gradient is 0.
    """

    def forward(self, p, y):
        check(p.shape == y.shape, p, y, "of one shape")
        self.p, self.y, self.clipped = p, y, np.clip(p, EPSILON, 1 - EPSILON)
        return -(y * np.log(self.clipped) + (1 - y) * np.log(1 - self.clipped)).mean()

    def backward(self, gy):
        q = self.clipped
        gp = gy * (q - self.y) / (q * (1 - q)) * (self.p == q) / q.size if self.needs[0] else None
        gtarget = gy * (np.log(1 - q) - np.log(q)) / q.size if self.needs[1] else None
        return gp, gtarget


class CategoricalCrossEntropy(Op):
    """Mean over rows of -sum(y log p), for probabilities p and one-hot labels y of shape (N, CLASSES) -> ()

    Rows are first scaled to sum 1, then clipped to [1e-7, 1 - 1e-7], as in Keras.
    """

    def forward(self, p, y):
        check(p.shape == y.shape and p.ndim == 2, p, y, "both (N, CLASSES)")
        self.y, self.total = y, p.sum(axis=-1, keepdims=True)
        self.q = p / self.total
        self.clipped = np.clip(self.q, EPSILON, 1 - EPSILON)
        return -(y * np.log(self.clipped)).sum() / len(p)

    def backward(self, gy):
        gp = gtarget = None
        if self.needs[0]:
            gq = -gy * self.y / self.clipped * (self.q == self.clipped) / len(self.q)
            gp = (gq - (gq * self.q).sum(axis=-1, keepdims=True)) / self.total
        if self.needs[1]:
            gtarget = -gy * np.log(self.clipped) / len(self.q)
        return gp, gtarget


def normalized_exponentials(x):
    """The softmax of an array along its last axis, without overflow."""
    e = np.exp(x - x.real.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _view(x, shape):
    y = x.reshape(shape)
    if not x.flags.c_contiguous:  # a copy
        recording.cannot_repeat()
    return y


def _sum_to(g, shape):
    """Undo broadcasting: add up the gradient over the axes along which the input was repeated."""
    axes = shapes.broadcast_axes(shape, g.shape)
    return g.sum(axis=axes).reshape(shape) if axes else g


def check_dense(x, w, b) -> None:
    """Raise ShapeError unless a dense layer can take these arrays."""
    check(x.ndim == 2 and w.ndim == 2 and x.shape[1] == w.shape[0], x, w, "(N, IN) and (IN, OUT)")
    _check_bias(b, w)


def check_convolution(x, w, b) -> None:
    """Raise ShapeError unless a convolution can take these arrays."""
    check(x.ndim == 4 and w.ndim == 4 and x.shape[3] == w.shape[2], x, w, "(N, H, W, C) and (KH, KW, C, F)")
    _check_bias(b, w)


def check(fits: bool, a, b, wanted: str) -> None:
    if not fits:
        raise ShapeError(f"inputs of shape {a.shape} and {b.shape}; they must be {wanted}")


def _check_bias(b, w) -> None:
    if b is not None and b.shape != w.shape[-1:]:
        raise ShapeError(f"bias of shape {b.shape} for weights of shape {w.shape}; it must be {w.shape[-1:]}")


exp, log = Exp.apply, Log.apply
dense, conv2d, max_pool2d, flatten = Dense.apply, Conv2D.apply, MaxPool2D.apply, Flatten.apply
relu, sigmoid, softmax = ReLU.apply, Sigmoid.apply, Softmax.apply
binary_cross_entropy, categorical_cross_entropy = BinaryCrossEntropy.apply, CategoricalCrossEntropy.apply

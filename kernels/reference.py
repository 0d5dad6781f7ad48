"""What every kernel means, in NumPy: the definition that the other backends are tested against.

Written with functions that follow the type of their arguments, so that any array of NumPy's kind can pass through.
Images are (N, H, W, C); `win` says where the windows lie (`shapes.windows`). Real and complex numbers both work:
complex ones, which gradient checks use, are compared by their real parts.
"""

import numpy as np

from .shapes import Windows


def im2col(x, win: Windows):
    """Copy every window into a row of its own: (N, H, W, C) -> (N, OH, OW, KH*KW*C).

    A convolution is then one matrix product with the weights as (KH*KW*C, F). Padding reads as zero.
    """
    n, _, _, c = x.shape
    padded = np.pad(x, ((0, 0), *win.pads, (0, 0)))
    cols = np.empty_like(x, shape=(n, win.oh, win.ow, win.taps, c))
    for tap, rows, columns in _tap_slices(win):
        cols[:, :, :, tap] = padded[:, rows, columns]
    return cols.reshape(n, win.oh, win.ow, win.taps * c)  # (N, OH, OW, KH*KW*C)


def col2im(cols, win: Windows):
    """Add every row back onto the pixels it was copied from: (N, OH, OW, KH*KW*C) -> (N, H, W, C).

    The adjoint of `im2col`: it takes the gradient of the rows to the gradient of the image.
    """
    n = cols.shape[0]
    c = cols.shape[3] // win.taps
    cols = cols.reshape(n, win.oh, win.ow, win.taps, c)  # (N, OH, OW, KH*KW, C)
    padded = np.zeros_like(cols, shape=_padded_shape(n, c, win))
    for tap, rows, columns in _tap_slices(win):
        padded[:, rows, columns] += cols[:, :, :, tap]
    return _crop(padded, win)


def max_pool2d(x, win: Windows):
    """The largest value of each window, and which tap held it: (N, H, W, C) -> two of (N, OH, OW, C).

    The first of several equal ones wins, in row-major order; NaN beats any number, so that it stays visible.
    """
    padded = np.pad(x, ((0, 0), *win.pads, (0, 0)), constant_values=-np.inf)
    best = padded[:, : (win.oh - 1) * win.sh + 1 : win.sh, : (win.ow - 1) * win.sw + 1 : win.sw].copy()
    winner = np.zeros_like(best, dtype=np.int32)
    for tap, rows, columns in _tap_slices(win):
        value = padded[:, rows, columns]
        better = (value.real > best.real) | (np.isnan(value) & ~np.isnan(best))
        best[better] = value[better]
        winner[better] = tap
    return best, winner


def max_pool2d_backward(gy, winner, win: Windows):
    """Send each gradient to the pixel that won its window: (N, OH, OW, C) -> (N, H, W, C)."""
    n, _, _, c = gy.shape
    padded = np.zeros_like(gy, shape=_padded_shape(n, c, win))
    for tap, rows, columns in _tap_slices(win):
        padded[:, rows, columns] += np.where(winner == tap, gy, 0)
    return _crop(padded, win)


def logistic(x):
    """The sigmoid of an array, without overflow on either side."""
    positive = x.real >= 0
    small = np.exp(np.where(positive, -x, x))  # at most 1
    return np.where(positive, 1, small) / (1 + small)


def sigmoid_binary_cross_entropy(z, y):
    """The mean binary cross-entropy of labels y and probabilities sigmoid(z), of one shape: a number, or an array of
    shape ()."""
    positive = z.real > 0
    return (np.where(positive, z, 0) - z * y + np.log1p(np.exp(np.where(positive, -z, z)))).mean()


def sigmoid_binary_cross_entropy_backward(gy, z, y):
    """The gradient of the logits z; gy, that of the mean, is a number or an array of one."""
    return gy * (logistic(z) - y) / y.size


def softmax_categorical_cross_entropy(z, y):
    """The mean categorical cross-entropy of one-hot labels y and probabilities softmax(z), (N, CLASSES) both: a number,
    or an array of shape (), and log(softmax(z))."""
    top = z.real.max(axis=-1, keepdims=True)
    log_p = z - top - np.log(np.exp(z - top).sum(axis=-1, keepdims=True))
    return -(y * log_p).sum() / len(z), log_p


def softmax_categorical_cross_entropy_backward(gy, log_p, y):
    """The gradient of the logits z; gy, that of the mean, is a number or an array of one."""
    return gy * (np.exp(log_p) * y.sum(axis=-1, keepdims=True) - y) / len(y)


def adam_update(w, g, m, v, rate, beta_1: float, beta_2: float, epsilon: float) -> None:
    """One step of Adam, in place on w, m and v; `rate`, a number or an array of one, already holds the bias corrections
    (Kingma and Ba, 2015, end of section 2, the form with "epsilon hat" that Keras uses)."""
    m += (g - m) * w.dtype.type(1 - beta_1)
    v += (g * g - v) * w.dtype.type(1 - beta_2)
    w -= m * w.dtype.type(rate) / (np.sqrt(v) + w.dtype.type(epsilon))


def sgd_update(w, g, velocity, rate, momentum: float, nesterov: bool) -> None:
    """One step of stochastic gradient descent, in place on w and velocity (Sutskever et al., 2013, as Keras); `rate` is
    a number or an array of one."""
    step = g * w.dtype.type(-rate)
    velocity *= w.dtype.type(momentum)
    velocity += step
    w += w.dtype.type(momentum) * velocity + step if nesterov else velocity


def warp(images, matrices, fill_mode: str, cval: float, scale: float):
    """Look at each image through an affine map: real (N, H, W, C) -> float32 (N, H, W, C).

    Output pixel (row, column) shows the input at matrices[n] @ (row, column, 1), a (2, 3) map of float64, mixed from
    the four pixels around and multiplied by `scale`. What lies outside the image, as in scipy.ndimage: "nearest", the
    border pixel; "reflect", the image mirrored at its edge; "wrap", the image again, its first pixel upon the last one
    of the previous; "constant", cval.
    """
    _, h, w, _ = images.shape
    y = np.empty(images.shape, np.float32)
    i, j = np.arange(h)[:, None], np.arange(w)
    for image, m, out in zip(images, matrices, y, strict=True):
        row = m[0, 0] * i + m[0, 1] * j + m[0, 2]  # (H, W)
        column = m[1, 0] * i + m[1, 1] * j + m[1, 2]
        i0, i1, down = _neighbours(_fold(row, h, fill_mode), h)
        j0, j1, right = _neighbours(_fold(column, w, fill_mode), w)
        x = image.astype(np.float32)
        upper = x[i0, j0] + (x[i0, j1] - x[i0, j0]) * right
        lower = x[i1, j0] + (x[i1, j1] - x[i1, j0]) * right
        out[:] = upper + (lower - upper) * down
        if fill_mode == "constant":
            out[~(_inside(row, h) & _inside(column, w))] = cval
    return y * np.float32(scale)


def _fold(x, size: int, fill_mode: str):
    """Coordinates outside 0 .. size - 1 brought to where the fill mode finds their value."""
    last = size - 1
    if fill_mode == "reflect":
        x = x - 2 * size * np.floor(x / (2 * size))
        x = np.where(x > size - 0.5, 2 * size - 1 - x, x)
    elif fill_mode == "wrap" and last:
        x = np.where(x < 0, x + last * (np.floor(-x / last) + 1), x)
        x = np.where(x > last, x - last * np.floor(x / last), x)
    elif fill_mode not in ("nearest", "constant", "wrap"):
        raise ValueError(f"fill_mode {fill_mode!r} is not nearest, constant, reflect or wrap")
    return np.minimum(np.where(x > 0, x, 0.0), last)  # in this order NaN becomes 0


def _neighbours(x, size: int):
    """The pixels before and after each coordinate, and how far it is from the first to the second, (H, W, 1)."""
    before = x.astype(np.int64)
    return before, np.minimum(before + 1, size - 1), (x - before).astype(np.float32)[..., None]


def _inside(x, size: int):
    return (x >= -1e-9) & (x <= size - 1 + 1e-9)  # rounding must not blacken the border of a turned image


def _tap_slices(win: Windows):
    """For each tap of the window: its number, and the padded image's rows and columns that it meets."""
    for tap in range(win.taps):
        row, column = (tap // win.kw) * win.dh, (tap % win.kw) * win.dw
        rows = slice(row, row + (win.oh - 1) * win.sh + 1, win.sh)
        columns = slice(column, column + (win.ow - 1) * win.sw + 1, win.sw)
        yield tap, rows, columns


def _padded_shape(n: int, c: int, win: Windows) -> tuple[int, int, int, int]:
    return n, win.top + win.h + win.bottom, win.left + win.w + win.right, c


def _crop(padded, win: Windows):
    return padded[:, win.top : win.top + win.h, win.left : win.left + win.w]

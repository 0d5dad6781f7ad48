"""Windows, convolution and pooling as slow, plain loops: a truth that shares none of the engine's code."""

import numpy as np


def pads(size: int, kernel: int, stride: int, dilation: int, padding) -> tuple[int, int]:
    """Padding before and after one axis; "same" by the two-case rule of TensorFlow's guide."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        reach = dilation * (kernel - 1) + 1
        total = max(reach - (stride if size % stride == 0 else size % stride), 0)
        return total // 2, total - total // 2
    return (padding, padding) if isinstance(padding, int) else tuple(padding)


def positions(size: int, kernel: int, stride: int, dilation: int, padding) -> list[list[int]]:
    """For each window along one axis, the coordinates it reads (some outside the image), found by walking."""
    before, after = pads(size, kernel, stride, dilation, padding)
    found, start = [], -before
    while start + dilation * (kernel - 1) < size + after:
        found.append([start + tap * dilation for tap in range(kernel)])
        start += stride
    return found


def two(value) -> tuple:
    """The vertical and the horizontal setting."""
    return (value, value) if isinstance(value, int | str) else tuple(value)


def axes(image, kernel, strides, dilation, padding) -> list[tuple]:
    """The arguments of `pads` and `positions` for rows and for columns."""
    return list(zip(image, two(kernel), two(strides), two(dilation), two(padding), strict=True))


def conv2d(x, w, b=None, *, strides=1, padding="valid", dilation=1):
    """Cross-correlation in seven loops."""
    rows, columns = (positions(*axis) for axis in axes(x.shape[1:3], w.shape[:2], strides, dilation, padding))
    y = np.zeros((len(x), len(rows), len(columns), w.shape[3]))
    for n, i, j, f in np.ndindex(y.shape):
        y[n, i, j, f] = 0 if b is None else b[f]
        for a, row in enumerate(rows[i]):
            for c, column in enumerate(columns[j]):
                if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                    for channel in range(x.shape[3]):
                        y[n, i, j, f] += x[n, row, column, channel] * w[a, c, channel, f]
    return y


def max_pool2d(x, *, size=2, strides=None, padding="valid"):
    """The largest number of each window, by looking at every one."""
    strides = size if strides is None else strides
    rows, columns = (positions(*axis) for axis in axes(x.shape[1:3], size, strides, 1, padding))
    y = np.empty((len(x), len(rows), len(columns), x.shape[3]))
    for n, i, j, c in np.ndindex(y.shape):
        inside = [(r, q) for r in rows[i] for q in columns[j] if 0 <= r < x.shape[1] and 0 <= q < x.shape[2]]
        y[n, i, j, c] = max(x[n, r, q, c] for r, q in inside)
    return y


def conv_relu_max_pool2d(x, w, b=None, *, pool_size=2, pool_strides=None, pool_padding="valid", **convolution):
    y = np.maximum(conv2d(x, w, b, **convolution), 0)
    return max_pool2d(y, size=pool_size, strides=pool_strides, padding=pool_padding)


def _torch_pads(x, kernel, strides, dilation, padding) -> tuple[int, ...]:
    rows, columns = (pads(*axis) for axis in axes(x.shape[1:3], kernel, strides, dilation, padding))
    return *columns, *rows  # torch counts axes from the last


def torch_conv2d(torch, x, w, b=None, *, strides=1, padding="valid", dilation=1):
    around = _torch_pads(x, w.shape[:2], strides, dilation, padding)
    planes = torch.nn.functional.pad(x.permute(0, 3, 1, 2), around)  # (N, C, H, W)
    filters = w.permute(3, 2, 0, 1)  # (F, C, KH, KW)
    y = torch.nn.functional.conv2d(planes, filters, b, stride=strides, dilation=dilation)
    return y.permute(0, 2, 3, 1)  # (N, OH, OW, F)


def torch_max_pool2d(torch, x, *, size=2, strides=None, padding="valid"):
    around = _torch_pads(x, size, size if strides is None else strides, 1, padding)
    planes = torch.nn.functional.pad(x.permute(0, 3, 1, 2), around, value=-np.inf)  # (N, C, H, W)
    return torch.nn.functional.max_pool2d(planes, size, strides).permute(0, 2, 3, 1)  # (N, OH, OW, C)


def torch_conv_relu_max_pool2d(
    torch, x, w, b=None, *, pool_size=2, pool_strides=None, pool_padding="valid", **convolution
):
    y = torch.relu(torch_conv2d(torch, x, w, b, **convolution))
    return torch_max_pool2d(torch, y, size=pool_size, strides=pool_strides, padding=pool_padding)

"""Layers: weights, shapes and the ops that each layer stands for, with Keras's names, arguments and weight layouts."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from numbers import Integral
from typing import Any, ClassVar

import numpy as np

from . import initializers, ops
from .errors import ShapeError, UsageError
from .fused import Step
from .kernels import shapes
from .tensor import Op, Tensor, TensorLike

Shape = tuple[int, ...]

ACTIVATIONS: dict[str, type[Op] | None] = {
    "linear": None,
    "relu": ops.ReLU,
    "sigmoid": ops.Sigmoid,
    "softmax": ops.Softmax,
}


class Layer:
    """A part of a model: `steps()` are the ops it stands for. Shapes are of one sample, without the batch axis."""

    registry: ClassVar[dict[str, type["Layer"]]] = {}
    base_name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if not cls.__name__.startswith("_"):
            Layer.registry[cls.__name__] = cls

    def __init__(self, *, input_shape: Sequence[int] | None = None, name: str | None = None) -> None:
        self.input_shape = None if input_shape is None else _sizes(input_shape, f"{type(self).__name__}: input_shape")
        self.name = name
        self.weights: dict[str, Tensor] = {}

    def weight_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        """The names and shapes of the weights for inputs of this shape."""
        return {}

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        """Make the weights for inputs of this shape."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the output for an input of this shape. Raises ShapeError where it does not fit."""
        return input_shape

    def multiply_adds(self, input_shape: Shape) -> int:
        """How many products one sample costs."""
        return 0

    def steps(self) -> list[Step]:
        """The ops that this layer stands for, in order."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again, as JSON can hold them."""
        return {}

    def named_steps(self) -> list[Step]:
        """The same, each with the name of this layer, for those who watch."""
        return [replace(step, layer=self.name or self.base_name) for step in self.steps()]

    def __call__(self, x: TensorLike) -> Tensor:
        for step in self.named_steps():
            x = step(x)
        return x if isinstance(x, Tensor) else Tensor(x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


class Input(Layer):
    """Says what shape the samples have: `Input((64, 64, 3))` as the first layer."""

    base_name = "input"

    def __init__(self, shape: Sequence[int], *, name: str | None = None) -> None:
        super().__init__(input_shape=shape, name=name)

    def steps(self) -> list[Step]:
        return []

    def get_config(self) -> dict[str, Any]:
        return {"shape": list(self.input_shape or ())}


class _Weighted(Layer):
    """What layers with a kernel, a bias and an activation share."""

    activation: str
    use_bias: bool
    kernel_initializer: str
    bias_initializer: str

    def _configure(
        self, activation: str | None, use_bias: bool, kernel_initializer: str, bias_initializer: str
    ) -> None:
        self.activation, self.use_bias = _activation(activation), bool(use_bias)
        self.kernel_initializer, self.bias_initializer = kernel_initializer, bias_initializer
        initializers.get(kernel_initializer), initializers.get(bias_initializer)

    def _kernel_and_bias(self, kernel: Shape) -> dict[str, Shape]:
        return {"kernel": kernel, "bias": kernel[-1:]} if self.use_bias else {"kernel": kernel}

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        start = {"kernel": self.kernel_initializer, "bias": self.bias_initializer}
        self.weights = {
            name: Tensor(initializers.get(start[name])(shape, rng), requires_grad=True, name=name)
            for name, shape in self.weight_shapes(input_shape).items()
        }

    def _weighted_steps(self, op: type[Op], attributes: dict[str, Any]) -> list[Step]:
        product = Step(op, (self.weights["kernel"], self.weights.get("bias")), attributes)
        return [product, *_activation_steps(self.activation)]

    def get_config(self) -> dict[str, Any]:
        return {
            "activation": self.activation,
            "use_bias": self.use_bias,
            "kernel_initializer": self.kernel_initializer,
            "bias_initializer": self.bias_initializer,
        }


class Conv2D(_Weighted):
    """2-D convolution (cross-correlation): `filters` windows of `kernel_size` slide over (H, W, C).

    Weights: kernel (KH, KW, C, filters), bias (filters,).
    """

    base_name = "conv2d"

    def __init__(
        self,
        filters: int,
        kernel_size: shapes.Pair,
        strides: shapes.Pair = (1, 1),
        padding: shapes.Padding = "valid",
        dilation_rate: shapes.Pair = (1, 1),
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: str = "glorot_uniform",
        bias_initializer: str = "zeros",
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(input_shape=input_shape, name=name)
        self.filters = _count(filters, "Conv2D: filters")
        self.kernel_size = shapes.pair(kernel_size, "Conv2D: kernel_size")
        self.strides = shapes.pair(strides, "Conv2D: strides")
        self.dilation_rate = shapes.pair(dilation_rate, "Conv2D: dilation_rate")
        self.padding = padding
        self._configure(activation, use_bias, kernel_initializer, bias_initializer)

    def weight_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return self._kernel_and_bias((*self.kernel_size, input_shape[2], self.filters))

    def output_shape(self, input_shape: Shape) -> Shape:
        win = _windows(self, input_shape, self.kernel_size, self.strides, self.padding, self.dilation_rate)
        return win.oh, win.ow, self.filters

    def multiply_adds(self, input_shape: Shape) -> int:
        return prod(self.output_shape(input_shape)) * prod(self.kernel_size) * input_shape[2]

    def steps(self) -> list[Step]:
        attributes = {"strides": self.strides, "padding": self.padding, "dilation": self.dilation_rate}
        return self._weighted_steps(ops.Conv2D, attributes)

    def get_config(self) -> dict[str, Any]:
        return {
            "filters": self.filters,
            "kernel_size": list(self.kernel_size),
            "strides": list(self.strides),
            "padding": self.padding,
            "dilation_rate": list(self.dilation_rate),
            **super().get_config(),
        }


class MaxPooling2D(Layer):
    """The largest value of each window of `pool_size`, channel by channel; strides are `pool_size` unless given."""

    base_name = "max_pooling2d"

    def __init__(
        self,
        pool_size: shapes.Pair = (2, 2),
        strides: shapes.Pair | None = None,
        padding: shapes.Padding = "valid",
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(input_shape=input_shape, name=name)
        self.pool_size = shapes.pair(pool_size, "MaxPooling2D: pool_size")
        self.strides = self.pool_size if strides is None else shapes.pair(strides, "MaxPooling2D: strides")
        self.padding = padding

    def output_shape(self, input_shape: Shape) -> Shape:
        win = _windows(self, input_shape, self.pool_size, self.strides, self.padding)
        return win.oh, win.ow, input_shape[2]

    def steps(self) -> list[Step]:
        return [Step(ops.MaxPool2D, (), {"size": self.pool_size, "strides": self.strides, "padding": self.padding})]

    def get_config(self) -> dict[str, Any]:
        return {"pool_size": list(self.pool_size), "strides": list(self.strides), "padding": self.padding}


class Flatten(Layer):
    """Each sample as one row of numbers, channel fastest."""

    base_name = "flatten"

    def output_shape(self, input_shape: Shape) -> Shape:
        return (prod(input_shape),)

    def steps(self) -> list[Step]:
        return [Step(ops.Flatten)]


class Dense(_Weighted):
    """Every output sees every input. Weights: kernel (inputs, units), bias (units,)."""

    base_name = "dense"

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: str = "glorot_uniform",
        bias_initializer: str = "zeros",
        *,
        input_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(input_shape=input_shape, name=name)
        self.units = _count(units, "Dense: units")
        self._configure(activation, use_bias, kernel_initializer, bias_initializer)

    def weight_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return self._kernel_and_bias((input_shape[0], self.units))

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 1:
            raise ShapeError(f"Dense: input {_times(input_shape)} is not flat; add Flatten() before it")
        return (self.units,)

    def multiply_adds(self, input_shape: Shape) -> int:
        return input_shape[0] * self.units

    def steps(self) -> list[Step]:
        return self._weighted_steps(ops.Dense, {})

    def get_config(self) -> dict[str, Any]:
        return {"units": self.units, **super().get_config()}


class Activation(Layer):
    """An activation by name ("relu", "sigmoid", "softmax", "linear") as a layer of its own."""

    base_name = "activation"

    def __init__(self, activation: str, *, input_shape: Sequence[int] | None = None, name: str | None = None) -> None:
        super().__init__(input_shape=input_shape, name=name)
        self.activation = _activation(activation)

    def steps(self) -> list[Step]:
        return _activation_steps(self.activation)

    def get_config(self) -> dict[str, Any]:
        return {"activation": self.activation}


def _windows(layer: Layer, image: Shape, *geometry: Any) -> shapes.Windows:
    kind = type(layer).__name__
    if len(image) != 3:
        raise ShapeError(f"{kind}: input {_times(image)} is not an image of height x width x channels")
    try:
        return shapes.windows(image[:2], *geometry)
    except ShapeError as error:
        raise ShapeError(f"{kind}: {error}") from None


def _activation(name: str | None) -> str:
    name = "linear" if name is None else name
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UsageError(f"activation {name!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
    return name


def _activation_steps(name: str) -> list[Step]:
    op = ACTIVATIONS[name]
    return [Step(op)] if op else []


def _count(value: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise UsageError(f"{what} {value!r} is not a whole number of at least 1")
    return int(value)


def _sizes(shape: Sequence[int], what: str) -> Shape:
    return tuple(_count(size, what) for size in shape)


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))

"""Would the tests notice? Faults are planted in the real source, and the suite's own checks must catch every one."""

import functools
import importlib
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import interpreted
import numpy as np
import pytest
from cases import CASES, PATHS
from checks import (
    KINKS,
    ROOT,
    check_diamond,
    check_forward,
    check_gradient,
    check_numba,
    check_shared_buffer,
)  # fmt: skip
from fused_checks import KINDS, POOLED, SHORT, WINOGRAD, check_nan, check_order, check_path, check_winners
from tinycnn.kernels import shapes

from tinycnn import backend, gradcheck, ops, use_backend
from tinycnn.gradcheck import GradientError
from tinycnn.tensor import Op, Tensor

pytestmark = pytest.mark.usefixtures("planted")
Question = Callable[[], None]


@dataclass(frozen=True)
class Mutant:
    """In `file`, `old` becomes `new`; the checks of the cases of `ops` should fail."""

    fault: str
    file: str
    old: str
    new: str
    ops: tuple[str, ...] = ()


MUTANTS = [
    Mutant("sign of a gradient", "ops", "_sum_to(-gy, self.shapes[1])", "_sum_to(gy, self.shapes[1])", ("Sub",)),
    Mutant("quotient not squared", "ops", "self.a / (self.b * self.b)", "self.a / self.b", ("Div",)),
    Mutant("wrong factor's gradient", "ops", "_sum_to(gy * self.b, self.a.shape)",
           "_sum_to(gy * self.a, self.a.shape)", ("Mul",)),
    Mutant("broadcasting not undone", "ops", "g.sum(axis=axes).reshape(shape) if axes else g", "g", ("Add",)),
    Mutant("broadcasting undone by a mean", "ops", "g.sum(axis=axes).reshape", "g.mean(axis=axes).reshape", ("Mul",)),
    Mutant("exponent not lowered", "ops", "(self.exponent - 1)", "self.exponent", ("Pow",)),
    Mutant("mean for sum", "ops", "y = x.sum(axis=axis, keepdims=True)",
           "y = x.mean(axis=axis, keepdims=True)", ("Sum",)),
    Mutant("missing 1/n", "ops", "super().backward(gy / self.count)", "super().backward(gy)", ("Mean",)),
    Mutant("transposed product", "ops", "gy @ np.swapaxes(self.b, -1, -2)", "(self.b @ np.swapaxes(gy, -1, -2))",
           ("MatMul",)),
    Mutant("dense weights used upside down", "ops", "gy @ self.w.T", "gy @ self.w[::-1].T", ("Dense",)),
    Mutant("missing bias sum", "ops", "gy.sum(axis=0)", "gy[:1].sum(axis=0)", ("Dense",)),
    Mutant("bias gradient a mean", "ops", "gy.sum(axis=1).sum(axis=0)", "gy.sum(axis=1).mean(axis=0)", ("Conv2D",)),
    Mutant("only the last image's gradient", "ops", "(np.swapaxes(cols, 1, 2) @ gy).sum(axis=0)",
           "(np.swapaxes(cols, 1, 2) @ gy)[-1]", ("Conv2D",)),
    Mutant("filters flipped", "ops", "@ w.reshape(taps, w.shape[3])",
           "@ w[::-1, ::-1].reshape(taps, w.shape[3])", ("Conv2D",)),
    Mutant("missing ReLU mask", "ops", "(gy * (self.y > 0),)", "(gy,)", ("ReLU",)),
    Mutant(">= for > at 0", "ops", "(gy * (self.y > 0),)", "(gy * (self.y >= 0),)", ("ReLU",)),
    Mutant("NaN hidden by ReLU", "ops", "np.maximum(x, 0) if", "np.fmax(x, 0) if", ("ReLU",)),
    Mutant("half of sigmoid'", "ops", "gy * self.y * (1 - self.y)", "gy * self.y", ("Sigmoid",)),
    Mutant("softmax without its coupling", "ops", "(gy - (gy * self.y).sum(axis=-1, keepdims=True))", "gy",
           ("Softmax",)),
    Mutant("clip gradient ignored", "ops", " * (self.p == q)", "", ("BinaryCrossEntropy",)),
    Mutant("loss not averaged in its gradient", "ops", "(self.p == q) / q.size", "(self.p == q)",
           ("BinaryCrossEntropy",)),
    Mutant("scaling of rows not differentiated", "ops", "(gq - (gq * self.q).sum(axis=-1, keepdims=True)) / self.total",
           "gq / self.total", ("CategoricalCrossEntropy",)),
    Mutant("sigmoid left out", "reference", "gy * (logistic(z) - y)", "gy * (z - y)",
           ("SigmoidBinaryCrossEntropy",)),
    Mutant("sum(y) taken as 1", "reference", " * y.sum(axis=-1, keepdims=True)", "",
           ("SoftmaxCategoricalCrossEntropy",)),
    Mutant("gradients of a shared tensor overwritten", "tensor", "g if known is None else known + g", "g"),
    Mutant("a buffer lent twice", "tensor", " or leaf.buffer_lent", ""),
    Mutant("a buffer lent once and never again", "tensor", """        self.buffer_lent = False
        if self""", "        if self"),
    Mutant("a gradient kept beside its buffer", "tensor",
           "    recording.call(setitem, self.grad_buffer, Ellipsis, gradient)", "    pass"),
    Mutant("visited before all its users", "tensor", "if uses[id(parent)] == 0:", "if uses[id(parent)] >= 0:"),
    Mutant("off-by-one tap in col2im", "reference", "padded[:, rows, columns] += cols[:, :, :, tap]",
           "padded[:, rows, columns] += cols[:, :, :, (tap + 1) % win.taps]", ("Conv2D",)),
    Mutant("col2im overwrites", "reference", "padded[:, rows, columns] += cols", "padded[:, rows, columns] = cols",
           ("Conv2D",)),
    Mutant("dilation ignored across", "reference", "(tap % win.kw) * win.dw", "tap % win.kw", ("Conv2D",)),
    Mutant("last winner of a tie", "reference", "value.real > best.real", "value.real >= best.real", ("MaxPool2D",)),
    Mutant("NaN hidden by pooling", "reference", " | (np.isnan(value) & ~np.isnan(best))", "", ("MaxPool2D",)),
    Mutant("zero padding wins", "reference", "constant_values=-np.inf", "constant_values=0", ("MaxPool2D",)),
    Mutant("overlapping windows overwrite", "reference", "+= np.where(winner == tap, gy, 0)",
           "= np.where(winner == tap, gy, 0)", ("MaxPool2D",)),
    Mutant("odd pixel in front", "shapes", "return total // 2, total - total // 2",
           "return total - total // 2, total // 2", ("Conv2D", "MaxPool2D")),
    Mutant("windows of the rest counted", "shapes", "- reach[1]) // sw + 1", "- reach[1] + sw - 1) // sw + 1",
           ("Conv2D", "MaxPool2D")),
    Mutant("stride ignored by Numba's col2im", "cpu", "column = j * sw - left + b * dw\n                            if",
           "column = j - left + b * dw\n                            if", ("Conv2D",)),
    Mutant("last winner of a tie in Numba", "cpu", "if value > best or", "if value >= best or", ("MaxPool2D",)),
    Mutant("sigmoid left out in Numba", "cpu", "(_sigmoid(z[i]) - y[i])", "(z[i] - y[i])",
           ("SigmoidBinaryCrossEntropy",)),
    Mutant("label left out in Numba", "cpu", "max(z[i], 0) - z[i] * y[i]", "max(z[i], 0)",
           ("SigmoidBinaryCrossEntropy",)),
    Mutant("sum(y) taken as 1 in Numba", "cpu", "np.exp(log_p[row, k]) * labels", "np.exp(log_p[row, k])",
           ("SoftmaxCategoricalCrossEntropy",)),
    Mutant("not the largest taken off in Numba", "cpu", "log_p[row, k] = z[row, k] - top",
           "log_p[row, k] = z[row, k] - z[row, 0]", ("SoftmaxCategoricalCrossEntropy",)),
    Mutant("gradient one column off in Numba", "cpu", "(tap % kw) * dw", "(tap % kw) * dw + 1", ("MaxPool2D",)),
]  # fmt: skip


# Faults in the kernels of fused ops, run as Python (interpreted.py); `ops` names rows of PATHS, or all rows of an op.
FUSED = [
    Mutant("taps of a window in a wrong order", "cpu_convolution", "win.kh, win.kw * c, width * c, 1",
           "win.kw, win.kh * c, width * c, 1", ("ConvBias: 2x3 windows",)),
    Mutant("missing bias", "cpu_convolution", "_finish(best + bias,", "_finish(best,", ("ConvBias",)),
    Mutant("missing bias in Winograd", "cpu_winograd", "best += bias", "best += spread(np.float32(0))",
           ("ConvReLUMaxPool2D: Winograd",)),
    Mutant("smallest for largest", "cpu_convolution", "beats(value, best)", "beats(best, value)",
           ("ConvReLUMaxPool2D: a row shorter than a tile",)),
    Mutant("taps not counted", "cpu_convolution", "where(better, tap, winning), tap + one",
           "where(better, tap, winning), tap", ("ConvReLUMaxPool2D: a row shorter than a tile",)),
    Mutant("wrong winner in Winograd", "cpu_winograd", "_challenge(best, tap, below[0], 2)",
           "_challenge(best, tap, below[0], 1)", ("ConvReLUMaxPool2D: Winograd",)),
    Mutant("winner where ReLU stops", "cpu_convolution", "where(alive, tap, spread(np.float32(-1)))", "tap",
           ("ConvReLUMaxPool2D: a row shorter than a tile",)),
    Mutant("winner at 0", "cpu_winograd", "above_zero(best), tap", "above_zero(best + spread(np.float32(1))), tap"),
    Mutant("NaN stopped by ReLU", "cpu_winograd", "above_zero(value), value, spread(np.float32(0))",
           "above_zero(spread(np.float32(0)) - value), spread(np.float32(0)), value"),
    Mutant("all lanes at a ragged edge", "cpu_convolution", "count, bias = filters - f,", "count, bias = LANES,",
           ("ConvReLUMaxPool2D: a row shorter than a tile",)),
    Mutant("all lanes of the last channels", "cpu_winograd", "c, c - k)", "c, LANES)",
           ("ConvBias: Winograd, the last tiles moved back",)),
    Mutant("a lane too few", "cpu_parts", "beats(least, total), least, total), count)",
           "beats(least, total), least, total), count - 1)", ("DenseBias: a tile",)),
    Mutant("the first samples for all", "cpu_dense", "starts[sample : sample + size]", "starts[:size]",
           ("DenseBias: many samples",)),
    Mutant("last tile moved one row too far", "products", "rows - ROWS)", "rows - ROWS - 1)",
           ("ConvBias: the last tile moved back",)),
    Mutant("last tile beyond the rows", "products", "r = min(tile * ROWS, rows - ROWS)", "r = tile * ROWS",
           ("ConvBias: the last tile moved back",)),
    Mutant("rows added twice", "products", "moved_back = rows > ROWS and not add", "moved_back = rows > ROWS",
           ("ConvReLU: more images than shards",)),
    Mutant("rows of the rest left out", "products", "range(tiles * ROWS, rows)", "range((tiles + 1) * ROWS, rows)",
           ("DenseBias: one sample", "DenseBias: few samples", "ConvBias: 1x1 windows")),
    Mutant("Winograd's last tile not moved back", "cpu_winograd",
           "i = min((first + t) // across * 2, h - 4)  #", "i = (first + t) // across * 2  #",
           ("ConvBias: Winograd, the last tiles moved back",)),
    Mutant("missing add", "cpu_convolution", "gw, f, image > first)", "gw, f, False)",
           ("ConvReLU: more images than shards",)),
    Mutant("a matrix not turned", "cpu_parts", "matrix * out_matrix + column * out_row", "matrix * out_matrix + column",
           ("ConvReLUMaxPool2D: 2x3 windows, padded",)),
    Mutant("each row of a window as the first", "cpu_parts", "matrix * source_matrix + column", "column",
           ("ConvReLUMaxPool2D: 2x3 windows, padded",)),
    Mutant("padding on the other side", "cpu_parts", "target_start + i * target_row", "i * target_row",
           ("ConvReLU: 5x5 windows, padded",)),
    Mutant("padding left in the gradient", "cpu_parts", "image * size + start + i * row", "image * size + i * row",
           ("ConvReLUMaxPool2D: 2x3 windows, padded",)),
    Mutant("shards out of order", "cpu_parts", "flat, part * height", "flat, (number - part) * height"),
    Mutant("the last part forgotten", "cpu_parts", "range(1, number)", "range(1, number - 1)",
           ("DenseBias: inputs in parts",)),
    Mutant("bias forgotten after parts", "cpu_parts", "count if b.size else 0", "0", ("DenseBias: inputs in parts",)),
    Mutant("each part with the first weights", "cpu_dense", "w[first * units : last * units]", "w",
           ("DenseBias: inputs in parts",)),
    Mutant("parts of several images", "cpu_convolution", "parts(n), *shape", "max(parts(n) - 1, 1), *shape"),
    Mutant("sign of the image's transform", "cpu_winograd", "(0, -1, 1, 0)", "(0, 1, -1, 0)",
           ("ConvBias: Winograd's smallest image",)),
    Mutant("sign of the weights' transform", "cpu_winograd", "(0.5, -0.5, 0.5)", "(0.5, 0.5, -0.5)",
           ("ConvBias: Winograd's smallest image",)),
    Mutant("sign of the way back", "cpu_winograd", "(0, 1, -1, -1)", "(0, 1, -1, 1)",
           ("ConvBias: Winograd's smallest image",)),
    Mutant("weights not turned", "cpu_convolution", "w[::-1, ::-1].transpose(0, 1, 3, 2)", "w.transpose(0, 1, 3, 2)",
           ("ConvReLU: a row shorter than a tile",)),
    Mutant("gradients not spread out by the strides", "cpu_convolution", "apart[:, :: win.sh, :: win.sw], g",
           "apart[:, : oh, : ow], g", ("ConvReLU: two tiles of 32 filters, stride",)),
    Mutant("padding of the way back upside down", "cpu_convolution", "(win.kh - 1 - win.top, win.kh - 1 - win.bottom)",
           "(win.kh - 1 - win.bottom, win.kh - 1 - win.top)", ("ConvBias: 2x3 windows",)),
    Mutant("padding not cleared", "cpu_convolution", "side[...] = 0", "pass",
           ("ConvReLU: 5x5 windows, padded",)),
    Mutant("second block begins at the first", "cpu_routed", "line * step + start, in_weights",
           "line * step, in_weights", ("ConvReLUMaxPool2D: lines of more than a block",)),
    Mutant("second block with the first one's weights", "cpu_routed", "whole_vectors(length) + start\n",
           "whole_vectors(length)\n", ("ConvReLUMaxPool2D: lines of more than a block",)),
    Mutant("lines of a block twice", "cpu_routed", "line += shape[0]", "line += 1",
           ("ConvReLUMaxPool2D: short windows",)),
    Mutant("the last image left out", "cpu_routed", "end[k] = image_x[k]", "pass",
           ("ConvReLUMaxPool2D: short windows, many images",)),
    Mutant("only the last image is short of numbers", "cpu_routed", "image_x.size < h * width * c + LANES",
           "image == n - 1", ("ConvReLUMaxPool2D: images smaller than a vector",)),
    Mutant("no room behind the last image", "cpu_convolution", "prod(padded.shape[1:]) + LANES)",
           "prod(padded.shape[1:]))", ("ConvReLUMaxPool2D: short windows, padded",)),
    Mutant("rows of a pool taken for one another", "cpu_convolution", "columns * filters, filters)",
           "filters, columns * filters)", ("ConvReLUMaxPool2D: a row shorter than a tile",)),
    Mutant("a chunk's pixels taken for the first chunk's", "cpu_routed", "i, j = (first + k) // ow, (first + k) % ow",
           "i, j = k // ow, k % ow", ("ConvReLUMaxPool2D: more pixels than a chunk",)),
    Mutant("strides ignored between a pool's taps", "cpu_convolution", "pool.kw, win.sh * width * c",
           "pool.kw, width * c",
           ("ConvReLUMaxPool2D: 2x3 windows, padded",)),
    Mutant("filters above 64 forgotten", "cpu_routed", "first = word * 64", "first = 0",
           ("ConvReLUMaxPool2D: two words of filters",)),
    Mutant("overlapping pools overwrite", "cpu_routed", "sums = load_block(shape, gx, at, step, count)",
           "sums = load_block(shape, np.zeros_like(gx), at, step, count)",
           ("ConvReLUMaxPool2D: pools that overlap",)),
    Mutant("the image's gradient not cleared", "cpu_routed", "gx[image] = 0", "",
           ("ConvReLUMaxPool2D: pools with gaps",)),
    Mutant("few samples: the first strip for all", "cpu_dense",
           "weights, f, units, y, sample * units + f)\n        else",
           "weights, 0, units, y, sample * units + f)\n        else", ("DenseBias: a sample, many units",)),
    Mutant("missing ReLU mask of a dense layer", "cpu_parts", "passed = above_zero(load(y, i, g.size - i))",
           "passed = above_zero(spread(np.float32(1)))",
           ("DenseReLU: a tile",)),
    Mutant("gradients not turned around", "cpu_dense", "turned[(k - first) * n + sample]",
           "turned[sample * ROWS + k - first]", ("DenseBias: tiles and a rest",)),
]  # fmt: skip

# Faults in what only the compiler sees, each compiled anew.
COMPILED = [
    Mutant("a lane too many", "instructions", 'icmp_signed("<", _lane', 'icmp_signed("<=", _lane',
           ("ConvBias: 1x1 windows",)),
    Mutant("last winner of a tie in a vector", "vectors", 'fcmp_unordered(">", value, best)',
           'fcmp_unordered(">=", value, best)', ("ConvReLUMaxPool2D: short windows",)),
    Mutant("NaN hidden in a vector", "vectors", 'fcmp_unordered(">", value, best)', 'fcmp_ordered(">", value, best)'),
    Mutant("a tile that forgets its sums where it adds", "products", "builder.fadd(old, builder.load(sums[r][k]))",
           "old", ("ConvReLU: more images than shards",)),
    Mutant("lanes beyond the last filter win", "vectors",
           "builder.and_(condition, instructions.first_lanes(builder, count))", "condition",
           ("ConvReLUMaxPool2D: a row shorter than a tile",)),
]  # fmt: skip


def mutated(mutant: Mutant) -> types.ModuleType:
    """The mutant's module, run beside the real one. Running ops or fused puts their ops in the test's registry."""
    in_engine = mutant.file in ("ops", "fused", "tensor")
    package = "tinycnn" if in_engine else "tinycnn.kernels"
    module = types.ModuleType(f"{package}.{mutant.file}")
    module.__package__ = package
    source = (ROOT / ("tinycnn" if in_engine else "kernels") / f"{mutant.file}.py").read_text()
    exec(compile(changed(mutant, source), f"<{mutant.fault}>", "exec"), module.__dict__)
    return module


def changed(mutant: Mutant, source: str) -> str:
    assert source.count(mutant.old) == 1, f"{mutant.file}.py does not hold this once, renew the mutant: {mutant.old}"
    return source.replace(mutant.old, mutant.new)


def plant(mutant: Mutant, monkeypatch) -> None:
    """Put the faulty module where the real one works."""
    module = mutated(mutant)
    if mutant.file == "tensor":
        monkeypatch.setattr(Tensor, "backward", module.Tensor.backward)
        monkeypatch.setattr(Tensor, "_keep", module.Tensor._keep)
        monkeypatch.setattr(Op, "gradient_buffer", module.Op.gradient_buffer)
    elif mutant.file == "shapes":
        monkeypatch.setattr(shapes, "windows", module.windows)
    elif mutant.file == "reference":
        monkeypatch.setattr(backend.get("numpy"), "_kernels", module)
    elif mutant.file == "cpu":
        for name, loop in list(vars(module).items()):
            setattr(module, name, getattr(loop, "py_func", loop))  # not compiled: small inputs run sooner that way
        module.next_task = interpreted.next_task
        monkeypatch.setattr(backend.get("numba"), "_kernels", module)


def plain_questions(file: str, ops: tuple[str, ...]) -> Iterator[Question]:
    """The suite's checks that a fault of this kind has to get past."""
    cases = [case for case in CASES if case.op in ops]
    if file == "cpu":
        yield from (partial(check_numba, case) for case in cases)
        yield from (partial(check, "numba") for check in KINKS)
        return
    for case in cases:
        yield partial(check_forward, case)
        yield partial(check_gradient, case)
    yield from (partial(check, "numpy") for check in KINKS)
    yield check_diamond
    yield check_shared_buffer


def fused_questions(ops: tuple[str, ...]) -> Iterator[Question]:
    """For the kernels of the fused ops: those of their paths, else what all of them are asked."""
    yield from (partial(check_path, case) for case in PATHS if case.op in ops or case.name in ops)
    if ops:
        return
    yield from (partial(check_winners, sizes) for sizes in (POOLED, WINOGRAD, SHORT))
    yield from (partial(check_nan, op, sizes, where) for op, sizes in KINDS.values() for where in range(3))
    yield from (partial(check_order, *kind) for name, kind in KINDS.items() if "dense" not in name)


def is_caught(questions: Iterable[Question]) -> bool:
    """Whether a check fails; errors that a badly written mutant would give by itself (NameError ...) do not count."""
    with np.errstate(all="ignore"):
        for question in questions:
            try:
                question()
            except (AssertionError, ValueError, LookupError, Warning):
                return True
    return False


@functools.cache
def passes(ask: Callable[..., Iterator[Question]], *arguments) -> bool:
    """Whether every check passes without the fault."""
    return not is_caught(ask(*arguments))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_the_fault_is_caught(mutant, monkeypatch):
    use_backend("numpy")
    assert passes(plain_questions, mutant.file, mutant.ops)
    plant(mutant, monkeypatch)
    assert is_caught(plain_questions(mutant.file, mutant.ops)), f"nobody notices: {mutant.fault}"


# Every fourth of them for every run of the tests; the others take long together.
EACH_FUSED = [pytest.param(m, id=m.fault, marks=pytest.mark.slow if i % 4 else ()) for i, m in enumerate(FUSED)]


@pytest.mark.parametrize("mutant", EACH_FUSED)
def test_the_fault_in_a_fused_kernel_is_caught(mutant, monkeypatch):
    numba = backend.get("numba")
    monkeypatch.setattr(numba, "_kernels", interpreted.kernels())
    assert passes(fused_questions, mutant.ops)
    faulty = interpreted.kernels(lambda file, text: changed(mutant, text) if file == mutant.file else text)
    monkeypatch.setattr(numba, "_kernels", faulty)
    assert is_caught(fused_questions(mutant.ops)), f"nobody notices: {mutant.fault}"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(COMPILED)), ids=lambda number: COMPILED[number].fault)
def test_the_fault_in_compiled_code_is_caught(number, tmp_path):
    """In a process of its own, which a fault may well bring down."""
    mutant = COMPILED[number]
    shutil.copytree(ROOT / "kernels", tmp_path / "faulty", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "faulty" / f"{mutant.file}.py"
    file.write_text(changed(mutant, file.read_text()))
    code = f"import test_mutants; test_mutants.ask_compiled({number})"
    folders = os.pathsep.join(map(str, (ROOT, ROOT / "tests", tmp_path)))
    environment = {**os.environ, "PYTHONPATH": folders}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("passes without the fault\n"), done.stderr
    assert done.stdout.endswith("caught\n") or done.returncode < 0, f"nobody notices: {mutant.fault}"


def ask_compiled(number: int) -> None:
    """For a process that finds the kernels with the fault under the name `faulty`."""
    if not is_caught(fused_questions(COMPILED[number].ops)):
        print("passes without the fault", flush=True)
    os.environ["TINYCNN_CACHE"] = sys.argv[1]
    backend.get("numba")._kernels = importlib.import_module("faulty.cpu")
    if is_caught(fused_questions(COMPILED[number].ops)):
        print("caught", flush=True)


def test_a_fault_in_a_composition_is_named():
    """The checker works on whole expressions, not only on single ops."""

    class Leaky(Op):
        """Leaky ReLU, whose backward forgets the leak"""

        def forward(self, x):
            self.positive = x.real > 0
            return x * (self.positive + 0.1 * ~self.positive)

        def backward(self, gy):
            return (gy * self.positive,)

    with pytest.raises(GradientError, match=r"Sum: input 0, element \(1,\)"):
        gradcheck(lambda x: ops.exp(Leaky.apply(x) * 2).sum(), [1.0, -1.0])

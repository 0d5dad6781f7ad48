"""Would the tests notice? Faults are planted in the real source, and the suite's own checks must catch every one."""

import types
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from cases import CASES
from checks import (
    KINKS,
    ROOT,
    check_diamond,
    check_forward,
    check_gradient,
    check_numba,
)  # fmt: skip
from tinycnn.kernels import shapes

from tinycnn import backend, gradcheck, ops, use_backend
from tinycnn.gradcheck import GradientError
from tinycnn.tensor import Op, Tensor

pytestmark = pytest.mark.usefixtures("planted")


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
    Mutant("sigmoid left out", "fused", "(ops.logistic(self.z) - self.y)", "(self.z - self.y)",
           ("SigmoidBinaryCrossEntropy",)),
    Mutant("sum(y) taken as 1", "fused", " * self.y.sum(axis=-1, keepdims=True)", "",
           ("SoftmaxCategoricalCrossEntropy",)),
    Mutant("gradients of a shared tensor overwritten", "tensor", "g if known is None else known + g", "g"),
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
    Mutant("gradient one column off in Numba", "cpu", "(tap % kw) * dw", "(tap % kw) * dw + 1", ("MaxPool2D",)),
]  # fmt: skip


def mutated(mutant: Mutant) -> types.ModuleType:
    """The mutant's module, run beside the real one. Running ops or fused puts their ops in the test's registry."""
    in_engine = mutant.file in ("ops", "fused", "tensor")
    package = "tinycnn" if in_engine else "tinycnn.kernels"
    source = (ROOT / ("tinycnn" if in_engine else "kernels") / f"{mutant.file}.py").read_text()
    assert source.count(mutant.old) == 1, f"{mutant.file}.py does not hold this once, renew the mutant: {mutant.old}"
    module = types.ModuleType(f"{package}.{mutant.file}")
    module.__package__ = package
    exec(compile(source.replace(mutant.old, mutant.new), f"<{mutant.fault}>", "exec"), module.__dict__)
    return module


def plant(mutant: Mutant, monkeypatch) -> None:
    """Put the faulty module where the real one works."""
    module = mutated(mutant)
    if mutant.file == "tensor":
        monkeypatch.setattr(Tensor, "backward", module.Tensor.backward)
    elif mutant.file == "shapes":
        monkeypatch.setattr(shapes, "windows", module.windows)
    elif mutant.file == "reference":
        monkeypatch.setattr(backend.get("numpy"), "_kernels", module)
    elif mutant.file == "cpu":
        for name, loop in list(vars(module).items()):
            setattr(module, name, getattr(loop, "py_func", loop))  # not compiled: small inputs run sooner that way
        monkeypatch.setattr(backend.get("numba"), "_kernels", module)


def questions(mutant: Mutant) -> list[Callable[[], None]]:
    """The suite's checks that a fault of this kind has to get past."""
    cases = [case for case in CASES if case.op in mutant.ops]
    if mutant.file == "cpu":
        return [*(lambda c=c: check_numba(c) for c in cases), *(lambda k=k: k("numba") for k in KINKS)]
    asked = [lambda c=c, check=check: check(c) for c in cases for check in (check_forward, check_gradient)]
    return [*asked, *(lambda k=k: k("numpy") for k in KINKS), check_diamond]


def caught_by(mutant: Mutant) -> int:
    """How many checks fail; errors that a badly written mutant would give by itself (NameError ...) do not count."""
    failures = 0
    for question in questions(mutant):
        try:
            question()
        except (AssertionError, ValueError, LookupError, Warning):
            failures += 1
    return failures


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_the_fault_is_caught(mutant, monkeypatch):
    use_backend("numpy")
    assert caught_by(mutant) == 0, "without the fault every check passes"
    plant(mutant, monkeypatch)
    assert caught_by(mutant) > 0, f"nobody notices: {mutant.fault}"


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

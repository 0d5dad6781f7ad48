"""What each number of the explorer page should be, asked of the engine by another way than the page was told.

A number on the page carries an address ("y 3 120": value 120 of stage 3). `Truth` answers any address: values and
gradients come from a step of `train_on_batch`, sums are made again in float64, receptive fields are the footprint of
one unit, and finite differences are whole passes in float64.
"""

import re
from copy import deepcopy
from typing import Any

import numpy as np
from tinycnn.kernels import reference

import tinycnn
from tinycnn.explanation import WHOLE, Subject, label_row
from tinycnn.optimizers import Adam
from tinycnn.tensor import Tensor

MINUS = "\u2212"


def shown(text: str) -> tuple[float, float]:
    """The number that a text shows, and half a unit of its last digit."""
    text = text.replace(MINUS, "-")
    if text == "0":  # written for nothing but 0
        return 0.0, 0.0
    digits = re.fullmatch(r"-?(\d+)(?:\.(\d+))?(?:e(-?\d+))?", text)
    assert digits, f"{text!r} is no number"
    power = int(digits[3] or 0) - len(digits[2] or "")
    return float(text), 0.5 * 10.0**power


class Total(float):
    """A sum, and the size of what was added up: where terms cancel, roundings are to be seen beside these."""

    size: float

    def __new__(cls, terms) -> "Total":
        terms = list(terms)
        total = super().__new__(cls, sum(terms))
        total.size = float(sum(map(abs, terms)))
        return total


class Truth:
    """The engine's numbers for a photo."""

    def __init__(self, subject: Subject, told: dict[str, Any]) -> None:
        self.subject, self.told = subject, told
        model = self.model = deepcopy(subject.model)
        self.x = subject.preprocessing.load(subject.photo)[None]
        optimizer = deepcopy(subject.optimizer) if subject.optimizer else Adam()
        self.state = {slot: [np.array(a) for a in arrays] for slot, arrays in optimizer.state.items()}
        loss = "binary_crossentropy" if model.output_shape == (1,) else "categorical_crossentropy"
        self.labels = label_row(model, told["true"])
        model.compile(optimizer, loss, ["accuracy"])
        with tinycnn.trace(WHOLE) as photo:
            model(Tensor(self.x, requires_grad=True))
        with tinycnn.trace(WHOLE) as t:
            self.loss = model.train_on_batch(self.x, self.labels)[0]
        self.t, self.optimizer = t, optimizer
        with tinycnn.trace(WHOLE) as after:
            self.loss_after = model.test_on_batch(self.x, self.labels)[0]
        self.after = self._stages(after)
        self.stages = self._stages(t)
        self.photo_gradient = self._photo_gradient()
        self.weights = {u.weight: u for u in t.updates}
        assert len(photo) >= len(self.stages) - 1

    def _stages(self, t) -> list[list]:
        found: list[list] = [[]]
        for record in t.ops:
            if "cross_entropy" in record.op:
                continue
            if (
                record.op in ("relu", "sigmoid", "softmax")
                and len(found) > 1
                and found[-1][0].op in ("conv2d", "dense")
            ):
                found[-1].append(record)
            else:
                found.append([record])
        return found

    def _photo_gradient(self) -> np.ndarray:
        """From the engine's own fused and replayed way: a leaf's gradient through the whole loss."""
        model = deepcopy(self.subject.model)
        *body, last = [step for layer in model.layers for step in layer.named_steps()]
        leaf = value = Tensor(self.x, requires_grad=True)
        for step in body:
            value = step(value)
        p = last(value).numpy()
        value.backward(p - self.labels)
        return leaf.grad

    # One number

    def __call__(self, address: str) -> Any:
        kind, *rest = address.split(" ")
        name = {"-z": "minus_z"}.get(kind, kind).replace(".", "_")
        return getattr(self, f"_{name}")(*(int(r) if re.fullmatch(r"\d+", r) else r for r in rest))

    def _y(self, s, k):
        return (self.x if s == 0 else self.stages[s][-1].output)[0].ravel()[k]

    def _z(self, s, k):
        return self.stages[s][0].output[0].ravel()[k]

    def _minus_z(self, s, k):
        return -self._z(s, k)

    def _gy(self, s, k):
        g = self.photo_gradient if s == 0 else self.stages[s][-1].gradient_in
        return g[0].ravel()[k]

    def _gz(self, s, k):
        return self.stages[s][0].gradient_in[0].ravel()[k]

    def _update(self, s, part):
        return self.weights[f"{self.stages[s][0].layer}.{'kernel' if part == 'w' else 'bias'}"]

    def _w(self, s, *rest):
        part, k = rest if len(rest) == 2 else ("w", rest[0])
        return self._update(s, part).before.ravel()[k]

    def _b(self, s, *rest):
        return self._update(s, "b").before.ravel()[rest[-1]]

    def _products(self, s, k):
        """{(from, weight): product} of a unit's sum, in float64."""
        record, w = self.stages[s][0], self._update(s, "w").before
        x = record.inputs["x"][0].astype(np.float64)
        if record.op == "dense":
            return {(i, i * w.shape[1] + k): x[i] * w[i, k] for i in range(len(x))}
        win, shape = record.saved["win"], record.output.shape[1:]
        i, j, f = np.unravel_index(k, shape)
        found = {}
        for a, b, c in np.ndindex(w.shape[:3]):
            row, column = i * win.sh - win.top + a * win.dh, j * win.sw - win.left + b * win.dw
            if 0 <= row < win.h and 0 <= column < win.w:
                place = np.ravel_multi_index((row, column, c), x.shape)
                found[int(place), int(np.ravel_multi_index((a, b, c, f), w.shape))] = x[row, column, c] * float(
                    w[a, b, c, f]
                )
        return found

    def _sum(self, s, k):
        return Total(self._products(s, k).values())

    def _product(self, s, source, weight):
        return float(self._y(s - 1, source)) * float(self._w(s, weight))

    def _rest(self, s, k, count):
        return _without_largest(self._products(s, k).values(), count)

    def _positive(self, s, k):
        return Total(p for p in self._products(s, k).values() if p > 0)

    def _negative(self, s, k):
        return Total(p for p in self._products(s, k).values() if p < 0)

    def _channel(self, s, k, c):
        shape = self._update(s, "w").before.shape
        return Total(p for (_, w), p in self._products(s, k).items() if np.unravel_index(w, shape)[2] == c)

    def _back(self, s, to, weight):
        return float(self._gz(s, to)) * float(self._w(s, weight))

    def _backrest(self, s, k, count):
        record = self.stages[s + 1][0]
        w = self._update(s + 1, "w").before.astype(np.float64)
        if record.op == "dense":
            return _without_largest(record.gradient_in[0].astype(np.float64) * w[k], count)
        win, gz = record.saved["win"], record.gradient_in[0].astype(np.float64)
        i, j, c = np.unravel_index(k, record.inputs["x"].shape[1:])
        terms = []
        for oi, oj in np.ndindex(win.oh, win.ow):
            a, b = i + win.top - oi * win.sh, j + win.left - oj * win.sw
            if a % win.dh == b % win.dw == 0 and 0 <= a // win.dh < win.kh and 0 <= b // win.dw < win.kw:
                terms += list(gz[oi, oj] * w[a // win.dh, b // win.dw, c])
        return _without_largest(terms, count)

    def _learn(self, s, to, source):
        return float(self._gz(s, to)) * float(self._y(s - 1, source))

    def _g(self, s, part, k):
        return self._update(s, part).gradient.ravel()[k]

    def _grest(self, s, part, k, count):
        record = self.stages[s][0]
        gz = record.gradient_in[0].astype(np.float64)
        if record.op == "dense":
            return 0.0
        f = k if part == "b" else k % gz.shape[2]
        if part == "b":
            return _without_largest(gz[..., f].ravel(), count)
        return _without_largest(
            (record.saved["cols"][0][..., k // gz.shape[2]].astype(np.float64) * gz[..., f]).ravel(), count
        )

    def _fd(self, s, part, k):
        return self._difference(s, part, k)

    def _off(self, s, part, k):
        return None  # how small it is, is asked of `fd`

    def _difference(self, s, part, k, h: float = 1e-5):
        losses = []
        name = self._update(s, part).weight
        for change in (h, -h):
            value = Tensor(self.x.astype(np.float64))
            for step in (step for layer in self.subject.model.layers for step in layer.named_steps()):
                inputs = []
                for w in step.inputs:
                    data = None if w is None else w.numpy().astype(np.float64)
                    if w is not None and w.name == name:
                        data.ravel()[k] += change
                    inputs.append(None if data is None else Tensor(data))
                before, value = value, step.apply(value, inputs)
            z = before.data[0]
            if len(z) == 1:
                sign = 1 - 2 * self.labels[0, 0]
                losses.append(np.logaddexp(0, sign * z[0]))
            else:
                losses.append(np.logaddexp.reduce(z) - z[self.told["true"]])
        return (losses[0] - losses[1]) / (2 * h)

    # Adam

    def _term(self, s, part, k, name):
        return getattr(self._update(s, part), name).ravel()[k]

    def _m(self, s, part, k):
        return self._term(s, part, k, "m")

    def _v(self, s, part, k):
        return self._term(s, part, k, "v")

    def _m_hat(self, s, part, k):
        return self._term(s, part, k, "m_hat")

    def _v_hat(self, s, part, k):
        return self._term(s, part, k, "v_hat")

    def _step(self, s, part, k):
        return self._term(s, part, k, "step")

    def _moved(self, s, part, k):
        return -self._step(s, part, k)

    def _far(self):
        return max(float(np.abs(u.step).max()) for u in self.t.updates)

    def _after(self, s, part, k):
        return self._term(s, part, k, "after")

    def _before(self, slot, s, part, k):
        names = [u.weight for u in self.t.updates]
        arrays = self.state.get(slot)
        return arrays[names.index(self._update(s, part).weight)].ravel()[k] if arrays else 0.0

    def _m0(self, s, part, k):
        return self._before("m", s, part, k)

    def _v0(self, s, part, k):
        return self._before("v", s, part, k)

    def _share_g(self, s, part, k):
        return (1 - self.optimizer.beta_1) * float(self._g(s, part, k))

    def _share_m(self, s, part, k):
        return self.optimizer.beta_1 * float(self._m0(s, part, k))

    def _stronger(self, s, part, k):
        small, large = sorted([abs(self._share_g(s, part, k)), abs(self._share_m(s, part, k))])
        return large / small

    def _pace(self, s, part, k):
        return abs(float(self._step(s, part, k))) / self.optimizer.learning_rate

    def _epsilon_hat(self):
        return self.optimizer.epsilon / np.sqrt(1 - self.optimizer.beta_2**self.optimizer.iterations)

    # The outcome

    def _p(self, *where):
        p = self.stages[-1][-1].output[0]
        if len(p) == 1 and self.told["true"] == 0 and where == ("true",):
            return 1 - p[0]
        return p[where[-1] if len(p) > 1 else 0]

    def _said(self):
        p = self.stages[-1][-1].output[0]
        return p.max() if len(p) > 1 else max(p[0], 1 - p[0])

    def _p_after(self, k):
        return self.after[-1][-1].output[0][k]

    def _loss(self):
        return self.loss

    def _loss_after(self):
        return self.loss_after

    def _loss_change(self):
        return self.loss_after - self.loss

    def _loss_expected(self):
        return -sum(float((u.gradient.astype(np.float64) * u.step).sum()) for u in self.t.updates)

    def _mean(self, s):
        return np.abs(self.stages[s][-1].output.astype(np.float64)).mean()

    def _changes(self, s):
        return np.abs(self.after[s][-1].output.astype(np.float64) - self.stages[s][-1].output)

    def _change(self, s):
        return self._changes(s).mean()

    def _most(self, s):
        return self._changes(s).max()

    # What a unit sees

    def _rf(self, s, k, axis):
        mark = np.zeros(self.stages[s][0].output.shape) if s else np.zeros(self.x.shape)
        mark[0].ravel()[k] = 1
        for records in reversed(self.stages[1 : s + 1]):
            record = records[0]
            before = record.inputs["x"].shape
            if record.op in ("conv2d", "max_pool2d"):
                win = record.saved["win"]
                channels = before[3]
                many = (
                    mark if record.op == "max_pool2d" else np.repeat(mark.sum(axis=3, keepdims=True), channels, axis=3)
                )
                cols = np.repeat(many[:, :, :, None, :], win.taps, axis=3).reshape(*many.shape[:3], -1)
                mark = reference.col2im(cols, win)
            elif record.op == "dense":
                mark = np.ones(before)
            else:
                mark = mark.reshape(before)
        seen = np.flatnonzero(mark[0].sum(axis=(1, 2) if axis == "rows" else (0, 2)))
        return f"{seen[0]}\u2013{seen[-1]}"

    # The photo, and the past

    def _byte(self, k):
        return self.subject.preprocessing.read_uint8(str(self.subject.photo), 10**8).ravel()[k]

    def _rescale(self):
        return self.subject.preprocessing.rescale

    def _draw(self, i, name):
        from tinycnn.paper import AUGMENTATION
        from tinycnn.preprocessing.image import ImageDataGenerator

        return ImageDataGenerator(**AUGMENTATION).get_random_transform(self.x.shape[1:], i)[name]

    def _cam(self, k):
        """By the gradient of the logit with respect to the maps, from a leaf put in their place."""
        last = max(s for s, records in enumerate(self.stages) if records and records[0].op == "conv2d")
        steps = [step for layer in self.subject.model.layers for step in layer.named_steps()][:-1]
        done = sum(len(records) for records in self.stages[1 : last + 1])
        maps = Tensor(self.stages[last][-1].output, requires_grad=True)
        value = maps
        for step in steps[done:]:
            value = step(value)
        seed = np.zeros(value.shape, np.float32)
        seed[0, 0 if value.shape[1] == 1 else k] = -1 if value.shape[1] == 1 and k == 0 else 1
        value.backward(seed)
        return max((maps.numpy()[0] * maps.grad[0].mean(axis=(0, 1))).sum(axis=2).max(), 0)

    def _past(self, place):
        shot = self.subject.snapshots[place]
        model = deepcopy(self.subject.model)
        model.set_weights([w.astype(np.float32) for w in shot.weights])
        model.compile("adam", "binary_crossentropy" if model.output_shape == (1,) else "categorical_crossentropy")
        return model.predict_on_batch(self.x)[0], model.test_on_batch(self.x, self.labels)[0]

    def _p_past(self, place, k):
        return self._past(place)[0][k]

    def _said_past(self, place):
        p = self._past(place)[0]
        return p.max() if len(p) > 1 else max(p[0], 1 - p[0])

    def _loss_past(self, place):
        return self._past(place)[1]

    def _w_past(self, s, place, k):
        names = [u.weight for u in self.t.updates]
        return self.subject.snapshots[place].weights[names.index(self._update(s, "w").weight)].ravel()[k]

    def _history(self, name, place):
        return self.subject.history[name][place]


def _without_largest(terms, count: int) -> Total:
    rest = Total(sorted(terms, key=abs, reverse=True)[count:])
    rest.size = float(sum(map(abs, terms)))
    return rest

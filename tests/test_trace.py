"""A trace tells what happened: the same numbers as without it, named, complete, and unchangeable."""

import json
from copy import deepcopy

import numpy as np
import pytest
from cases import CASES
from checks import assert_near, every_case, output_gradient
from checks import run as run_case
from networks import compiled, fish, photos, same_bits, tiny, using

import tinycnn
from tinycnn import Tensor, backend, ops
from tinycnn.fused import FUSIONS, ConvReLU, FusedOp
from tinycnn.optimizers import SGD, Adam
from tinycnn.tensor import Op, watcher

BACKENDS = ("numpy", "numba")


def step(optimizer="adam", outputs: int = 1, steps: int = 1, whole=(), **options):
    """A small model before and after some steps, and the trace of the last."""
    model = compiled(outputs, **options)
    model.optimizer = tinycnn.optimizers.get(optimizer)
    x, y = photos(6, classes=max(2, outputs))
    for _ in range(steps - 1):
        model.train_on_batch(x, y)
    with tinycnn.trace(whole) as t:
        logs = model.train_on_batch(x, y)
    return model, t, logs


@pytest.mark.parametrize("name", BACKENDS)
@every_case
def test_a_case_gives_the_same_under_a_trace(case, name):
    tolerance = 1e-12 if name == "numpy" else 1e-11
    y, gradients = run_case(case, name)
    with tinycnn.trace() as t:
        traced, traced_gradients = run_case(case, name)
    assert_near(traced.data, y.data, tolerance)
    for g, wanted in zip(traced_gradients, gradients, strict=True):
        assert_near(g, wanted, tolerance)
    assert len(t) >= 1
    assert not any(isinstance(Op.registry.get(record.op), FusedOp) for record in t)
    assert np.array_equal(t.ops[-1].output, traced.data)
    assert np.array_equal(t.ops[-1].gradient_in, output_gradient(y.shape))
    for record in t:
        assert len(record.gradients_out) <= len(record.inputs)
        for given, g in record.gradients_out.items():
            assert g.shape == record.inputs[given].shape


@pytest.mark.parametrize("case", [c for c in CASES if issubclass(Op.registry[c.op], FusedOp)], ids=lambda c: c.name)
def test_fused_ops_are_seen_as_the_ops_they_stand_for(case):
    with tinycnn.trace() as t:
        run_case(case, "numba")
    kinds = [part.__name__ for part in Op.registry[case.op].parts]
    names = {"ReLU": "relu", "MaxPool2D": "max_pool2d", "Conv2D": "conv2d"}
    assert [record.op for record in t][: len(kinds)] == [names.get(k, t.ops[i].op) for i, k in enumerate(kinds)]
    assert len(t) == len(kinds)
    with tinycnn.trace(whole=[case.op]) as t:
        run_case(case, "numba")
    assert len(t) == (1 if not Op.registry[case.op].kernel or len(t) == 1 else len(kinds))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("optimizer", "outputs"), [("adam", 1), ("sgd", 3), ("adam", 3)])
def test_training_is_the_same_under_a_trace(name, optimizer, outputs):
    with using(name):
        traced, plain = compiled(outputs), compiled(outputs)
        for model in (traced, plain):
            model.compile(optimizer, model.loss, ["accuracy"])
        for key in range(4):
            x, y = photos(6, classes=max(2, outputs), key=key)
            with tinycnn.trace():
                one = traced.train_on_batch(x, y)
            assert one == pytest.approx(plain.train_on_batch(x, y), rel=1e-5)
        for a, b in zip(traced.get_weights(), plain.get_weights(), strict=True):
            assert np.abs(a - b).max() < 2e-5  # Adam makes rounding of tiny gradients larger


def test_training_goes_on_from_recordings_as_if_nobody_had_looked():
    """Replays (numba) begin again after a trace, and bits are those of a model that was looked at elsewhere."""
    with using("numba"):
        model, other = fish(), fish()
        for m in (model, other):
            m.compile("adam")
            for key in range(3):
                m.train_on_batch(*photos(4, 64, key=key))
        with tinycnn.trace() as t:
            model.predict_on_batch(photos(4, 64)[0])
        assert t["conv2d.relu"].output.shape == (4, 62, 62, 32)
        for m in (model, other):
            m.train_on_batch(*photos(4, 64, key=9))
        assert same_bits(model.get_weights(), other.get_weights())


def test_names_and_sources_say_who_is_who():
    _, t, _ = step()
    names = [record.name for record in t]
    assert names[:5] == ["conv2d.conv2d", "conv2d.relu", "max_pooling2d.max_pool2d", "flatten.flatten", "dense.dense"]
    assert names[-3:] == ["dense_1.dense", "dense_1.sigmoid", "loss.binary_cross_entropy"]
    convolution = t["conv2d.conv2d"]
    assert convolution.sources == {"x": None, "w": "conv2d.kernel", "b": "conv2d.bias"}
    assert convolution.layer == "conv2d"
    assert convolution.attributes["strides"] == (1, 1)
    assert t["conv2d.relu"].sources == {"x": "conv2d.conv2d"}
    assert t["max_pooling2d.max_pool2d"].sources == {"x": "conv2d.relu"}
    assert t.op("conv2d") is convolution
    assert t.op("max_pooling2d") is t.op("max_pool2d") is t["max_pooling2d.max_pool2d"]
    with pytest.raises(KeyError, match=r"no op 'pool' in this trace; it has conv2d.conv2d, "):
        t.op("pool")
    assert [u.weight for u in t.updates][:2] == ["conv2d.kernel", "conv2d.bias"]
    with pytest.raises(KeyError, match=r"no update of 'w'.*dense_1\.bias"):
        t.update("w")
    assert "conv2d.conv2d: conv2d(x (6, 10, 10, 3)" in repr(convolution)


def test_what_ops_keep_and_send_back_fits_together():
    _, t, _ = step()
    pool, relu, convolution = t["max_pooling2d.max_pool2d"], t["conv2d.relu"], t["conv2d.conv2d"]
    assert np.array_equal(pool.saved["winner"].shape, pool.output.shape)
    assert np.array_equal(relu.gradient_in, pool.gradients_out["x"])
    assert np.array_equal(relu.gradients_out["x"], relu.gradient_in * (relu.output > 0))
    assert np.array_equal(convolution.gradient_in, relu.gradients_out["x"])
    assert set(convolution.gradients_out) == {"w", "b"}, "nobody asked for the photo's gradient"
    assert np.array_equal(convolution.gradients_out["w"], t.update("conv2d.kernel").gradient)
    assert {"cols", "win", "w"} <= set(convolution.saved)


def test_a_model_that_is_asked_for_the_photos_gradient_gives_it():
    model, (x, _) = tiny(), photos(1)
    with tinycnn.trace() as t:
        model(Tensor(x, requires_grad=True, name="photo")).sum().backward()
    assert t["conv2d"].sources["x"] == "photo"
    assert t["conv2d"].gradients_out["x"].shape == x.shape
    assert t.ops[-1].op == "sum"


def test_a_layer_alone_and_plain_ops_have_names_too():
    x, w = Tensor([[1.0, 2.0]]), Tensor([[1.0], [3.0]], requires_grad=True, name="w")
    with tinycnn.trace() as t:
        loss = (ops.relu(ops.dense(x, w)) * 2).sum()
        loss.backward()
        ops.relu(x)
    assert [record.name for record in t] == ["dense", "relu", "mul", "sum", "relu_1"]
    assert t["dense"].sources == {"x": None, "w": "w"}
    assert t["mul"].sources == {"a": "relu", "b": None}
    assert t["dense"].gradients_out["w"].tolist() == [[2.0], [4.0]]
    assert t["relu_1"].gradient_in is None


@pytest.mark.parametrize("name", BACKENDS)
def test_adam_s_arithmetic_by_hand(name):
    """Four steps worked out again in float64, from the gradients alone."""
    with using(name):
        model = compiled()
        model.compile(Adam(0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-3), "binary_crossentropy")
        m, v = ([np.zeros(weight.shape) for weight in model.weights] for _ in range(2))
        for t in range(1, 5):
            with tinycnn.trace() as traced:
                model.train_on_batch(*photos(6, key=t))
            assert [r.weight for r in traced.updates] == [weight.name for weight in model.weights]
            for i, record in enumerate(traced.updates):
                g, w = (np.asarray(a, np.float64) for a in (record.gradient, record.before))
                m[i], v[i] = 0.8 * m[i] + 0.2 * g, 0.95 * v[i] + 0.05 * g * g
                m_hat, v_hat = m[i] / (1 - 0.8**t), v[i] / (1 - 0.95**t)
                moved = 0.01 * m_hat / (np.sqrt(v_hat) + record.epsilon_hat)
                wanted = {"m": m[i], "v": v[i], "m_hat": m_hat, "v_hat": v_hat, "step": moved}
                for term, value in wanted.items():
                    assert_near(getattr(record, term), value, 1e-6, term)
                assert record.epsilon_hat == pytest.approx(1e-3 / np.sqrt(1 - 0.95**t), rel=1e-12)
                assert record.rate == pytest.approx(0.01 * np.sqrt(1 - 0.95**t) / (1 - 0.8**t), rel=1e-12)
                assert_near(record.step, record.rate * m[i] / (np.sqrt(v[i]) + 1e-3), 1e-6, "step, in the other form")
                assert_near(record.after, w - moved, 1e-6, "the new weight")
                assert np.array_equal(record.after, model.weights[i].numpy())
                assert (record.iteration, record.optimizer, record.settings["beta_1"]) == (t, "Adam", 0.8)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_s_arithmetic_by_hand(nesterov):
    _, t, _ = step(SGD(0.1, momentum=0.9, nesterov=nesterov), steps=2)
    for record in t.updates:
        velocity = np.asarray(record.velocity, np.float64)
        moved = -(0.9 * velocity - 0.1 * record.gradient) if nesterov else -velocity
        assert_near(record.step, moved, 1e-6)
        assert np.abs(record.before - record.step - record.after).max() <= 1e-7
        assert record.rate == 0.1
        with pytest.raises(AttributeError, match="SGD has no 'm_hat'"):
            record.m_hat  # noqa: B018


def test_a_trace_never_changes_later():
    model, t, _ = step()
    kept = deepcopy(t.to_dict(lists=True))
    for key in range(3):
        model.train_on_batch(*photos(6, key=key))
    assert t.to_dict(lists=True) == kept
    with pytest.raises(ValueError, match="read-only"):
        t["conv2d"].output[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        t.updates[0].m[...] = 0


def test_a_trace_as_data():
    _, t, _ = step()
    told = json.loads(json.dumps(t.to_dict(lists=True)))
    assert told["ops"][0]["saved"]["win"]["kh"] == 3
    assert told["updates"][0]["terms"]["m"] == t.updates[0].m.tolist()
    assert t.to_dict()["ops"][0]["output"] is t.ops[0].output


def test_the_loss_can_stay_one_op_where_its_parts_would_round():
    """A probability of exactly 1 for the wrong class: the parts clip it and send nothing back; training does."""
    model = compiled()
    model.layers[-1].weights["bias"].data[...] = 40
    x, _ = photos(1)
    with tinycnn.trace() as apart:
        model.train_on_batch(x, np.zeros(1))
    assert not apart["dense_1.dense"].gradient_in.any()
    model.layers[-1].weights["bias"].data[...] = 40
    with tinycnn.trace(whole=["SigmoidBinaryCrossEntropy"]) as t:
        loss, _ = model.train_on_batch(x, np.zeros(1))
    assert loss == pytest.approx(40, abs=2)
    assert t["dense_1.dense"].gradient_in == 1
    assert t.op("sigmoid_binary_cross_entropy").layer == "dense_1+loss"
    assert t["dense_1.sigmoid"].output == 1, "measured for the accuracy"


def test_nobody_watches_outside_and_traces_do_not_mix():
    assert watcher() is None
    with tinycnn.trace() as outer:
        ops.relu(Tensor([1.0]))
        with tinycnn.trace() as inner:
            ops.exp(Tensor([1.0]))
        ops.log(Tensor([1.0]))
    assert [record.op for record in outer] == ["relu", "log"]
    assert [record.op for record in inner] == ["exp"]
    assert watcher() is None
    with pytest.raises(RuntimeError, match="stop"), tinycnn.trace() as t:
        raise RuntimeError("stop")
    ops.relu(Tensor([1.0]))
    assert len(t) == 0
    assert repr(t) == "<trace of 0 ops, 0 updates>"


def test_an_op_that_fails_leaves_no_name_behind():
    model = tiny()
    with tinycnn.trace() as t:
        with pytest.raises(ValueError, match="Conv2D"):
            model.layers[0](np.zeros((1, 10, 10, 5), np.float32))
        ops.relu(Tensor([1.0]))
    assert [record.name for record in t] == ["relu"]


def test_a_backward_pass_of_ops_before_the_trace_is_not_recorded():
    y = ops.relu(Tensor([1.0], requires_grad=True))
    with tinycnn.trace() as t:
        y.backward()
    assert len(t) == 0


def test_fused_ops_work_as_ever_without_a_trace():
    home = backend.get("numba")
    x, w = Tensor(np.ones((1, 4, 4, 1)), backend=home), Tensor(np.ones((3, 3, 1, 1)), backend=home, requires_grad=True)
    with using("numba"):
        x, w = (Tensor(t.data.astype(np.float32), requires_grad=t.requires_grad) for t in (x, w))
        assert isinstance(ConvReLU.apply(x, w).op, ConvReLU)
        with tinycnn.trace():
            assert not isinstance(ConvReLU.apply(x, w).op, ConvReLU)
        assert all(not op.is_split() for op in FUSIONS)

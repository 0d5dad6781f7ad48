"""TensorFlow as a peer: a step in one tf.function, the same through XLA, and Keras on top of it."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .networks import Conv, Dense, Flatten, Layer, Network, Pool
from .peers import Peer, Predict, Training

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7


class TensorFlow(Peer):
    """Plain TensorFlow operations and its Adam kernel in a tf.function."""

    modules = ("tensorflow",)
    distributions = ("tensorflow", "tensorflow-cpu")
    jit: ClassVar[bool] = False

    def __init__(self, threads: int) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)

    def prepare_training(self, network, weights, x, y) -> Training:
        return TensorFlowTraining(network, weights, x, y, self.jit)

    def prepare_inference(self, network, weights, x) -> Predict:
        import tensorflow as tf

        variables = [tf.Variable(w) for w in weights]
        images = tf.constant(x)

        @tf.function(jit_compile=self.jit)
        def predict(images):
            z = logits(network, variables, images)
            return tf.sigmoid(z) if network.outputs == 1 else tf.nn.softmax(z)

        return lambda: predict(images).numpy()


class TensorFlowXLA(TensorFlow):
    """The same, compiled by XLA (`jit_compile=True`)."""

    jit = True


class TensorFlowTraining:
    """One step is one call into TensorFlow."""

    def __init__(self, network: Network, weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray, jit: bool):
        import tensorflow as tf

        self.first = weights
        self.batches = [(tf.constant(a), tf.constant(b)) for a, b in zip(x, y, strict=True)]
        self.variables = [tf.Variable(w) for w in weights]
        self.moments = [[tf.Variable(tf.zeros_like(w)) for w in weights] for _ in range(2)]
        self.count = tf.Variable(0.0)

        @tf.function(jit_compile=jit)
        def train(x, y):
            with tf.GradientTape() as tape:
                loss = cross_entropy(network, logits(network, self.variables, x), y)
            self._adam(tape.gradient(loss, self.variables), network.learning_rate)
            return loss

        self.train = train
        self.restart()

    def _adam(self, gradients: Sequence[Any], rate: float) -> None:
        import tensorflow as tf

        number = self.count.assign_add(1.0)
        for w, m, v, gradient in zip(self.variables, *self.moments, gradients, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=w.handle, m=m.handle, v=v.handle, grad=gradient, lr=rate, beta1=BETA_1, beta2=BETA_2,
                beta1_power=BETA_1**number, beta2_power=BETA_2**number, epsilon=EPSILON,
            )  # fmt: skip

    def restart(self) -> None:
        self.steps = 0
        self.count.assign(0.0)
        for w, first, *moments in zip(self.variables, self.first, *self.moments, strict=True):
            w.assign(first)
            for moment in moments:
                moment.assign(np.zeros_like(first))

    def weights(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.variables]

    def step(self, ask: bool = False) -> float | None:
        x, y = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        loss = self.train(x, y)
        return float(loss) if ask else None


def logits(network: Network, variables: Sequence[Any], x: Any) -> Any:
    """What goes into the last activation (N, outputs)."""
    import tensorflow as tf

    left = iter(variables)
    for place, layer in enumerate(network.layers):
        match layer:
            case Conv():
                x = tf.nn.conv2d(x, next(left), 1, layer.padding.upper())
                x = tf.nn.relu(tf.nn.bias_add(x, next(left)))
            case Pool():
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            case Flatten():
                x = tf.reshape(x, (x.shape[0], -1))  # (N, H*W*C)
            case Dense():
                x = tf.nn.bias_add(tf.matmul(x, next(left)), next(left))
                x = tf.nn.relu(x) if place < len(network.layers) - 1 else x
    return x


def cross_entropy(network: Network, z: Any, y: Any) -> Any:
    """The mean loss of logits z (N, outputs) and labels y (N, outputs)."""
    import tensorflow as tf

    entropy = (
        tf.nn.sigmoid_cross_entropy_with_logits if network.outputs == 1 else tf.nn.softmax_cross_entropy_with_logits
    )
    return tf.reduce_mean(entropy(labels=y, logits=z))


class KerasOnTensorFlow(TensorFlow):
    """Keras's `train_on_batch` and `predict_on_batch`."""

    modules = ("keras", "tensorflow")

    def prepare_training(self, network, weights, x, y) -> Training:
        return KerasTraining(network, weights, x, y)

    def prepare_inference(self, network, weights, x) -> Predict:
        import tensorflow as tf

        model = build(network, weights)
        images = tf.constant(x)
        return lambda: model.predict_on_batch(images)


class KerasTraining:
    """`train_on_batch` of a compiled Keras model."""

    def __init__(self, network: Network, weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
        import tensorflow as tf

        self.first = weights
        self.batches = [(tf.constant(a), tf.constant(b)) for a, b in zip(x, y, strict=True)]
        self.model = build(network, weights)
        compile_keras(self.model, network, network.learning_rate)
        self.model.optimizer.build(self.model.trainable_variables)
        self.state = [(variable, np.array(variable)) for variable in self.model.optimizer.variables]
        self.restart()

    def restart(self) -> None:
        self.steps = 0
        self.model.set_weights(self.first)
        for variable, first in self.state:
            variable.assign(first)
        self.model.reset_metrics()

    def weights(self) -> list[np.ndarray]:
        return self.model.get_weights()

    def step(self, ask: bool = False) -> float | None:
        x, y = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        self.model.reset_metrics()  # else the loss is a mean over all steps so far
        return float(self.model.train_on_batch(x, y))


def compile_keras(model: Any, network: Network, rate: float, metrics: Sequence[str] = ()) -> None:
    """Adam with Keras's defaults but for the rate, and the network's loss."""
    import keras

    loss = "binary_crossentropy" if network.outputs == 1 else "categorical_crossentropy"
    model.compile(keras.optimizers.Adam(rate), loss, metrics=list(metrics))


def build(network: Network, weights: Sequence[np.ndarray] | None = None) -> Any:
    """The network as a `keras.Sequential`."""
    import keras

    model = keras.Sequential([keras.Input(network.input_shape), *map(_layer, network.layers)])
    if weights is not None:
        model.set_weights(weights)
    return model


def _layer(layer: Layer) -> Any:
    from keras import layers

    match layer:
        case Conv():
            return layers.Conv2D(layer.filters, layer.size, padding=layer.padding, activation="relu")
        case Pool():
            return layers.MaxPooling2D(2)
        case Flatten():
            return layers.Flatten()
        case Dense():
            return layers.Dense(layer.units, activation=layer.activation)

"""JAX as a peer: a whole training step in one jitted function."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .networks import Conv, Dense, Flatten, Network, Pool
from .peers import Peer, Predict, Training

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7


class JAX(Peer):
    """jit, with the buffers of weights and moments given back to XLA."""

    modules = ("jax",)
    distributions = ("jax",)

    def __init__(self, threads: int) -> None:
        import jax  # it has no setting for threads: the worker's cores limit them

        jax.config.update("jax_platforms", "cpu")

    def prepare_training(self, network, weights, x, y) -> Training:
        return JAXTraining(network, weights, x, y)

    def prepare_inference(self, network, weights, x) -> Predict:
        import jax
        import jax.numpy as jnp

        variables, images = [jnp.asarray(w) for w in weights], jnp.asarray(x)
        last = jax.nn.sigmoid if network.outputs == 1 else jax.nn.softmax
        predict = jax.jit(lambda variables, images: last(logits(network, variables, images)))
        return lambda: np.asarray(predict(variables, images))


class JAXTraining:
    """One step is one call of a function that gives new weights and moments."""

    def __init__(self, network: Network, weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
        import jax
        import jax.numpy as jnp

        self.first = weights
        self.batches = [(jnp.asarray(a), jnp.asarray(b)) for a, b in zip(x, y, strict=True)]

        def train(state, number, x, y):
            variables, m, v = state
            loss, gradients = jax.value_and_grad(lambda w: cross_entropy(network, logits(network, w, x), y))(variables)
            rate = network.learning_rate * jnp.sqrt(1 - BETA_2**number) / (1 - BETA_1**number)
            m = [BETA_1 * old + (1 - BETA_1) * g for old, g in zip(m, gradients, strict=True)]
            v = [BETA_2 * old + (1 - BETA_2) * g * g for old, g in zip(v, gradients, strict=True)]
            moved = [w - rate * a / (jnp.sqrt(b) + EPSILON) for w, a, b in zip(variables, m, v, strict=True)]
            return (moved, m, v), loss

        self.train = jax.jit(train, donate_argnums=0)
        self.restart()

    def restart(self) -> None:
        import jax.numpy as jnp

        self.steps = 0
        self.state: Any = tuple([jnp.array(w * share) for w in self.first] for share in (1, 0, 0))  # weights, m, v

    def weights(self) -> list[np.ndarray]:
        return [np.array(w) for w in self.state[0]]

    def step(self, ask: bool = False) -> float | None:
        import jax

        x, y = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        self.state, loss = self.train(self.state, float(self.steps), x, y)
        if ask:
            jax.block_until_ready(self.state)
        return float(loss) if ask else None


def logits(network: Network, variables: Sequence[Any], x: Any) -> Any:
    """What goes into the last activation (N, outputs)."""
    import jax
    from jax import lax

    left = iter(variables)
    for place, layer in enumerate(network.layers):
        match layer:
            case Conv():
                dimensions = ("NHWC", "HWIO", "NHWC")
                x = lax.conv_general_dilated(x, next(left), (1, 1), layer.padding.upper(), dimension_numbers=dimensions)
                x = jax.nn.relu(x + next(left))
            case Pool():
                x = lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            case Flatten():
                x = x.reshape(len(x), -1)  # (N, H*W*C)
            case Dense():
                x = x @ next(left) + next(left)
                x = jax.nn.relu(x) if place < len(network.layers) - 1 else x
    return x


def cross_entropy(network: Network, z: Any, y: Any) -> Any:
    """The mean loss of logits z (N, outputs) and labels y (N, outputs)."""
    import jax
    import jax.numpy as jnp

    if network.outputs == 1:
        return (jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z)))).mean()
    return -(y * jax.nn.log_softmax(z)).sum(-1).mean()

"""Random numbers without a global state: each draw is keyed by what it is for, so no order of work can change it."""

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator that depends on nothing but its arguments.

    `purpose` names the use ("shuffle", "augment", "weights"), `counters` say which one: (epoch, sample), (layer,).
    The key of NumPy's Philox, a counter-based generator (Salmon et al., 2011), is a hash of all of them.
    """
    words = ":".join([str(int(seed)), purpose, *(str(int(c)) for c in counters)])
    key = np.frombuffer(hashlib.sha256(words.encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))

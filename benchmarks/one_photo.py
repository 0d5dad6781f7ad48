"""What a user of each library writes to ask a trained fish network, kept in a file, about one photo.

    python -m benchmarks.one_photo save LIBRARY MODEL WEIGHTS      writes MODEL from an .npz file of weights
    python -m benchmarks.one_photo ask LIBRARY MODEL PHOTO         prints the probability of the second class

LIBRARY is tinycnn, torch, onnxruntime or keras. cold.py times `ask` as a whole process, so it imports nothing that
the library does not need; for tinycnn it times `python -m tinycnn.predict MODEL PHOTO` instead.
"""

import argparse
from pathlib import Path
from typing import Any

SIDE = 64
CLASS_NAMES = ["first", "second"]


def image(photo: str) -> Any:
    """The photo as float32 (1, SIDE, SIDE, 3) in [0, 1]."""
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(photo) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return np.asarray(upright, np.float32)[None] / 255


def ask_torch(model: str, photo: str) -> float:
    """From a file of weights."""
    import torch

    from . import networks, peer_torch

    network = peer_torch.build(networks.fish(), None, logits=False)
    network.load_state_dict(torch.load(model, weights_only=True))
    with torch.inference_mode():
        return network(torch.from_numpy(image(photo)).permute(0, 3, 1, 2)).item()


def ask_onnxruntime(model: str, photo: str) -> float:
    """From an ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image(photo).transpose(0, 3, 1, 2)})[0].item()


def ask_keras(model: str, photo: str) -> float:
    """From a .keras file."""
    import keras

    return keras.models.load_model(model).predict(image(photo), verbose=0).item()


def save_tinycnn(model: str, network: Any, weights: list[Any]) -> None:
    """With all that `tinycnn.predict` needs."""
    from tinycnn.preprocessing.image import Preprocessing

    from .peer_tinycnn import build

    made = build(network, weights)
    made.preprocessing = Preprocessing((SIDE, SIDE), rescale=1 / 255)
    made.class_names = CLASS_NAMES
    made.save(model)


def save_torch(model: str, network: Any, weights: list[Any]) -> None:
    """The state of the module."""
    import torch

    from .peer_torch import build

    torch.save(build(network, weights, logits=False).state_dict(), model)


def save_onnxruntime(model: str, network: Any, weights: list[Any]) -> None:
    """The graph for one image."""
    from .peer_onnx import onnx_bytes

    Path(model).write_bytes(onnx_bytes(network, weights, 1))


def save_keras(model: str, network: Any, weights: list[Any]) -> None:
    """Architecture and weights."""
    from .peer_tensorflow import build

    build(network, weights).save(model)


LIBRARIES = {"tinycnn": ".safetensors", "torch": ".pt", "onnxruntime": ".onnx", "keras": ".keras"}


def main() -> None:
    """Save a model, or ask it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("save", "ask"))
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("file", metavar="WEIGHTS|PHOTO")
    options = parser.parse_args()
    function = globals()[f"{options.do}_{options.library}"]
    if options.do == "ask":
        print(function(options.model, options.file))
        return
    from . import networks

    function(options.model, networks.fish(), networks.read(Path(options.file))[0])


if __name__ == "__main__":
    main()

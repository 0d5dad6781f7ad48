"""ONNX Runtime and OpenVINO as peers that predict: both read the same ONNX graph, made here from the weights."""

from collections.abc import Sequence

import numpy as np

from .networks import Conv, Dense, Flatten, Network, Pool, channels_first
from .peers import Peer, Predict

OPSET, IR_VERSION = 17, 8  # old enough for every runtime in use


class ONNXRuntime(Peer):
    """The CPU provider of ONNX Runtime."""

    modules = ("onnxruntime", "onnx")
    distributions = ("onnxruntime",)
    trains = False

    def __init__(self, threads: int) -> None:
        import onnxruntime

        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads, self.options.inter_op_num_threads = threads, 1

    def prepare_inference(self, network, weights, x) -> Predict:
        import onnxruntime

        graph = onnx_bytes(network, weights, len(x))
        session = onnxruntime.InferenceSession(graph, self.options, providers=["CPUExecutionProvider"])
        images = {"x": planes(x)}
        return lambda: session.run(None, images)[0]


class OpenVINO(Peer):
    """The CPU plugin of OpenVINO, kept to float32 and told that one request at a time comes in."""

    modules = ("openvino", "onnx")
    distributions = ("openvino",)
    trains = False

    def __init__(self, threads: int) -> None:
        import openvino

        self.core = openvino.Core()
        self.options = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }

    def prepare_inference(self, network, weights, x) -> Predict:
        model = self.core.compile_model(self.core.read_model(onnx_bytes(network, weights, len(x))), "CPU", self.options)
        request = model.create_infer_request()
        images = planes(x)
        return lambda: request.infer([images], share_inputs=True, share_outputs=True)[0]


def planes(x: np.ndarray) -> np.ndarray:
    """Images (N, H, W, C) with channels first: (N, C, H, W)."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def onnx_bytes(network: Network, weights: Sequence[np.ndarray], batch: int) -> bytes:
    """The network as a serialised ONNX model from x (batch, C, H, W) to probabilities (batch, outputs)."""
    from onnx import TensorProto, checker, helper, numpy_helper

    h, w, c = network.input_shape
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, c, h, w])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, network.outputs])]
    initial = [numpy_helper.from_array(a, f"w{i}") for i, a in enumerate(channels_first(network, weights))]
    graph = helper.make_graph(_nodes(network), network.name, inputs, outputs, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model)
    return model.SerializeToString()


def _nodes(network: Network) -> list:
    """One ONNX node after the other; each reads what the one before wrote, the last writes y."""
    from onnx import helper

    kinds: list[tuple[str, int, dict]] = []  # operator, how many weights it takes, attributes
    for layer in network.layers:
        match layer:
            case Conv():
                pad = layer.size // 2 if layer.padding == "same" else 0
                kinds += [("Conv", 2, {"kernel_shape": [layer.size] * 2, "pads": [pad] * 4}), ("Relu", 0, {})]
            case Pool():
                kinds.append(("MaxPool", 0, {"kernel_shape": [2, 2], "strides": [2, 2]}))
            case Flatten():
                kinds.append(("Flatten", 0, {"axis": 1}))
            case Dense():
                kinds += [("Gemm", 2, {"transB": 1}), (layer.activation.capitalize(), 0, {})]
    nodes, value, used = [], "x", 0
    for i, (kind, takes, attributes) in enumerate(kinds):
        result = "y" if i == len(kinds) - 1 else f"v{i}"
        names = [f"w{j}" for j in range(used, used + takes)]
        nodes.append(helper.make_node(kind, [value, *names], [result], **attributes))
        value, used = result, used + takes
    return nodes

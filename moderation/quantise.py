"""An encoder's ONNX model with its matrix products in 8-bit integers.

Weights have a step for each output column; activations, after their columns were evened out against the weights' rows
(SmoothQuant, Xiao et al. 2023, arXiv:2211.10438), one for each token, so that no text depends on its neighbours. What is
above zero but for a little (an activation function's output) is shifted, to use the whole range. Pooling averages random
errors away, but not those that all tokens share: these are measured and taken back by a bias. Products are ONNX Runtime's
`MatMulIntegerToFloat`; attention, normalisation and pooling stay in floating point.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: How much of the unevenness of an activation's columns is moved into the weights (SmoothQuant's alpha).
EVENED = 0.8


def session(model: bytes):
    """An ONNX Runtime session of one thread on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # every batch has another shape
    options.log_severity_level = 3
    # Its fused addition and normalisation is eight times as slow as the two one after the other (onnxruntime 1.32).
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )


def quantise(exported: bytes, batches: Sequence[Sequence[list[int]]]) -> bytes:
    """A copy of an ONNX model whose products with constant matrices are done in 8-bit integers.

    Args:
        exported: the model; its inputs are input_ids and attention_mask (N, T).
        batches: token ids on which ranges and errors are measured.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(exported)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    is_product = lambda node: node.op_type == "MatMul" and constants.get(node.input[1], np.zeros(0)).ndim == 2
    sources: dict[str, list[np.ndarray]] = {}
    for node in filter(is_product, graph.node):
        sources.setdefault(node.input[0], []).append(constants[node.input[1]])
    samples = _activations(model, list(sources), batches)
    nodes: list = []
    quantised: dict[str, tuple] = {}

    def constant(name: str, value, kind=np.float32) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def add(kind: str, inputs: list[str], output: str, **settings) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **settings))
        return output

    for node in graph.node:
        if not is_product(node):
            nodes.append(node)
            continue
        source, weight, name = node.input[0], constants[node.input[1]], node.output[0]
        values = samples[source]
        if source not in quantised:
            one_sided = -values.min() < values.max() / 4
            largest = np.abs(values).max(0) + 1e-6
            heaviest = np.max([np.abs(matrix).max(1) for matrix in sources[source]], axis=0) + 1e-6
            even = np.ones_like(largest) if one_sided else largest**EVENED / heaviest ** (1 - EVENED)
            shift, zero, steps = (-values.min(), 0, 255) if one_sided else (0.0, 128, 127)
            label = f"int8/{len(quantised)}/"
            at = add("Mul", [source, constant(label + "even", 1 / even)], label + "evened") if not one_sided else source
            at = add("Add", [at, constant(label + "shift", shift)], label + "shifted") if one_sided else at
            row = add("ReduceMax", [add("Abs", [at], label + "size")], label + "largest", axes=[-1], keepdims=1)
            row = add("Max", [row, constant(label + "tiny", 1e-9)], label + "row")
            scale, zero_name = constant(label + "scale", 1 / steps), constant(label + "zero", zero, np.uint8)
            add("QuantizeLinear", [add("Div", [at, row], label + "of_row"), scale, zero_name], label + "quantised")
            shifted = values / even + shift
            size = np.abs(shifted).max(1, keepdims=True) + 1e-9
            seen = np.round(shifted / size * steps) / steps * size
            quantised[source] = (label, even, seen)
        label, even, seen = quantised[source]
        evened = weight * even[:, None]
        step = np.abs(evened).max(0) / 127 + 1e-12
        rounded = np.clip(np.round(evened / step), -127, 127)
        arguments = [
            label + "quantised",
            constant(name + "/int8", rounded, np.int8),
            label + "scale",
            constant(name + "/steps", step),
            label + "zero",
            constant(name + "/zeros", np.zeros(weight.shape[1]), np.int8),
        ]
        product = add("MatMulIntegerToFloat", arguments, name + "/unit", domain="com.microsoft")
        correction = constant(name + "/correction", (values @ weight - seen @ (rounded * step)).mean(0))
        add("Add", [add("Mul", [product, label + "row"], name + "/product"), correction], name)
    used = {name for node in nodes for name in node.input}
    initializers = [initializer for initializer in graph.initializer if initializer.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model.SerializeToString()


def _activations(model, names: Sequence[str], batches: Sequence[Sequence[list[int]]]) -> dict[str, np.ndarray]:
    """Values (tokens, columns) of the named activations on texts, by name; whole batches of one length."""
    import onnx
    from onnx import helper

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    running = session(watched.SerializeToString())
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for batch in batches:
        shortest = min(map(len, batch))  # cut, not padded: padding would be measured, too
        ids = np.array([row[:shortest] for row in batch])
        for name, values in zip(
            names, running.run(list(names), {"input_ids": ids, "attention_mask": np.ones_like(ids)}), strict=True
        ):
            found[name].append(values.reshape(-1, values.shape[-1]))
    return {name: np.concatenate(parts) for name, parts in found.items()}

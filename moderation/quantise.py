"""An encoder's ONNX model with its matrix products in 8-bit integers.

Weights have a step for each output column; activations, after their columns were evened out against the weights' rows
(SmoothQuant, Xiao et al. 2023, arXiv:2211.10438), one for each token, so that no text depends on its neighbours. What is
above zero but for a little (an activation function's output) is shifted, to use the whole range. Pooling averages random
errors away, but not those that all tokens share: these are measured and taken back by a bias. Products are ONNX Runtime's
`MatMulIntegerToFloat`; attention, normalisation and pooling stay in floating point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

#: How much of the unevenness of an activation's columns is moved into the weights (SmoothQuant's alpha).
EVENED = 0.8
#: Steps of a weight on each side of zero: all that eight bits hold, and so few that two products of them hardly ever exceed the
#: sixteen bits in which x86 processors without VNNI instructions add them up (they saturate, and nothing says so).
STEPS, FEWER_STEPS = 127, 88


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


class Range(NamedTuple):
    """How an activation is turned into integers: its columns divided by `even` (d,) or, where all is above zero but for a little,
    `shift` added; `steps` up from `zero`. `mean` (d,) over all tokens, and `seen` (d,), what of it the integers stand for."""

    even: np.ndarray
    shift: float
    zero: int
    steps: int
    mean: np.ndarray
    seen: np.ndarray


def ranges(exported: bytes, batches: Sequence[Sequence[list[int]]]) -> dict[str, Range]:
    """Of each activation that an ONNX model multiplies with a constant matrix, by its name.

    Batch by batch: of all texts at once the activations would take half a gigabyte.

    Args:
        exported: the model; its inputs are input_ids and attention_mask (N, T).
        batches: token ids on which ranges and errors are measured.
    """
    import onnx
    from onnx import helper

    model = onnx.load_from_string(exported)
    heaviest: dict[str, np.ndarray] = {}
    for source, rows in [(node.input[0], np.abs(matrix).max(1) + 1e-6) for node, matrix in _products(model.graph)]:
        heaviest[source] = np.maximum(heaviest.get(source, 0), rows)
    sources = list(heaviest)
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in sources)
    watched = model.SerializeToString()
    del model  # which takes as much memory as the session
    running = session(watched)
    low, high, total, tokens = {}, {}, {}, 0
    for found in _activations(running, sources, batches):
        for name, values in found.items():
            low[name] = np.minimum(low.get(name, np.inf), values.min(0))
            high[name] = np.maximum(high.get(name, -np.inf), values.max(0))
            total[name] = total.get(name, 0.0) + values.sum(0)
        tokens += len(values)
    measured = {}
    for name in sources:
        one_sided = -low[name].min() < high[name].max() / 4
        largest = np.maximum(np.abs(low[name]), np.abs(high[name])) + 1e-6
        even = np.ones_like(largest) if one_sided else largest**EVENED / heaviest[name] ** (1 - EVENED)
        shift, zero, steps = (float(-low[name].min()), 0, 255) if one_sided else (0.0, 128, 127)
        measured[name] = Range(even, shift, zero, steps, total[name] / tokens, np.zeros_like(largest))
    for found in _activations(running, sources, batches):
        for name, values in found.items():
            one = measured[name]
            shifted = values / one.even + one.shift
            size = np.abs(shifted).max(1, keepdims=True) + 1e-9
            one.seen[:] += (np.round(shifted / size * one.steps) / one.steps * size).sum(0) / tokens
    return measured


def quantise(exported: bytes, measured: Mapping[str, Range], steps: int = STEPS) -> bytes:
    """A copy of an ONNX model whose products with constant matrices are done in 8-bit integers.

    Args:
        measured: the `ranges` of the same model.
        steps: of the weights, `STEPS` or `FEWER_STEPS`.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(exported)
    graph = model.graph
    weights = {node.output[0]: matrix for node, matrix in _products(graph)}
    nodes: list = []
    quantised: dict[str, str] = {}

    def constant(name: str, value, kind=np.float32) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def add(kind: str, inputs: list[str], output: str, **settings) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **settings))
        return output

    for node in graph.node:
        if not (node.output and node.output[0] in weights):
            nodes.append(node)
            continue
        source, name = node.input[0], node.output[0]
        weight, found = weights[name], measured[source]
        if source not in quantised:
            label = quantised[source] = f"int8/{len(quantised)}/"
            at = add("Mul", [source, constant(label + "even", 1 / found.even)], label + "evened") if not found.shift else source
            at = add("Add", [at, constant(label + "shift", found.shift)], label + "shifted") if found.shift else at
            row = add("ReduceMax", [add("Abs", [at], label + "size")], label + "largest", axes=[-1], keepdims=1)
            row = add("Max", [row, constant(label + "tiny", 1e-9)], label + "row")
            scale, zero_name = constant(label + "scale", 1 / found.steps), constant(label + "zero", found.zero, np.uint8)
            add("QuantizeLinear", [add("Div", [at, row], label + "of_row"), scale, zero_name], label + "quantised")
        label = quantised[source]
        evened = weight * found.even[:, None]
        step = np.abs(evened).max(0) / steps + 1e-12
        rounded = np.clip(np.round(evened / step), -steps, steps)
        arguments = [
            label + "quantised",
            constant(name + "/int8", rounded, np.int8),
            label + "scale",
            constant(name + "/steps", step),
            label + "zero",
            constant(name + "/zeros", np.zeros(weight.shape[1]), np.int8),
        ]
        product = add("MatMulIntegerToFloat", arguments, name + "/unit", domain="com.microsoft")
        correction = constant(name + "/correction", found.mean @ weight - found.seen @ (rounded * step))
        add("Add", [add("Mul", [product, label + "row"], name + "/product"), correction], name)
    used = {name for node in nodes for name in node.input}
    initializers = [initializer for initializer in graph.initializer if initializer.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model.SerializeToString()


def _products(graph) -> Iterator[tuple]:
    """Nodes that multiply with a constant matrix, and that matrix."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants and len(constants[node.input[1]].dims) == 2:
            yield node, numpy_helper.to_array(constants[node.input[1]])


def _activations(running, names: Sequence[str], batches: Sequence[Sequence[list[int]]]) -> Iterator[dict[str, np.ndarray]]:
    """Values (tokens, columns) of the named activations, by name, on one batch of texts after the other."""
    for batch in batches:
        shortest = min(map(len, batch))  # cut, not padded: padding would be measured, too
        ids = np.array([row[:shortest] for row in batch])
        found = running.run(names, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        yield {name: values.reshape(-1, values.shape[-1]) for name, values in zip(names, found, strict=True)}

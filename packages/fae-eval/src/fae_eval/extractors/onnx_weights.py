"""The weights of an ONNX file, read from its bytes: protocol buffers without the package onnx.

Only for files whose hash is known: nothing is checked on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Numbers of fields in onnx.proto3.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OPERATOR = 1, 4
_TENSOR_DIMS, _TENSOR_NAME, _TENSOR_RAW = 1, 8, 9


def read_layers(path: str | Path, operator: str) -> list[list[Tensor]]:
    """The float32 weights of every node of one operator, in the order of the graph.

    Args:
        path: The file.
        operator: The operator's name in ONNX, such as "Conv".

    Returns:
        For each node its inputs that are stored in the file: for "Conv" kernel (out, in, h, w) and bias (out,).
    """
    graph = next(value for number, value in _fields(memoryview(Path(path).read_bytes())) if number == _MODEL_GRAPH)
    stored: dict[str, memoryview] = {}
    nodes: list[list[tuple[int, Any]]] = []
    for number, value in _fields(graph):
        if number == _GRAPH_INITIALIZER:
            stored[_text(dict(_fields(value))[_TENSOR_NAME])] = value
        elif number == _GRAPH_NODE:
            nodes.append(list(_fields(value)))
    inputs = [
        [_text(value) for number, value in node if number == _NODE_INPUT]
        for node in nodes
        if any(number == _NODE_OPERATOR and _text(value) == operator for number, value in node)
    ]
    return [[_tensor(stored[name]) for name in names if name in stored] for names in inputs]


def _tensor(message: memoryview) -> Tensor:
    fields = list(_fields(message))
    shape = [value for number, value in fields if number == _TENSOR_DIMS]
    return torch.from_numpy(np.frombuffer(dict(fields)[_TENSOR_RAW], "<f4").reshape(shape).copy())


def _text(value: memoryview) -> str:
    return bytes(value).decode()


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Fields of a message: number, and bytes (a memoryview) or a whole number."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        else:
            length = {1: 8, 5: 4}[kind]
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, lowest first, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at

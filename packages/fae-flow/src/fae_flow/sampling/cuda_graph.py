"""Sequential decoding as one captured CUDA graph, replayed once per token without work on the host."""

from __future__ import annotations

import torch

from fae_flow.sampling.decoding import BlockDecoder
from fae_flow.sampling.layer import Stretch

_WARM_UP = 3


def decode_graph(decoder: BlockDecoder) -> None:
    """Decode a block whose decoder is `static`. The graph itself increments the step's index, which is a tensor."""
    index = torch.zeros(1, dtype=torch.long, device=decoder.slots.device)

    def step() -> None:
        slots = index + decoder.prefix
        rope = decoder.rope
        rotation = None if rope is None else (rope[0].index_select(0, slots), rope[1].index_select(0, slots))
        position = decoder.block.position
        mean, log_sigma = decoder.forward(
            decoder.tokens.index_select(1, index),
            None if position is None else position.index_select(0, index),
            decoder.cache.indexed(slots),
            Stretch(1, rotation, decoder.slots <= slots[:, None]),
            decoder.guidance,
        )
        decided = torch.addcmul(mean, decoder.targets.index_select(1, index), torch.exp(log_sigma))
        decoder.tokens.index_copy_(1, index + 1, decided)
        index.add_(1)

    # A capture needs loaded kernels and allocated memory. The replay decides all tokens again, from step 0.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(min(_WARM_UP, decoder.steps)):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    index.zero_()
    for _ in range(decoder.steps):
        graph.replay()
    decoder.read = decoder.steps * decoder.rows

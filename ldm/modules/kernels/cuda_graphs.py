"""CUDA graphs for training: the kernels of a U-Net are recorded once and then started by one call per pass.

A small U-Net takes longer to be told to a GPU, kernel by kernel, than to be computed. What is replayed are the same kernels, so
the numbers are the same; only shapes and addresses must be those that were recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten

from ldm.modules.conditioning import Conditioning

if TYPE_CHECKING:
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

WARM_UP = 2  # passes before a recording, in which libraries choose their kernels and allocate their memory

T = TypeVar("T")
Record = Callable[[Callable[[], T]], tuple[T, Callable[[], Any]]]  # runs a function; its result, and what repeats it


class Recorder:
    """Records functions on a stream of its own; memory is shared by all that it has recorded."""

    def __init__(self):
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def warm_up(self, run: Callable[[], Any]) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(self.stream)

    def __call__(self, run: Callable[[], T]) -> tuple[T, Callable[[], Any]]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's thread may allocate pinned memory meanwhile
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            result = run()
        return result, graph.replay


class RecordedPasses:
    """The forward and backward pass of a function of tensors, for inputs of one kind.

    Args:
        function: maps the inputs to one tensor.
        inputs: examples.
        parameters: what else gets a gradient.
        record: records one pass; a `Recorder`, but for tests.
        autocast: context of the forward pass.
    """

    result: Tensor  # of the forward pass, while the passes are recorded

    def __init__(
        self,
        function: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        parameters: Sequence[Tensor],
        record: Record,
        autocast: torch.autocast,
    ):
        self.inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        self.parameters = tuple(parameters)
        sources = [x for x in (*self.inputs, *self.parameters) if x.requires_grad]
        self.gradient: Tensor | None = None

        def forward() -> Tensor:
            with autocast:
                self.result = function(*self.inputs)
            return self.result

        def backward() -> list[Tensor | None]:
            gradient = torch.ones_like(self.result) if self.gradient is None else self.gradient
            found = iter(torch.autograd.grad(self.result, sources, gradient, allow_unused=True))
            return [next(found) if x.requires_grad else None for x in (*self.inputs, *self.parameters)]

        if isinstance(record, Recorder):
            record.warm_up(lambda: (forward(), backward()))
        output, self.repeat_forward = record(forward)
        self.gradient = torch.zeros_like(output)
        self.gradients, self.repeat_backward = record(backward)
        self.output = output.detach()
        del self.result  # nobody walks the recorded pass a second time

    def __call__(self, *inputs: Tensor) -> Tensor:
        return _Replay.apply(self, *inputs, *self.parameters)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, passes: RecordedPasses, *tensors: Tensor) -> Tensor:
        ctx.passes = passes
        for held, given in zip(passes.inputs, tensors):
            held.detach().copy_(given)
        passes.repeat_forward()
        return passes.output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        passes = ctx.passes
        passes.gradient.copy_(gradient)
        passes.repeat_backward()
        # Parameters keep these tensors as their gradients until they are set to None, before the next backward pass.
        return None, *(None if each is None else each.detach() for each in passes.gradients)


class GraphedTraining:
    """The `forward` of a U-Net that replays its training passes.

    It records a batch of the same kind as the batch before it, and once only. A batch of another kind, such as the smaller last
    one of an epoch, and whatever is no training, takes the plain `forward`.
    """

    def __init__(self, unet: UNetModel, make_record: Callable[[], Record] = Recorder):
        self.unet, self.plain, self.make_record = unet, unet.forward, make_record
        self.previous: tuple | None = None
        self.recorded: tuple[tuple, RecordedPasses] | None = None

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None, control: Any = None) -> Tensor:
        trains = self.unet.training and torch.is_grad_enabled()
        if not (trains and control is None and isinstance(cond, Conditioning)):
            return self.plain(x, t, cond, control)
        leaves, structure = tree_flatten((x, t, cond))
        present = [leaf is not None for leaf in leaves]
        inputs = [leaf for leaf in leaves if leaf is not None]
        kind = structure, present, self._kind(inputs)
        if self.recorded is None and kind == self.previous:

            def plain(*tensors: Tensor) -> Tensor:
                given = iter(tensors)
                return self.plain(*tree_unflatten([next(given) if here else None for here in present], structure))

            self.recorded = kind, self._record(plain, inputs)
        self.previous = kind
        if self.recorded is not None and self.recorded[0] == kind:
            return self.recorded[1](*inputs)
        return self.plain(x, t, cond, control)

    def _record(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> RecordedPasses:
        device = inputs[0].device.type
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        # A cast that the cache held would not be recorded. The backward pass runs outside of autocast, as it always does.
        forward = torch.autocast(device, dtype, enabled=enabled, cache_enabled=False)
        parameters = [p for p in self.unet.parameters() if p.requires_grad]
        with torch.autocast(device, enabled=False):
            return RecordedPasses(function, inputs, parameters, self.make_record(), forward)

    def _kind(self, inputs: Sequence[Tensor]) -> tuple:
        device = inputs[0].device.type
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        return autocast, *((tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad) for tensor in inputs)


def replay_training(unet: UNetModel) -> None:
    """Lets a U-Net record and replay its training passes on a GPU, in place and with the same state-dict keys."""
    unet.forward = GraphedTraining(unet)  # pyright: ignore[reportAttributeAccessIssue]

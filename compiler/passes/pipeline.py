"""THE pipeline. Order is meaning, so it is written down here, a reason per line."""

from __future__ import annotations

from compiler.passes.base import Pass
from compiler.passes.dead_code import RemoveDeadCode
from compiler.passes.fold_batch_norm import FoldBatchNorm
from compiler.passes.fold_constants import FoldConstants
from compiler.passes.fuse_activation import FuseActivation
from compiler.passes.layout import SinkTransposes
from compiler.passes.prune_channels import PruneChannels
from compiler.passes.requantize import CancelEdges, FuseRequantize

# On the float graph, before calibration: what calibration sees is what will be computed.
FLOAT_PASSES: tuple[Pass, ...] = (
    FoldConstants(),  # weights become constants, so that the folds below see them
    SinkTransposes(),  # channels last everywhere: batch norms then follow their convolutions directly
    FoldConstants(),  # transposes that sank onto constants
    RemoveDeadCode(),  # transposes left behind would count as uses, and fusion wants one use
    FoldBatchNorm(),  # into weights, before activations hide the convolution's own result
    FuseActivation(),  # the clamp joins the operator: its calibrated range is the activation's
    RemoveDeadCode(),  # no range is calibrated for a value that nobody reads
)

# On the quantized graph.
INTEGER_PASSES: tuple[Pass, ...] = (
    CancelEdges(),  # islands of float next to each other leave edges between them
    RemoveDeadCode(),  # what has no use must not keep fusion from its producer
    FuseRequantize(),  # after CancelEdges, which makes requantizes
    SinkTransposes(),  # at the graph's edges, on codes of one byte instead of floats of four
    PruneChannels(),  # what is left is what runs: after fusion has fixed the codes of every result
    RemoveDeadCode(),  # float values whose codes are used instead, constants of pruned layers
)

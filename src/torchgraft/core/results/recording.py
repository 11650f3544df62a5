"""What one run of a model was, without its values: every operation, and a fingerprint of every activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt

from torchgraft.core.specs import Shape

# Greatest distance of the fingerprints of a value and of a multiple that is taken for it.
_SAME = 1e-5


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Figures of a tensor that don't depend on how it is laid out: number, sum, sum of squares, extremes; in float64.

    Entries of 5000 and more in magnitude are counted in `huge` and left out of the rest: a mask added to attention
    scores would drown all other entries. `order`, where it was asked for, does depend on the layout: it is the sum of the
    entries, each times its place in C order (0 to 1).
    """

    numel: int
    total: float
    squares: float
    least: float
    greatest: float
    huge: int = 0
    order: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether all entries are equal: such tensors (masks, zeros) agree by chance."""
        return self.least == self.greatest

    def distance(self, other: Fingerprint) -> float:
        """Return how far two tensors are apart at least, relative to the size of their entries; 0 for the same figures.

        The sums are compared relative to numel * rms, which bounds them by Cauchy and Schwarz; the extremes, which
        carry the rounding of one entry and not its average, count a tenth.
        """
        if (self.numel, self.huge) != (other.numel, other.huge):
            return inf
        mine, theirs = self._figures(), other._figures()
        if not all(map(isfinite, (*mine, *theirs))):
            return 0.0 if list(map(str, mine)) == list(map(str, theirs)) else inf
        squares = max(self.squares, other.squares)
        if squares == 0:
            return 0.0
        size = sqrt(squares / self.numel)
        widest = max(abs(self.least), abs(self.greatest), abs(other.least), abs(other.greatest))
        return max(
            abs(self.total - other.total) / (self.numel * size),
            abs(self.squares - other.squares) / (2 * squares),
            0.1 * abs(self.least - other.least) / widest,
            0.1 * abs(self.greatest - other.greatest) / widest,
        )

    def is_in_another_order(self, other: Fingerprint, rounding: float) -> bool:
        """Return whether entries that are the same by `distance` stand in other places; False where `order` is unknown."""
        if self.order is None or other.order is None or not isfinite(self.order - other.order):
            return False
        return abs(self.order - other.order) > rounding * sqrt(max(self.squares, other.squares))

    def multiple_of(self, other: Fingerprint) -> float | None:
        """Return the factor between `other` and this one, None where there is none, or it is 1 or 0."""
        figures = self._figures(), other._figures()
        if (
            self.is_plain
            or other.is_plain
            or self.huge
            or other.huge
            or not all(map(isfinite, (*figures[0], *figures[1])))
        ):
            return None
        size = sqrt(self.squares / other.squares)
        for times in (size, -size):
            ends = sorted((times * other.least, times * other.greatest))
            made = Fingerprint(other.numel, times * other.total, times**2 * other.squares, ends[0], ends[1])
            if self.distance(made) <= _SAME and abs(times - 1) > _SAME:
                return times
        return None

    def _figures(self) -> tuple[float, float, float, float]:
        return (self.total, self.squares, self.least, self.greatest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One tensor of a run. `op` is the operation that made it, -1 for what was there before: inputs and weights.

    `weights` are names of the model's tensors that it was made of, where it was made of nothing else. `live`: it
    depends on the inputs. `fingerprint` is None where none was taken.
    """

    op: int = -1
    shape: Shape = ()
    fingerprint: Fingerprint | None = None
    weights: tuple[str, ...] = ()
    live: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One ATen operation: which, where, on what. Numbers in `inputs` and `outputs` count the values of the recording.

    `module` is the dotted path of the innermost module that ran, `kind` its class. `settings` are the arguments that
    are no tensors, by the names of the operator's schema. `arguments` names each of `inputs`; `shapes` are those in
    which the operation saw them. `is_view`: it only picks entries.
    """

    name: str
    module: str = ""
    kind: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    inputs: tuple[int, ...] = ()
    shapes: tuple[Shape, ...] = ()
    outputs: tuple[int, ...] = ()
    is_view: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One run: operations in the order in which they ran, values, and which values the outputs are.

    `failure` says what the model raised, where it did; the operations before it are there.
    """

    operations: tuple[Operation, ...]
    values: tuple[Value, ...]
    outputs: tuple[int, ...] = ()
    failure: str = ""

    def users(self) -> Mapping[int, list[int]]:
        """Return by number of a value the operations that use it, each once, in order."""
        found: dict[int, list[int]] = {}
        for at, operation in enumerate(self.operations):
            for number in dict.fromkeys(operation.inputs):
                found.setdefault(number, []).append(at)
        return found


# Kinds of operations: names, as in PyTorch's `native_functions.yaml`, that mean the same computation by whichever kernel.
_FAMILIES = {
    "matrix product": "addmm mm bmm baddbmm matmul linear addmv mv dot einsum _native_multi_head_attention",
    "convolution": "convolution _convolution mkldnn_convolution cudnn_convolution conv2d thnn_conv2d",
    "batch norm": "native_batch_norm batch_norm cudnn_batch_norm _native_batch_norm_legit "
    "_native_batch_norm_legit_no_training _batch_norm_with_update",
    "layer norm": "native_layer_norm layer_norm",
    "group norm": "native_group_norm group_norm",
    "rms norm": "_fused_rms_norm rms_norm",
    "attention": "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math",
    "softmax": "_softmax softmax _log_softmax _safe_softmax",
    "activation": "relu relu_ gelu gelu_ silu silu_ leaky_relu leaky_relu_ elu elu_ celu celu_ selu hardswish hardswish_ "
    "hardsigmoid hardsigmoid_ hardtanh hardtanh_ sigmoid sigmoid_ tanh tanh_ mish mish_ softplus prelu _prelu_kernel "
    "clamp clamp_ clamp_min clamp_min_ threshold threshold_ relu6 log_sigmoid_forward glu",
    "pooling": "max_pool2d_with_indices max_pool2d avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d avg_pool1d "
    "max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d mean",
    "padding": "constant_pad_nd reflection_pad1d reflection_pad2d replication_pad2d replication_pad1d pad",
    "resize": "upsample_bilinear2d upsample_nearest2d upsample_bicubic2d _upsample_bicubic2d_aa _upsample_bilinear2d_aa "
    "upsample_trilinear3d upsample_linear1d upsample_nearest1d",
    "embedding": "embedding",
    "dropout": "native_dropout dropout bernoulli bernoulli_",
    "sum": "add add_ sub sub_ rsub",
    "product": "mul mul_ div div_ neg",
    "pick": "slice select split split_with_sizes unbind chunk narrow diagonal index_select",
    "join": "cat stack",
    "recurrence": "lstm gru rnn_tanh rnn_relu mkldnn_rnn_layer _cudnn_rnn",
}
_BY_NAME = {name: kind for kind, names in _FAMILIES.items() for name in names.split()}


def family(name: str) -> str:
    """Return the kind of an operation; its own name where it is the only one of its kind."""
    return _BY_NAME.get(name, name.rstrip("_"))

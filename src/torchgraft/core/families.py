"""Kinds of ATen operations: names that mean the same computation, by whichever kernel.

The names are those of PyTorch's `native_functions.yaml`.
"""

from __future__ import annotations

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

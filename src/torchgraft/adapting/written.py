"""Values that the program which wrote the file has changed: changed back where the model is known to do so as it runs, else in doubt.

llama.cpp's conversion computes into the weights what models do as they run, so that its own code needn't; the file says which
architecture it holds. Each entry is as in its convert_hf_to_gguf.py, or what that imports.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from torchgraft.adapting.fit import Fit
from torchgraft.core.match import Leaf
from torchgraft.core.plan import Certainty
from torchgraft.ops import Offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What was done to some tensors of some architectures.

    `raised` is what was added to them where the modules of the `classes` add that themselves; of 0 it can't be undone.
    """

    of: Collection[str]
    names: re.Pattern[str]  # of tensors in the file
    text: str
    raised: float = 0.0
    classes: Collection[str] = ()


# Norms of transformers and vLLM that multiply by one more than their weights.
ONE_MORE = frozenset({
    "GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm", "NemotronLayerNorm1P", "Qwen3NextRMSNorm", "Qwen3_5RMSNorm",
    "Qwen3_5MoeRMSNorm",
})  # fmt: skip
CHANGES = (
    Change(of={"gemma", "gemma2", "gemma3", "gemma-embedding", "nemotron", "qwen3next", "qwen35", "qwen35moe"},
           names=re.compile(r"(?!.*ssm_norm).*norm\.weight"), raised=1.0, classes=ONE_MORE,
           text="llama.cpp adds one to the weights of these norms"),
    Change(of={"clip"}, names=re.compile(r"mm\.soft_emb_norm\.weight"), raised=1.0, classes=ONE_MORE,
           text="llama.cpp adds one to the weights of this norm"),
    Change(of={"plamo2", "plamo3"}, names=re.compile(r".*norm\.weight"),
           text="llama.cpp adds to the weights of norms what PLaMo adds to them as it runs"),
    Change(of={"qwen35", "qwen35moe"}, names=re.compile(r".*\.(attn_qkv|attn_gate|ssm_(?!norm)\w+)(\.\w+)?"),
           text="llama.cpp puts the heads of its values in another order"),
    Change(of={"plamo"}, names=re.compile(r".*\.attn_(q|output)\.weight"), text="llama.cpp puts its heads in another order"),
    Change(of={"falcon-h1"},
           names=re.compile(r"(token_embd|output|.*\.(attn_(q|k|v|output)|ffn_(gate|down)|ssm_(in|out)))\.weight"),
           text="llama.cpp multiplies it by what Falcon-H1 multiplies with as it runs"),
    Change(of={"jais"}, names=re.compile(r"(token_embd|output)\.weight"),
           text="llama.cpp multiplies it by the scale that Jais multiplies with as it runs"),
    Change(of={"rwkv6"}, names=re.compile(r".*\.(time_mix_output|channel_mix_value)\.weight"),
           text="llama.cpp divides it by two once for every few layers before it"),
)  # fmt: skip


def change_of(key: str, architecture: str) -> Change | None:
    """Return what was done to a tensor of the file, None where nothing is known to have been."""
    found = (one for one in CHANGES if architecture in one.of) if architecture else ()
    return next((one for one in found if one.names.fullmatch(key)), None)


def as_run(fit: Fit, source: Leaf, target: Leaf, architecture: str) -> Fit:
    """Return the fit with the values that the model wants, or in doubt where it isn't known to want others than the file has."""
    change = change_of(source.keys[0], architecture)
    if change is None or fit.ops is None:
        return fit
    if change.raised and target.kind in change.classes:
        text = f"{change.text}, and {target.kind} does so as it runs: taken off again"
        return replace(fit, ops=(*fit.ops, Offset(-change.raised)), text=_joined(fit.text, text))
    kind = f" of the model's {target.kind}" if target.kind else ""
    text = f"{change.text}, and nothing tells whether the code{kind} does so as it runs"
    return replace(fit, text=_joined(fit.text, text), certainty=Certainty.DOUBT)


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))

"""Rows of queries and keys that rotary positions turn in pairs: two layouts that only names tell."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

META = {
    "block": "layers", "attention": "attention", "parts": ["wq", "wk", "wv", "wo"],
    "norms": ["attention_norm", "ffn_norm"], "mlp": ("feed_forward", ["w1", "w3", "w2"]),
}  # fmt: skip
HUB = {
    "block": "layers", "attention": "self_attn", "parts": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "norms": ["input_layernorm", "post_attention_layernorm"], "mlp": ("mlp", ["gate_proj", "up_proj", "down_proj"]),
}  # fmt: skip
OWN = {
    "block": "blocks", "attention": "attn", "parts": ["q", "k", "v", "o"], "norms": ["norm1", "norm2"],
    "mlp": ("ffn", ["gate", "up", "down"]),
}  # fmt: skip


class Block(nn.Module):
    """A block of a decoder whose attention turns the rows of a head as (i, i + half), or as (2i, 2i + 1)."""

    def __init__(self, names, *, width=24, heads=3, key_heads=3, halves=True, fused=False, says_heads=True):
        super().__init__()
        self.names, self.counts, self.halves, self.fused = names, (heads, key_heads), halves, fused
        kv = width // heads * key_heads
        sizes = [width + 2 * kv, width] if fused else [width, kv, kv, width]
        parts = ["qkv_proj", names["parts"][-1]] if fused else names["parts"]
        inner = nn.ModuleDict({p: nn.Linear(width, n, bias=False) for p, n in zip(parts, sizes, strict=True)})
        if says_heads:
            inner.num_heads = heads
        self.add_module(names["attention"], inner)
        owner, layers = names["mlp"]
        shapes = [(width, 40), (width, 40), (40, width)]
        made = {name: nn.Linear(*io, bias=False) for name, io in zip(layers, shapes, strict=True)}
        self.add_module(owner, nn.ModuleDict(made))
        for norm in names["norms"]:
            self.add_module(norm, nn.RMSNorm(width))

    def forward(self, x):
        inner, (gate, up, down) = self._modules[self.names["attention"]], self._layers()
        heads, key_heads = self.counts
        first, second = (self._modules[name] for name in self.names["norms"])
        y, parts = first(x), list(inner.values())
        sizes = [len(x[0, 0]), *[len(x[0, 0]) // heads * key_heads] * 2]
        q, k, v = parts[0](y).split(sizes, -1) if self.fused else (part(y) for part in parts[:3])
        q, k, v = (t.reshape(*t.shape[:2], -1, x.shape[-1] // heads).transpose(1, 2) for t in (q, k, v))
        k, v = (t.repeat_interleave(heads // key_heads, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(self._turned(q), self._turned(k), v, is_causal=True)
        x = x + parts[-1](y.transpose(1, 2).flatten(2))
        y = second(x)
        return x + down(F.silu(gate(y)) * up(y))

    def _layers(self):
        owner, layers = self.names["mlp"]
        return [self._modules[owner][name] for name in layers]

    def _turned(self, x):
        half = x.shape[-1] // 2
        angle = torch.outer(torch.arange(x.shape[-2]).float(), 10.0 ** -torch.arange(half).float())
        cos, sin = angle.cos(), angle.sin()
        a, b = (x[..., :half], x[..., half:]) if self.halves else (x[..., ::2], x[..., 1::2])
        turned = a * cos - b * sin, a * sin + b * cos
        return torch.cat(turned, -1) if self.halves else torch.stack(turned, -1).flatten(-2)


class Net(nn.Module):
    def __init__(self, names, **how):
        super().__init__()
        self.add_module(names["block"], nn.Sequential(*(Block(names, **how) for _ in range(2))))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, x):
        return next(self.children())(x)


def steps_of(report, last):
    return [step for step in report.plan.steps if step.slot.name.endswith(f"{last}.weight")]


@pytest.mark.parametrize(("heads", "key_heads"), [(3, 3), (3, 1), (6, 2)])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_both_layouts_give_the_same_outputs(heads, key_heads, fused, back):
    sizes = {"heads": heads, "key_heads": key_heads}
    meta, hub = Net(META, halves=False, **sizes), Net(HUB, fused=fused, **sizes)
    source, target = (hub, meta) if back else (meta, hub)
    report = tg.load(target, source.state_dict())
    x = torch.randn(2, 5, 24)
    assert torch.allclose(source(x), target(x), atol=1e-4)
    changed = steps_of(report, "wk" if back else "qkv_proj" if fused else "k_proj")
    assert [step.certainty for step in changed] == [Certainty.LIKELY] * 2
    assert all("as in Meta's code of Llama" in step.why.text for step in changed)


class Adapted(nn.Module):
    """A layer with a low-rank adapter beside it that adds nothing yet."""

    def __init__(self, layer):
        super().__init__()
        self.inner, self.down = layer, nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.inner(x) + self.up(self.down(x))


@pytest.mark.parametrize("wrapped", [["q_proj"], ["k_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"]])
def test_layers_with_adapters_around_them_pair_rows_as_those_without(wrapped):
    meta, hub = Net(META, halves=False), Net(HUB)
    for block in hub.layers:
        for name in wrapped:
            block.self_attn[name] = Adapted(block.self_attn[name])
    tg.load(hub, meta.state_dict())
    x = torch.randn(2, 5, 24)
    assert torch.allclose(meta(x), hub(x), atol=1e-4)


def test_factors_of_adapters_turn_with_the_rows_of_their_projections():
    meta, hub = Net(META, halves=False, key_heads=1), Net(HUB, key_heads=1)
    for net, attention, names in ((meta, "attention", ("wq", "wk")), (hub, "self_attn", ("q_proj", "k_proj"))):
        for block in next(net.children()):
            for name in names:
                layers = getattr(block, attention)
                layers[name] = Adapted(layers[name])
                nn.init.normal_(layers[name].up.weight)
    tg.load(hub, meta.state_dict())
    x = torch.randn(2, 5, 24)
    assert torch.allclose(meta(x), hub(x), atol=1e-4)


def test_adapters_alone_stay_certain_under_their_own_names():
    target = Net(HUB)
    target.layers[0].self_attn["q_proj"] = Adapted(target.layers[0].self_attn["q_proj"])
    name = "layers.0.self_attn.q_proj.{}.weight"
    plan = tg.plan(
        target, {f"model.{name.format(part)}": target.get_parameter(name.format(part)) for part in ("down", "up")}
    )
    assert {step.certainty for step in plan.copied} == {Certainty.CERTAIN}


def test_layers_that_got_adapters_stay_certain_where_names_agree():
    source, target = Net(HUB), Net(HUB)
    target.layers[0].self_attn["q_proj"] = Adapted(target.layers[0].self_attn["q_proj"])
    report = tg.load(target, source.state_dict())
    assert {step.certainty for step in report.plan.copied} == {Certainty.CERTAIN}


def test_the_same_layout_is_copied_and_stays_certain():
    source, target = Net(HUB), Net(HUB)
    report = tg.load(target, {f"decoder.{name}": value for name, value in source.state_dict().items()})
    assert torch.equal(target.layers[0].self_attn["k_proj"].weight, source.layers[0].self_attn["k_proj"].weight)
    assert report.plan.steps[0].certainty is Certainty.CERTAIN


def test_where_one_side_says_nothing_queries_and_keys_are_no_more_than_likely():
    report = tg.load(Net(OWN), Net(META).state_dict(), on_doubt="take")
    assert {step.certainty for last in "qk" for step in steps_of(report, f"attn.{last}")} == {Certainty.LIKELY}
    assert {step.certainty for step in steps_of(report, "attn.v")} == {Certainty.CERTAIN}


def test_without_the_number_of_heads_it_is_doubt_that_says_so():
    target = Net(HUB, says_heads=False)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(tg.PlanRefusedError, match="number of heads isn't known"):
        tg.load(target, Net(META, halves=False).state_dict())
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize("which", [slice(None), slice(2), slice(4, 6), slice(6, None)])
def test_renaming_does_not_hide_how_the_files_own_names_pair_rows(which):
    inside = [(f"attention.{a}", f"self_attn.{b}") for a, b in zip(META["parts"], HUB["parts"], strict=True)]
    norms = list(zip(META["norms"], HUB["norms"], strict=True))
    gated = [(f"feed_forward.{a}", f"mlp.{b}") for a, b in zip(META["mlp"][1], HUB["mlp"][1], strict=True)]
    rules = {f"layers.{{i}}.{a}": f"layers.{{i}}.{b}" for a, b in [*inside, *norms, *gated][which]}
    source, target = Net(META, halves=False), Net(HUB)
    report = tg.load(target, source.state_dict(), rename=rules)
    x = torch.randn(2, 5, 24)
    assert torch.allclose(source(x), target(x), atol=1e-4)
    assert "rows are copied as they are" not in str(report)


def test_rows_of_a_fused_tensor_that_cannot_be_cut_are_not_reordered():
    source, target = Net(META, halves=False, key_heads=1), Net(HUB, fused=True, key_heads=1)
    saved = {k: v for k, v in source.state_dict().items() if ".wk." not in k and ".wv." not in k}
    fused = {k: torch.cat([v, v[:16]]) if ".wq." in k else v for k, v in saved.items()}
    fused = {k.replace("attention.wq", "attention.wqkv"): v for k, v in fused.items()} | {
        "output.weight": torch.ones(2, 24)
    }
    rename = {"layers.{i}.attention.wqkv": "layers.{i}.self_attn.qkv_proj"}
    with pytest.raises(tg.PlanRefusedError, match="which rows are queries and keys isn't known"):
        tg.load(target, fused, rename=rename)


@pytest.mark.parametrize("back", [False, True])
def test_rows_cut_from_a_fused_tensor_of_unknown_pairs_are_in_doubt(back):
    own, hub = Net(OWN, fused=True), Net(HUB)
    source, target = (hub, own) if back else (own, hub)
    with pytest.raises(tg.PlanRefusedError, match="nothing tells how those of the fused tensor do"):
        tg.load(target, source.state_dict())


def test_code_that_calls_its_fused_rows_wqkv_pairs_them_in_both_ways():
    class Attention(nn.Module):
        def __init__(self, **parts):
            super().__init__()
            for name, width in parts.items():
                self.add_module(name, nn.Linear(24, width))

    source = nn.ModuleDict({"attn": Attention(wqkv=72, wo=24)})
    target = nn.ModuleDict({"attn": Attention(q_proj=24, k_proj=24, v_proj=24, o_proj=24)})
    plan = tg.plan(target, source.state_dict())
    assert {plan.by_name[f"attn.{part}_proj.weight"].certainty for part in "qk"} == {Certainty.LIKELY}
    assert any(objection.kind == "rotary" for objection in plan.warnings)


CPP = {
    "layers.": "blk.", "attention.wq": "attn_q", "attention.wk": "attn_k", "attention.wv": "attn_v", "attention.wo": "attn_output",
    "attention_norm": "attn_norm", "feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up", "feed_forward.w2": "ffn_down",
}  # fmt: skip


def as_llama_cpp(net, path, **facts):
    state = {}
    for key, value in net.state_dict().items():
        name = key
        for old, new in CPP.items():
            name = name.replace(old, new)
        state[name] = value
    save_file(state, path, metadata=facts)
    return path


@pytest.mark.parametrize(("architecture", "halves"), [("llama", False), ("qwen2", True)])
def test_llama_cpp_puts_rows_beside_each_other_for_some_architectures(tmp_path, architecture, halves):
    source, target = Net(META, halves=halves, key_heads=1), Net(HUB, key_heads=1)
    path = as_llama_cpp(source, tmp_path / "m.safetensors", **{"general.architecture": architecture})
    tg.load(target, path)
    x = torch.randn(2, 5, 24)
    assert torch.allclose(source(x), target(x), atol=1e-4)


def test_rows_of_llama_cpp_are_in_doubt_where_the_architecture_is_not_said(tmp_path):
    path = as_llama_cpp(Net(META, halves=False), tmp_path / "m.safetensors")
    with pytest.raises(tg.PlanRefusedError, match="which one this is isn't known"):
        tg.load(Net(HUB), path)

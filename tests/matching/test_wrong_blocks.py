"""A leftover that has the same words under another number is no counterpart."""

import torch
from torch import nn

import torchgraft as tg


def stage(width, out, *, wide):
    parts = {"conv1": nn.Conv2d(width, out, 1 if wide else 3), "bn1": nn.BatchNorm2d(out)}
    if wide:
        parts |= {
            "conv3": nn.Conv2d(out, 4 * out, 1),
            "down": nn.Sequential(nn.Conv2d(width, 4 * out, 1), nn.BatchNorm2d(4 * out)),
        }
    elif width != out:
        parts["down"] = nn.Sequential(nn.Conv2d(width, out, 1), nn.BatchNorm2d(out))
    return nn.ModuleDict(parts)


def net(*, wide):
    widths, grow = [4, 8, 16], 4 if wide else 1
    inner = [4, *(grow * w for w in widths)]
    return nn.ModuleDict({f"layer{n}": nn.Sequential(stage(inner[n - 1], widths[n - 1], wide=wide)) for n in (1, 2, 3)})


def test_norms_of_equal_width_in_other_stages_are_left_alone():
    plan = tg.plan(net(wide=False), net(wide=True), on_doubt="skip", min_coverage=0.0)
    moved = [s.slot.name for s in plan.steps if s.feeds and s.feeds[0].key.split(".")[0] != s.slot.name.split(".")[0]]
    assert moved == []


def test_short_words_for_encoder_and_decoder_are_heeded_where_the_two_are_exchanged():
    def part(words):
        return nn.ModuleDict({"embedding": nn.Embedding(words, 8), "gru": nn.GRU(8, 8)})

    target = nn.ModuleDict({"decoder": part(9), "encoder": part(5)})
    saved = {}
    for short, name in (("enc", "encoder"), ("dec", "decoder")):
        saved[f"{short}_emb"] = torch.randn(target[name]["embedding"].weight.shape)
        for kind in ("w_ih", "w_hh", "b_ih", "b_hh"):
            whole = f"{kind.replace('w_', 'weight_').replace('b_', 'bias_')}_l0"
            saved[f"{short}_{kind}"] = torch.randn(getattr(target[name]["gru"], whole).shape)
    tg.load(target, saved)
    assert torch.equal(target["decoder"]["gru"].weight_ih_l0, saved["dec_w_ih"])
    assert torch.equal(target["encoder"]["gru"].bias_hh_l0, saved["enc_b_hh"])
    assert torch.equal(target["encoder"]["embedding"].weight, saved["enc_emb"])

"""Heads of one task in the file, and of another in the model: what they have in common by name is another thing."""

from __future__ import annotations

import pytest
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH = 8


def layers_of_encoder() -> nn.Module:
    return nn.ModuleList(
        nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "fc1": nn.Linear(WIDTH, 20), "fc2": nn.Linear(20, WIDTH)})
        for _ in range(3)
    )


def net(**heads: nn.Module) -> nn.Module:
    return filled(nn.ModuleDict({"words": nn.Embedding(30, WIDTH), "layers": layers_of_encoder(), **heads}))


def of_sequences() -> nn.Module:
    return net(classifier=nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH), "out_proj": nn.Linear(WIDTH, 2)}))


def of_tokens() -> nn.Module:
    return net(classifier=nn.Linear(WIDTH, 2))


def of_words() -> nn.Module:
    part = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH), "norm": nn.LayerNorm(WIDTH)})
    return net(cls=nn.ModuleDict({"transform": part, "decoder": nn.Linear(WIDTH, 30)}))


def of_answers() -> nn.Module:
    part = nn.ModuleDict({"dense": nn.Linear(20, WIDTH), "norm": nn.LayerNorm(WIDTH)})
    return net(qa=nn.ModuleDict({"output": part, "scores": nn.Linear(WIDTH, 2)}))


@pytest.mark.parametrize(
    ("file", "model"),
    [
        (of_sequences(), of_tokens()),
        (of_tokens(), of_sequences()),
        (of_words(), of_answers()),
        (of_answers(), of_words()),
    ],
)
def test_of_a_head_of_another_task_nothing_is_used_without_a_word(file: nn.Module, model: nn.Module) -> None:
    plan = tg.plan(model, file.state_dict())
    taken = {slot: step for slot, step in plan.by_slot.items() if not slot.startswith(("words", "layers"))}
    assert all(step.certainty is Certainty.DOUBT or not step.feeds for step in taken.values())
    assert all(step.feeds for slot, step in plan.by_slot.items() if slot not in taken)


def test_a_dropout_or_an_adapter_is_no_other_task() -> None:
    low, high = nn.Linear(WIDTH, 3, bias=False), nn.Linear(3, 2, bias=False)
    wrapped = nn.ModuleDict({"base_layer": nn.Linear(WIDTH, 2), "lora_A": low, "lora_B": high})
    plan = tg.load(net(classifier=wrapped), of_tokens().state_dict()).plan
    assert plan.by_slot["classifier.base_layer.weight"].feeds


def masked(*, flat: bool = False, head: str = "lm_head") -> nn.Module:
    """Return a masked language model: an encoder, and a head that ends in the words."""
    layers = {
        "transform": nn.Linear(WIDTH, WIDTH),
        "layer_norm": nn.LayerNorm(WIDTH),
        "projector": nn.Linear(WIDTH, 30),
    }
    return net(**{f"vocab_{name}": layer for name, layer in layers.items()} if flat else {head: nn.ModuleDict(layers)})


def classifying(*, flat: bool = False, hidden: str = "transform") -> nn.Module:
    """Return a model that classifies, with a hidden layer in its head that is called as one of the other's, or otherwise."""
    if flat:
        return net(pre_classifier=nn.Linear(WIDTH, WIDTH), classifier=nn.Linear(WIDTH, 2))
    return net(classifier=nn.ModuleDict({hidden: nn.Linear(WIDTH, WIDTH), "out_proj": nn.Linear(WIDTH, 2)}))


def pooling() -> nn.Module:
    return net(pooler=nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)}))


@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize(
    ("file", "model"),
    [
        (masked(), classifying()),
        (masked(), classifying(hidden="dense")),
        (masked(flat=True), classifying(flat=True)),
        (masked(), pooling()),
        (pooling(), masked()),
        (classifying(), pooling()),
        (pooling(), classifying()),
    ],
)
def test_a_head_that_was_replaced_stays_fresh_and_is_no_reason_to_refuse(
    file: nn.Module, model: nn.Module, *, is_sorted: bool
) -> None:
    state = file.state_dict()
    plan = tg.plan(model, dict(sorted(state.items())) if is_sorted else state)
    assert not plan.refusals
    assert all(bool(step.feeds) == slot.startswith(("words", "layers")) for slot, step in plan.by_slot.items())
    assert any(one.similar for one in plan.unused)


def test_a_head_with_another_name_and_the_same_layers_is_asked_about_or_taken() -> None:
    plan = tg.plan(masked(head="predictions"), masked().state_dict())
    assert all(step.feeds for step in plan.by_slot.values())


def test_what_the_caller_says_of_a_head_is_done_whatever_else_is_in_it() -> None:
    plan = tg.plan(classifying(hidden="dense"), masked().state_dict(), rename={"lm_head.transform": "classifier.dense"})
    assert not plan.refusals
    assert plan.by_slot["classifier.dense.weight"].feeds[0].key == "lm_head.transform.weight"


class Sequences(nn.Module):
    """An encoder and a decoder that share a table, which the model itself has, too."""

    def __init__(self, *, encoder: bool) -> None:
        super().__init__()
        if encoder:
            self.shared = nn.Embedding(30, WIDTH)
            self.encoder = nn.ModuleDict({"embed_tokens": self.shared, "layers": layers_of_encoder()})
        self.decoder = nn.ModuleDict({"embed_tokens": nn.Embedding(30, WIDTH), "layers": layers_of_encoder()})
        if encoder:
            self.decoder["embed_tokens"] = self.shared


def test_a_decoder_alone_fills_a_table_that_is_tied_by_the_name_that_the_table_has_there() -> None:
    file = filled(nn.ModuleDict({"model": Sequences(encoder=False)}))
    plan = tg.plan(filled(Sequences(encoder=True)), file.state_dict())
    assert not plan.refusals
    assert plan.by_slot["shared.weight"].feeds[0].key == "model.decoder.embed_tokens.weight"


def answering(head: str, *, layers: int = 2) -> nn.Module:
    """Return a model with a head of several layers."""
    dense = {f"dense{n}": nn.Linear(WIDTH, WIDTH) for n in range(layers - 1)}
    return net(**{head: nn.ModuleDict({**dense, "out_proj": nn.Linear(WIDTH, 2)})})


def test_heads_of_the_same_few_layers_are_asked_about_where_no_word_of_their_names_agrees() -> None:
    """Two layers of the same names were taken as certain, where one is asked about."""
    for layers in (1, 2, 3):
        plan = tg.plan(answering("classifier", layers=layers), answering("qa_outputs", layers=layers).state_dict())
        head = [step for slot, step in plan.by_slot.items() if slot.startswith("classifier")]
        assert all(step.certainty is Certainty.DOUBT and step.feeds for step in head), layers
    for ours, theirs in (("lm_head", "head"), ("cls_head", "classification_head")):
        assert not tg.plan(answering(theirs), answering(ours).state_dict()).refusals
    assert not tg.plan(answering("neck", layers=4), answering("mixer", layers=4).state_dict()).refusals


def test_a_part_of_two_layers_is_not_asked_about_where_it_leaves_what_is_around_the_rest() -> None:
    """The names that share no word are not its own: all of the file, and the layers of the model, are in modules called so."""

    def projecting() -> nn.Module:
        return nn.ModuleDict({"norm": nn.LayerNorm(20), "dense": nn.Linear(20, WIDTH)})

    file = nn.ModuleDict({"features": projecting(), "encoder": nn.ModuleDict({"layers": layers_of_encoder()})})
    inner = nn.ModuleDict({"features": projecting(), "transformer": nn.ModuleDict({"layers": layers_of_encoder()})})
    plan = tg.plan(filled(nn.ModuleDict({"encoder": inner})), filled(nn.ModuleDict({"speech": file})).state_dict())
    assert not plan.refusals
    assert all(step.feeds for step in plan.by_slot.values())


@pytest.mark.parametrize("is_sorted", [False, True])
def test_a_classifier_is_not_the_last_layer_of_a_head_that_has_others(*, is_sorted: bool) -> None:
    """It was taken as certain, as the one name ends in the other: nothing else of the file gets or loses that prefix."""

    def parted(**heads: nn.Module) -> nn.Module:
        return filled(nn.ModuleDict({"backbone": net(), **heads}))

    layers = {"linear": nn.Linear(WIDTH, WIDTH), "fuse": nn.Linear(2 * WIDTH, WIDTH), "classifier": nn.Linear(WIDTH, 2)}
    pixels, images = parted(decode_head=nn.ModuleDict(layers)), parted(classifier=nn.Linear(WIDTH, 2))
    for file, model in ((pixels, images), (images, pixels)):
        state = file.state_dict()
        plan = tg.plan(model, dict(sorted(state.items())) if is_sorted else state)
        assert not plan.refusals
        assert all(bool(step.feeds) == slot.startswith("backbone") for slot, step in plan.by_slot.items())
    alone = parted(head=nn.ModuleDict({"classifier": nn.Linear(WIDTH, 2)}))
    assert all(step.feeds for step in tg.plan(alone, images.state_dict()).by_slot.values())


def test_a_layer_that_leaves_a_module_called_as_it_and_more_is_asked_about() -> None:
    """ALBERT's `sop_classifier.classifier`, which tells the order of sentences, was taken for a classifier of two classes, as certain."""

    def headed(**heads: nn.Module) -> nn.Module:
        return filled(nn.ModuleDict({"backbone": net(), **heads}))

    plain = headed(classifier=nn.Linear(WIDTH, 2))
    order = headed(sop_classifier=nn.ModuleDict({"classifier": nn.Linear(WIDTH, 2)}))
    for file, model in ((order, plain), (plain, order)):
        doubtful = tg.plan(model, file.state_dict()).doubtful
        assert [step.slot.owner.rpartition(".")[2] for step in doubtful] == ["classifier"] * 2
    assert not tg.plan(plain, headed(head=nn.ModuleDict({"classifier": nn.Linear(WIDTH, 2)})).state_dict()).doubtful

import pytest

from torchgraft.thinning.places import UnevenError, places_of
from torchgraft.thinning.runs import Runs, sizes_of, tree_of
from torchgraft.thinning.words import Words, template_of


def placed(pattern, count=20):
    names = [f"{pattern.format(n)}.{part}.weight" for n in range(count) for part in ("q", "k")]
    tree = tree_of(dict.fromkeys([*names, "top.weight"], 0))
    runs = Runs(tree)
    return places_of(tree, runs, sizes_of(runs.lengths()))


FILE, MODEL = placed("h.{}"), placed("net.blocks.{}")
OWN = {"net.blocks.2.q.weight": MODEL["net.blocks.2.q.weight"], "h.2.k.weight": FILE["h.2.k.weight"]}


@pytest.fixture
def words():
    return Words((FILE, MODEL), OWN)


@pytest.mark.parametrize(
    ("text", "of_11"),
    [
        ("same name", "same name"),
        ("names alike (71%)", "names alike (71%)"),
        ("h.2 read as net.blocks.2; same name", "h.11 read as net.blocks.11; same name"),
        ("h.2.k is net.blocks.2.q, not h.8.k", "h.11.k is net.blocks.11.q, not h.19.k"),  # the last of those that stay
        ("not top.weight, nor h.1.", "not top.weight, nor h.1."),
        ("blocks.2 alone", "blocks.11 alone"),
        ("h.2.k.values, which no side has", "h.11.k.values, which no side has"),
        ("model.blocks.2.q of another prefix", "model.blocks.11.q of another prefix"),
    ],
)
def test_what_is_said_of_one_member_is_said_of_another(words, text, of_11):
    said = words.template(text)
    assert said.of((2,)) == text.replace("h.8", "h.19")
    assert said.of((11,)) == of_11


def test_a_number_that_names_nothing_is_not_guessed_at(words):
    with pytest.raises(UnevenError, match=r"other\.5\.q means nothing"):
        words.template("rather other.5.q")


def test_one_name_of_two_things_is_not_guessed_at():
    file = placed("blocks.{}", 30)  # another list of the name that the model's has
    model = placed("blocks.{}")
    words = Words((file, model), {"blocks.2.q.weight": model["blocks.2.q.weight"]})
    with pytest.raises(UnevenError, match=r"blocks\.2 means several"):
        words.template("blocks.2 agrees")


def test_the_numbers_of_each_side_are_its_own():
    model = FILE
    names = [f"b.{n}.w" for n in range(1, 21)]
    tree = tree_of(dict.fromkeys(names, 0))
    runs = Runs(tree)
    file = places_of(tree, runs, sizes_of(runs.lengths()))
    words = Words((file, model), {"b.3.w": file["b.3.w"], "h.2.q.weight": model["h.2.q.weight"]})
    assert words.template("b.3 is h.2").of((10,)) == "b.11 is h.10"


def test_a_place_is_said_of_all():
    assert template_of(MODEL["net.blocks.2.q.weight"]).of((17,)) == "net.blocks.17.q.weight"
    assert template_of(MODEL["top.weight"]).of(()) == "top.weight"

"""Tables of positions: which axis of what a row is decides how it is resized; what can't be known stays and is said."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty
from torchgraft.ops import CropKernel, PadKernel, Resample1d, ResampleBiasTable, ResampleGrid, ResamplePatch


class Window(nn.Module):
    """Attention with one table of relative positions, as Swin and BEiT have it."""

    def __init__(self, rows, *, name="relative_position_bias_table", index=None, coords=None):
        super().__init__()
        setattr(self, name, nn.Parameter(torch.randn(rows, 2)))
        if index is not None:
            self.register_buffer("relative_position_index", torch.arange(index * index).reshape(index, index))
        if coords is not None:
            self.register_buffer("relative_coords_table", torch.rand(1, coords, coords, 2))
        self.qkv = nn.Linear(4, 12)


def offsets(height, width):
    return (2 * height - 1) * (2 * width - 1)


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize(
    ("old", "new", "sure"), [(4, 6, Certainty.CERTAIN), (7, 8, Certainty.LIKELY), (5, 4, Certainty.LIKELY)]
)
def test_square_windows_are_resampled(extra, old, new, sure):
    file, model = Window(offsets(old, old) + extra), Window(offsets(new, new) + extra)
    report = tg.load(model, file)
    step = report.plan.by_name["relative_position_bias_table"]
    op = ResampleBiasTable((old, old), (new, new), extra)
    assert torch.equal(model.relative_position_bias_table, op.run([file.relative_position_bias_table.detach()]))
    assert step.certainty is sure, "225 rows (8x8) could also be those of a window of 13 by 5; 169 only of 7 by 7"


def test_windows_that_are_not_square_stay_unless_they_are_stated():
    file, model = Window(offsets(4, 3)), Window(offsets(6, 4))
    before = model.relative_position_bias_table.detach().clone()
    report = tg.load(model, file)
    assert torch.equal(model.relative_position_bias_table, before)
    assert "no square windows: grids={'*relative_position_bias_table': (" in str(report)
    tg.load(model, file, grids={"relative_position_bias_table": ((4, 3), (6, 4))})
    op = ResampleBiasTable((4, 3), (6, 4), 0)
    assert torch.equal(model.relative_position_bias_table, op.run([file.relative_position_bias_table.detach()]))
    with pytest.raises(tg.UsageError, match="windows of 4x4 and 6x4 don't make tables of 35 and 77 rows"):
        tg.load(model, file, grids={"*relative_position_bias_table": ((4, 4), (6, 4))})


def test_tables_of_one_axis_are_resampled_along_it():
    file, model = Window(9, name="rel_pos_h"), Window(15, name="rel_pos_h")
    tg.load(model, file)
    assert torch.equal(model.rel_pos_h, Resample1d(15).run([file.rel_pos_h.detach()]))


def test_buckets_of_distances_are_no_positions():
    file, model = Window(31, name="relative_attention_bias"), Window(33, name="relative_attention_bias")
    before = model.relative_attention_bias.detach().clone()
    tg.load(model, file)
    assert torch.equal(model.relative_attention_bias, before)


def test_what_follows_from_the_window_is_nothing_to_hear_about():
    file, model = Window(49, index=16, coords=7), Window(121, index=36, coords=11)
    before = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("relative_coords") or "index" in k}
    report = tg.load(model, file)
    assert not report.plan.fresh
    assert not [u for u in report.plan.unused if not u.quiet]
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize("window", [4, 6])
def test_one_table_for_all_blocks_goes_to_each_also_under_another_window(window):
    file = {f"blocks.{n}.qkv.{role}": value for n in range(3) for role, value in nn.Linear(4, 12).state_dict().items()}
    file["rel_pos_bias.relative_position_bias_table"] = torch.randn(offsets(4, 4), 2)
    model = nn.ModuleDict({"blocks": nn.ModuleList([Window(offsets(window, window)) for _ in range(3)])})
    tg.load(model, file)
    table = file["rel_pos_bias.relative_position_bias_table"]
    wanted = table if window == 4 else ResampleBiasTable((4, 4), (6, 6), 0).run([table])
    assert all(torch.equal(block.relative_position_bias_table, wanted) for block in model["blocks"])


@pytest.mark.parametrize(
    ("rule", "old", "new", "op"),
    [
        ("resample", 8, 6, ResamplePatch((6, 6))),
        ("pad", 3, 5, PadKernel(source=(3, 3), target=(5, 5))),
        ("crop", 5, 3, CropKernel(source=(5, 5), target=(3, 3))),
    ],
)
def test_kernels_of_another_size_are_resized_on_request_only(rule, old, new, op):
    file, model = nn.Conv2d(3, 4, old), nn.Conv2d(3, 4, new)
    before = model.weight.detach().clone()
    report = tg.load(model, file, min_coverage=0.0)
    assert torch.equal(model.weight, before)
    assert (
        f"kernel {old}x{old} in the file, {new}x{new} in the model; kernels={{'NAME': 'resample'}} resizes it"
        in str(report)
    )
    tg.load(model, file, kernels={"weight": rule})
    assert torch.equal(model.weight, op.run([file.weight.detach()]))
    with pytest.raises(tg.UsageError, match="use one of 'resample'"):
        tg.load(model, file, kernels={"weight": "stretch"})


def test_another_rotary_convention_is_said():
    file = {f"attn.w{part}.weight": torch.randn(4, 4) for part in "qkvo"}
    model = nn.ModuleDict({"attn": nn.ModuleDict({f"{part}_proj": nn.Linear(4, 4, bias=False) for part in "qkvo"})})
    report = tg.load(model, file, on_doubt="take")
    assert [o.names for o in report.plan.warnings if o.kind == "rotary"] == [
        ("attn.q_proj.weight", "attn.k_proj.weight")
    ]
    assert not [o for o in tg.load(model, model.state_dict()).plan.warnings if o.kind == "rotary"]


class Image(nn.Module):
    """A table of positions over a grid of patches, with `prefix` rows before them that no name explains."""

    def __init__(self, side, *, prefix=0):
        super().__init__()
        self.patch = nn.Conv2d(3, 4, 8, stride=8)
        self.pos_embed = nn.Parameter(torch.randn(1, prefix + side * side, 4))


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_rows_before_a_square_grid_are_kept_as_they_are(prefix):
    file, model = Image(4, prefix=prefix), Image(6, prefix=prefix)
    report = tg.load(model, file)
    assert torch.equal(model.pos_embed[:, :prefix], file.pos_embed[:, :prefix])
    grid = ResampleGrid((4, 4), (6, 6)).run([file.pos_embed.detach()[:, prefix:]])
    assert torch.equal(model.pos_embed[:, prefix:], grid)
    assert report.plan.by_name["pos_embed"].certainty is Certainty.CERTAIN


def test_stated_grids_that_are_larger_than_the_tables_are_refused():
    said = "5x5 and 6x6 positions are more than the table has: 16 rows in the file, 36 in the model"
    with pytest.raises(tg.UsageError, match=said):
        tg.plan(Image(6), Image(4), grids={"pos_embed": ((5, 5), (6, 6))})


SIZES = [
    {"grid_size": (3, 5)},
    {"img_size": (24, 40), "patch_size": (8, 8)},
    {"image_size": [27, 41], "patch_size": 8},
]


@pytest.mark.parametrize("sizes", SIZES, ids="-".join)
@pytest.mark.parametrize("prefix", [0, 1])
def test_a_grid_that_a_module_of_the_model_says_need_not_be_square(sizes, prefix):
    model = Image(1, prefix=prefix)
    model.pos_embed = nn.Parameter(torch.zeros(1, prefix + 15, 4))
    vars(model.patch).update(sizes)
    file = Image(4, prefix=prefix)
    tg.load(model, file)
    wanted = ResampleGrid((4, 4), (3, 5), prefix, tuple(range(prefix))).run([file.pos_embed.detach()])
    assert torch.equal(model.pos_embed, wanted)


@pytest.mark.parametrize("said", [(4, 5), (0, 15), ("3", "5"), 15, None, (3, 5, 1)])
def test_a_grid_that_is_said_and_does_not_make_the_table_tells_nothing(said):
    model = Image(1)
    model.pos_embed = nn.Parameter(torch.zeros(1, 15, 4))
    model.patch.grid_size = said
    with pytest.raises(tg.PlanRefusedError, match=r"grids={'pos_embed': \(\(4, 4\), \(height, width\)\)} states both"):
        tg.load(model, Image(4))


def test_a_square_that_leaves_no_row_for_a_token_that_is_there_is_likely_only():
    model, file = Image(4, prefix=1), Image(3)
    file.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
    assert tg.plan(model, file).by_name["pos_embed"].certainty.value == "likely"


@pytest.mark.parametrize(
    ("library", "how"),
    [
        ("timm", {"antialias": True}),
        ("transformers", {"antialias": False}),
        ("torchvision", {"antialias": False, "align_corners": True}),
    ],
)
def test_a_grid_is_resampled_as_the_library_of_the_model_does_it(library, how):
    made = type("Image", (Image,), {"__module__": f"{library}.models"})
    file, model = Image(4), made(3)
    tg.load(model, file)
    wanted = ResampleGrid((4, 4), (3, 3), **how).run([file.pos_embed.detach()])
    assert torch.equal(model.pos_embed, wanted)


class Registered(nn.Module):
    """Patches behind a class token and registers; only the rows that `positions` names are in the table."""

    def __init__(self, positions):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 4, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 4))
        self.reg_token = nn.Parameter(torch.randn(1, 4, 4))
        self.pos_embed = nn.Parameter(torch.randn(1, positions, 4))


@pytest.mark.parametrize("before", [0, 1, 5])
def test_registers_may_stand_behind_the_positions(before):
    file, model = Registered(before + 16), Registered(before + 36)
    tg.load(model, file)
    assert torch.equal(model.pos_embed[:, :before], file.pos_embed[:, :before])
    grid = ResampleGrid((4, 4), (6, 6)).run([file.pos_embed.detach()[:, before:]])
    assert torch.equal(model.pos_embed[:, before:], grid)


class Tokened(Image):
    """A grid behind a class token that its name tells."""

    def __init__(self, height, width, *, counted=True):
        super().__init__(1)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.randn(1, counted + height * width, 4))


@pytest.mark.parametrize(("old", "new"), [((4, 6), (7, 7)), ((7, 7), (4, 6)), ((14, 16), (3, 3))])
@pytest.mark.parametrize("named", [True, False])
def test_rows_that_are_a_square_with_the_token_are_doubt_where_the_other_side_has_a_row_for_it(old, new, named):
    """25 rows are 5x5, or 4x6 behind a class token."""
    file, model = Tokened(*old), Tokened(*new)
    for side in () if named else (file, model):
        del side.cls_token
    with pytest.raises(
        tg.PlanRefusedError, match=r"unless the grid of one is no square: grids={'pos_embed': \(.*\(height, width\)"
    ):
        tg.load(model, file.state_dict())
    tg.load(model, file.state_dict(), grids={"pos_embed": (old, new)})
    assert torch.equal(model.pos_embed[:, :1], file.pos_embed[:, :1])


@pytest.mark.parametrize(("old", "new"), [((4, 6), (7, 7)), ((4, 6), (6, 4)), ((4, 6), (2, 3))])
def test_the_grid_that_the_source_s_model_says_is_used(old, new):
    file, model = Tokened(*old), Tokened(*new)
    file.patch.grid_size, model.patch.grid_size = old, new
    tg.load(model, file.state_dict(), source_model=file)
    assert torch.equal(model.pos_embed, ResampleGrid(old, new, 1, (0,)).run([file.pos_embed.detach()]))


class Text(nn.Module):
    """Words and their positions, which may begin behind two rows for padding."""

    def __init__(self, positions):
        super().__init__()
        self.word_embeddings, self.position_embeddings = nn.Embedding(11, 4), nn.Embedding(positions, 4)
        self.fc = nn.Linear(4, 4)


@pytest.mark.parametrize(("old", "new"), [(18, 16), (16, 18)])
def test_two_rows_more_may_be_those_that_stand_before_the_first_position(old, new):
    file, model = Text(old), Text(new)
    with pytest.raises(tg.PlanRefusedError, match="the first two rows of the longer one may be no positions"):
        tg.load(model, file)
    names = [range(18 - n, 18) for n in (old, new)]
    tg.load(model, file, axis_names={"position_embeddings": tg.AxisNames(*names)})
    assert torch.equal(model.position_embeddings.weight[-16:], file.position_embeddings.weight[-16:])


class Speech(nn.Module):
    """Positions in time behind convolutions that slide over a spectrogram."""

    def __init__(self, frames, kernel=3):
        super().__init__()
        self.sub = nn.Sequential(nn.Conv2d(1, 4, kernel, 2), nn.ReLU(), nn.Conv2d(4, 4, kernel, 2))
        self.position_embeddings, self.fc = nn.Embedding(frames, 4), nn.Linear(4, 4)


def test_squares_behind_convolutions_that_slide_may_be_positions_in_time():
    file, model = Speech(16), Speech(64)
    with pytest.raises(tg.PlanRefusedError, match="no layer that cuts patches shows to be grids"):
        tg.load(model, file)
    names = [[f"t{n}" for n in range(frames)] for frames in (16, 64)]
    tg.load(model, file, axis_names={"position_embeddings": tg.AxisNames(*names)})
    assert torch.equal(model.position_embeddings.weight[:16], file.position_embeddings.weight)
    tg.load(model, file, grids={"position_embeddings.weight": ((4, 4), (8, 8))})
    wanted = ResampleGrid((4, 4), (8, 8)).run([file.position_embeddings.weight.detach()])
    assert torch.equal(model.position_embeddings.weight, wanted)


def test_channels_before_a_square_map_are_no_side_of_a_grid():
    """[1, 8, 4, 4] may be 8x4 positions of width 4, or 4x4 of width 8."""
    file, model = Image(1), Image(1)
    file.pos_embed, model.pos_embed = (nn.Parameter(torch.randn(1, n, 4, 4)) for n in (8, 16))
    with pytest.raises(tg.PlanRefusedError, match="maps of another width with the channels first"):
        tg.load(model, file)

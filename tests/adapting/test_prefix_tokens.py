"""Rows of a position table that stand before the patches follow the tokens that they are for, by kind."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.ops import ResampleGrid

WIDTH = 6


class Patches(nn.Module):
    """A patch embedding, tokens of some kinds before the patches, and one position for each, or for the patches alone."""

    def __init__(self, tokens, grid=(4, 4), *, counted=True):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, WIDTH, 4, stride=4)
        for name, count in tokens.items():
            self.register_parameter(name, nn.Parameter(torch.randn(1, count, WIDTH)))
        self.rows = sum(tokens.values()) if counted else 0
        self.pos_embed = nn.Parameter(torch.randn(1, self.rows + grid[0] * grid[1], WIDTH))
        self.norm, self.fc = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    @property
    def grid(self):
        return self.pos_embed[:, self.rows :]


CLS, DIST, REG = {"cls_token": 1}, {"dist_token": 1}, {"reg_token": 4}
KINDS = [
    (CLS, CLS | DIST, [0], [0]),
    (CLS | DIST, CLS, [0], [0]),
    (CLS | REG, CLS, [0], [0]),
    (CLS | DIST, CLS | REG, [0], [0]),
    (CLS | DIST | REG, CLS | REG, [0, 2, 3, 4, 5], [0, 1, 2, 3, 4]),
    (CLS | {"reg_token": 2}, CLS | REG, [0, 1, 2], [0, 1, 2]),
    (CLS | REG, CLS | {"reg_token": 2}, [0, 1, 2], [0, 1, 2]),
    (CLS | DIST, {}, [], []),
]


@pytest.mark.parametrize("grids", [((4, 4), (4, 4)), ((4, 4), (5, 5)), ((3, 5), (3, 5))])
@pytest.mark.parametrize(("old", "new", "taken", "filled"), KINDS)
def test_rows_follow_the_kinds_of_tokens(old, new, taken, filled, grids):
    file, model = Patches(old, grids[0]), Patches(new, grids[1])
    before = model.pos_embed.detach().clone()
    square = grids[0][0] == grids[0][1]
    asked = {} if square else {"grids": {"pos_embed": grids}}
    tg.load(model, file, **asked)
    expected = before.clone()
    expected[:, filled] = file.pos_embed[:, taken].detach()
    assert torch.equal(model.pos_embed[:, : model.rows], expected[:, : model.rows])
    op = ResampleGrid(*grids, file.rows, ())
    assert torch.allclose(model.grid, op.run([file.pos_embed.detach()]) if grids[0] != grids[1] else file.grid)
    assert torch.equal(model.fc.weight, file.fc.weight)


def test_rows_of_tokens_go_also_where_no_grid_is_known():
    file, model = Patches(CLS | DIST, (3, 5)), Patches(CLS, (3, 5))
    tg.load(model, file)
    assert torch.equal(model.grid, file.grid)
    assert torch.equal(model.pos_embed[:, 0], file.pos_embed[:, 0])


def test_tokens_without_a_position_get_zeros_where_the_model_adds_one():
    """Added to a token, a row of zeros leaves it as the file's model has it."""
    file, model = Patches(CLS, counted=False), Patches(CLS)
    report = tg.load(model, file)
    assert torch.equal(model.grid, file.grid)
    assert not model.pos_embed[:, 0].any()
    assert "zeros for 1 prefix row" in str(report)


def test_rows_of_tokens_that_no_name_tells_apart_are_doubt():
    file, model = Patches({"first": 1, "second": 1}), Patches({"third": 1})
    with pytest.raises(tg.PlanRefusedError, match="2 prefix rows in the file, 1 in the model"):
        tg.load(model, file, grids={"pos_embed": ((4, 4), (4, 4))})


class Windows(nn.Module):
    def __init__(self, height, width, batch=1):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(batch, height, width, WIDTH))
        self.fc = nn.Linear(WIDTH, WIDTH)


def test_tables_that_are_a_grid_are_resized_as_one():
    file, model = Windows(4, 6), Windows(8, 5)
    tg.load(model, file)
    flat = file.pos_embed.detach().reshape(1, 24, WIDTH)
    assert torch.allclose(model.pos_embed, ResampleGrid((4, 6), (8, 5)).run([flat]).reshape(1, 8, 5, WIDTH))


def test_tables_of_several_grids_stay():
    file, model = Windows(4, 6, 2), Windows(4, 6, 3)
    before = model.pos_embed.detach().clone()
    tg.load(model, file, on_doubt="skip", policy=tg.Policy(missing=tg.Verdict.ACCEPT))
    assert torch.equal(model.pos_embed, before)

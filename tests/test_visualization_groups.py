"""Drawing groups of tokens and differences, against values worked by hand and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmtokmerge.merging import TokenAssignment
from mmtokmerge.visualization import (
    MergedTokens,
    Panel,
    colour_labels,
    difference_figure,
    differing,
    draw_groups,
    draw_tokens,
    highlight,
    panel_figure,
    token_figure,
)
from mmtokmerge.visualization.differences import DIFFERENCE
from mmtokmerge.visualization.figures import class_legend
from mmtokmerge.visualization.groups import RIMS, rim_scattered, scattered_groups
from mmtokmerge.visualization.layout import PANEL_WIDTH

PALETTE = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_one_group_is_the_mean_colour_without_lines() -> None:
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    image[:, :3] = (100, 50, 0)
    picture = draw_groups(image, np.zeros(6, dtype=np.int64), (2, 3))
    assert (picture == (50, 25, 0)).all()


def test_two_groups_meet_in_one_line() -> None:
    image = np.zeros((4, 8, 3), dtype=np.uint8)
    image[:, 4:] = 200
    picture = draw_groups(image, np.array([0, 0, 1, 1]), (1, 4))
    assert (picture[:, :4] == 0).all()
    assert (picture[:, 4] == 100).all(), "the line is dark on a bright group"
    assert (picture[:, 5:] == 200).all()


def test_far_apart_tokens_of_a_group_share_a_colour() -> None:
    image = np.zeros((2, 12, 3), dtype=np.uint8)
    image[:, :4], image[:, 8:] = 60, 120
    picture = draw_groups(image, np.array([1, 0, 1]), (1, 3))
    assert (picture[:, 1:4] == 90).all()
    assert (picture[:, 9:] == 90).all()


@pytest.mark.parametrize("hw", [(3, 5), (1, 1), (7, 4)])
def test_matches_plain_loops(hw: tuple[int, int]) -> None:
    image = noise(23, 31)
    groups = np.random.default_rng(1).integers(0, 4, hw[0] * hw[1])
    picture = draw_groups(image, groups, hw)
    labels = [
        [int(groups[(y * hw[0] // 23) * hw[1] + x * hw[1] // 31]) for x in range(31)]
        for y in range(23)
    ]
    for y in range(1, 23):
        for x in range(1, 31):
            own = labels[y][x]
            if labels[y - 1][x] != own or labels[y][x - 1] != own:
                continue
            members = [image[j, i] for j in range(23) for i in range(31) if labels[j][i] == own]
            assert (picture[y, x] == np.mean(members, axis=0).round()).all()


def test_picture_has_the_asked_size_and_leaves_the_image_alone() -> None:
    image = noise(9, 12)
    before = image.copy()
    assert draw_groups(image, np.arange(12), (3, 4), size=(30, 40)).shape == (30, 40, 3)
    assert (image == before).all()


def test_groups_that_do_not_fit_the_grid() -> None:
    with pytest.raises(ValueError, match=r"groups of the grid \(2, 3\) must be \(6,\), got \(5,\)"):
        draw_groups(noise(4, 4), np.zeros(5, dtype=np.int64), (2, 3))


def tokens_of(groups: list[int], hw: tuple[int, int], covered=(1.0, 1.0)) -> MergedTokens:
    assignment = TokenAssignment.from_groups(torch.tensor([groups]), max(groups) + 1)
    return MergedTokens("Stage 1: keys and values", "bsm", assignment, hw, covered, stage=1)


def test_what_the_grid_leaves_out_is_darkened() -> None:
    image = np.full((10, 20, 3), 200, dtype=np.uint8)
    picture = draw_tokens(image, tokens_of([0, 0], (1, 2), covered=(0.8, 0.5)))
    assert (picture[:8, :10] == 200).all()
    assert (picture[8:] == 50).all()
    assert (picture[:, 10:] == 50).all()


def test_empty_groups_are_not_kept() -> None:
    groups = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 0]])
    tokens = MergedTokens("GBM in layer 5", "", TokenAssignment.from_groups(groups, 3), (2, 2))
    assert (tokens.num_kept(0), tokens.num_kept(1)) == (3, 1)
    assert tokens.groups(1).tolist() == [0, 0, 0, 0]


def test_token_figure_has_a_panel_for_each_record() -> None:
    image = np.full((20, 40, 3), (10, 200, 30), dtype=np.uint8)
    records = [tokens_of([0, 0], (1, 2))] * 3
    figure = token_figure(image, records, "heading")
    coloured = (figure == (10, 200, 30)).all(axis=2)
    height = PANEL_WIDTH // 2
    assert abs(int(coloured.sum()) - 3 * PANEL_WIDTH * height) < 0.02 * PANEL_WIDTH * height
    assert (token_figure(image, records, "other") != figure).any(), "the heading is written"


def test_image_of_another_shape_is_not_stretched() -> None:
    wide = Panel(np.zeros((10, 40, 3), dtype=np.uint8), "wide")
    square = Panel(np.full((5, 5, 3), (10, 200, 30), dtype=np.uint8), "square")
    figure = panel_figure([[wide, square]], width=200)
    rows, columns = np.nonzero((figure == (10, 200, 30)).all(axis=2))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (50, 50)


def test_labels_are_coloured_where_the_palette_knows_them() -> None:
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    picture = colour_labels(image, np.array([[1, 2, 255]]), PALETTE, alpha=0.5)
    assert picture[0].tolist() == [[178, 50, 50], [50, 178, 50], [100, 100, 100]]


def test_differences_are_counted_and_painted() -> None:
    first, second = np.array([[0, 1], [2, 2]]), np.array([[0, 2], [2, 2]])
    mask = differing(first, second)
    assert mask.tolist() == [[False, True], [False, False]]
    picture = highlight(noise(2, 2), mask)
    assert tuple(picture[0, 1]) == DIFFERENCE
    assert np.ptp(picture[~mask], axis=1).max() == 0, "all else is grey"
    with pytest.raises(ValueError, match="differ in size"):
        differing(first, second[:1])


def test_difference_figure_shows_both_predictions() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    first = np.zeros((8, 8), dtype=np.int64)
    second = first.copy()
    second[:4] = 1
    figure = difference_figure(image, (first, second), ("a", "b"), "xyz", PALETTE)
    pink = (figure == DIFFERENCE).all(axis=2).mean()
    same = difference_figure(image, (first, first), ("a", "b"), "xyz", PALETTE)
    assert pink > 0.1
    assert not (same == DIFFERENCE).all(axis=2).any()


def test_legend_names_the_classes_that_occur() -> None:
    maps = (np.array([[0, 255]]), np.array([[2, 0]]))
    assert class_legend(maps, ("a", "b", "c"), PALETTE) == [("a", PALETTE[0]), ("c", PALETTE[2])]


def test_groups_that_lie_apart_are_rimmed_as_one() -> None:
    """Group 0 lies in three places, 2 in two, 1 and 3 in one; the first two have rims."""
    grid = np.array([[0, 1, 0, 2], [1, 1, 1, 3], [0, 1, 2, 3]])
    groups = grid.ravel()
    assert scattered_groups(groups, (3, 4), most=4) == [0, 2]
    assert scattered_groups(groups, (3, 4), most=1) == [0]
    picture = rim_scattered(np.zeros((48, 64, 3), np.uint8), groups, (3, 4))
    labels = grid.repeat(16, 0).repeat(16, 1)
    for group, colour in ((0, RIMS[0]), (2, RIMS[1])):
        rim = (picture == colour).all(axis=2)
        assert rim.any() and (labels[rim] == group).all()
    corner = picture[:16, :16]  # of one cell of group 0: its rim, and what it encloses
    assert (corner[0] == RIMS[0]).all() and (corner[8, 8] == 0).all()
    assert not picture[labels == 1].any() and not picture[labels == 3].any()

"""The vote of the pixels that share a token, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmtokmerge.analysis.sharing.majority_vote import majority_vote, shared_regions
from mmtokmerge.errors import InputError
from mmtokmerge.merging import TokenAssignment, superpatch_sharing


def vote_by_loops(prediction: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Count the classes of each region with dicts; of equals the smallest id."""
    voted = prediction.copy()
    for region in set(regions.flatten().tolist()) - {-1}:
        pixels = prediction[regions == region].tolist()
        voted[regions == region] = min(set(pixels), key=lambda kind: (-pixels.count(kind), kind))
    return voted


@pytest.mark.parametrize("shape", [(8, 12), (7, 13), (1, 5)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_majority(shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(shape[0])
    for classes in (2, 5, 150):
        prediction = torch.randint(0, classes, shape, generator=generator).to(dtype)
        regions = torch.randint(-1, 6, shape, generator=generator) * 7
        regions[regions < 0] = -1
        before = prediction.clone()
        voted = majority_vote(prediction, regions)
        assert torch.equal(prediction, before) and voted.dtype == dtype
        np.testing.assert_array_equal(voted.numpy(), vote_by_loops(before.numpy(), regions.numpy()))


def test_ties_and_nothing_to_vote_on() -> None:
    prediction = torch.tensor([[2, 1, 1, 2], [0, 3, 3, 0]])
    assert majority_vote(prediction, torch.tensor([[0] * 4, [1] * 4])).tolist() == [
        [1] * 4,
        [0] * 4,
    ]
    assert torch.equal(majority_vote(prediction, torch.full((2, 4), -1)), prediction)
    with pytest.raises(InputError, match=r"\(2, 4\) pixels .* regions of \(2, 3\)"):
        majority_vote(prediction, torch.zeros(2, 3, dtype=torch.long))


@pytest.mark.parametrize(
    ("image", "output"),
    [((36, 44), (36, 44)), ((33, 17), (33, 17)), ((36, 44), (54, 66)), ((36, 44), (11, 13))],
)
def test_regions_are_pixels_whose_centre_lies_in_a_shared_superpatch(
    image: tuple[int, int], output: tuple[int, int]
) -> None:
    """Grids with an odd side; the input reaches beyond the image, and the image is resized."""
    patch, hw = (8, 8), (7, 6)
    scores = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(3))
    sharing = superpatch_sharing(scores, hw, num_shared=4)
    ranked = sorted((float(scores[0, y, x]), y, x) for y in range(3) for x in range(3))
    picked = {(y, x) for _, y, x in ranked[-4:]}
    regions = shared_regions(sharing, hw, patch, image, output)
    assert regions.shape == output
    seen: dict[int, set[tuple[int, int]]] = {}
    for row in range(output[0]):
        for column in range(output[1]):
            y = (row + 0.5) * image[0] / output[0] / 8
            x = (column + 0.5) * image[1] / output[1] / 8
            cell = int(y // 2), int(x // 2)
            region = int(regions[row, column])
            assert (region >= 0) == (cell in picked), (row, column)
            if region >= 0:
                seen.setdefault(region, set()).add(cell)
    assert all(len(cells) == 1 for cells in seen.values())
    assert len({cell for cells in seen.values() for cell in cells}) == len(seen) > 0


def test_an_assignment_of_another_grid_or_of_several_images() -> None:
    sharing = superpatch_sharing(torch.rand(2, 2, 2), num_shared=1)
    with pytest.raises(InputError, match="does not fit one image with a grid of 4x4"):
        shared_regions(sharing, (4, 4), (8, 8), (32, 32), (32, 32))
    with pytest.raises(InputError, match="grid of 4x5"):
        shared_regions(TokenAssignment.identity(16), (4, 5), (8, 8), (32, 40), (32, 40))


def test_padded_groups_take_no_part() -> None:
    """A row that another image of its batch has made longer."""
    sizes = torch.tensor([[4, 1, 1, 0]])
    sharing = TokenAssignment(torch.tensor([[0, 0, 1, 0, 0, 2]]), sizes, padded=True)
    regions = shared_regions(sharing, (2, 3), (1, 1), (2, 3), (2, 3))
    assert regions.tolist() == [[0, 0, -1], [0, 0, -1]]

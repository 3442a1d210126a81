"""Measures of pictures against cases whose answer is known."""

import math

import pytest
import torch

from diffrl import measures


def flat(value):
    return torch.full((1, 3, 16, 16), value)


def board(side=1):
    at = torch.arange(16) // side
    return ((at[:, None] + at[None]) % 2).float().expand(1, 3, 16, 16)


def test_a_flat_picture_has_no_detail_no_edge_and_one_color():
    for measure in measures.PICTURE.values():
        assert measure(flat(0.3)).tolist() == pytest.approx([0.0], abs=1e-4)


def test_sharpness_of_a_chessboard_is_that_of_its_laplacian():
    # Every square differs from its four neighbours: the Laplacian is 4 or -4.
    assert measures.sharpness(board()).tolist() == pytest.approx([4 * 255], rel=1e-5)


def test_blurring_lowers_sharpness_and_edges():
    sharp = board(4)
    soft = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2, count_include_pad=False)
    assert measures.sharpness(soft) < measures.sharpness(sharp) / 2
    assert measures.edges(board(8)) > 0


def test_colors_of_equal_share_have_the_entropy_of_their_number():
    images = torch.zeros(1, 3, 16, 16)
    images[:, 0, 8:] = 1.0
    images[:, 1, :, 8:] = 1.0
    assert measures.color_entropy(images).tolist() == pytest.approx([2.0])
    assert measures.color_entropy(torch.rand(1, 3, 64, 64)) <= 6.0


def test_distances():
    assert measures.pixel_distance(flat(0.2), flat(0.6)).tolist() == pytest.approx([0.4 * 255])
    one = torch.tensor([[1.0, 0.0]])
    other = torch.tensor([[math.cos(1.0), math.sin(1.0)]])
    found = measures.cosine_distance(one, other)
    assert found.tolist() == pytest.approx([100 * (1 - math.cos(1.0))])


def test_diversity_is_the_mean_over_pairs_of_each_prompt_with_several():
    images = torch.cat([flat(0.0), flat(0.5), flat(0.1), flat(0.3)])
    found = measures.diversity(images, ["a", "b", "a", "a"], measures.pixel_distances)
    assert found == {"a": pytest.approx(255 * (0.1 + 0.3 + 0.2) / 3)}


def test_all_distances_at_once_are_those_of_pairs():
    images, unit = torch.rand(3, 3, 8, 8), torch.nn.functional.normalize(torch.randn(3, 5), dim=1)
    a, b = torch.triu_indices(3, 3, offset=1)
    torch.testing.assert_close(
        measures.pixel_distances(images), measures.pixel_distance(images[a], images[b])
    )
    torch.testing.assert_close(
        measures.cosine_distances(unit), measures.cosine_distance(unit[a], unit[b])
    )

import pytest
import torch

from diffrl.streams import MOST, Streams, each, normal


def test_an_item_gets_the_same_noise_in_any_batch():
    whole = normal((6, 3), Streams([7, 8, 9]))
    alone = torch.cat([normal((2, 3), Streams([seed])) for seed in (7, 8, 9)])
    assert torch.equal(whole, alone)


def test_later_draws_go_on_where_earlier_ones_ended():
    streams = Streams([7, 8])
    first, second = normal((2, 3), streams), normal((2, 3), streams)
    assert not torch.equal(first, second)
    alone = Streams([8])
    assert torch.equal(torch.cat([normal((1, 3), alone), normal((1, 3), alone)]),
                       torch.stack([first[1], second[1]]))  # fmt: skip


def test_items_are_independent():
    noise = normal((64, 1000), Streams(range(64)))
    apart = torch.corrcoef(noise) - torch.eye(64)
    assert apart.abs().max() < 0.15
    assert noise.mean().abs() < 0.02
    assert (noise.std() - 1).abs() < 0.02


def test_a_plain_generator_is_common_to_all_items():
    rng = torch.Generator().manual_seed(3)
    assert each(rng, 2) == [rng, rng]
    assert torch.equal(normal((2, 3), rng), torch.randn(2, 3, generator=rng.manual_seed(3)))


def test_streams_are_a_generator_for_code_that_does_not_know_them():
    assert torch.equal(
        torch.randn(3, generator=Streams([5, 6])),
        torch.randn(3, generator=torch.Generator().manual_seed(5)),
    )


def test_seeds_go_round():
    assert torch.equal(normal((1, 2), Streams([MOST + 4])), normal((1, 2), Streams([4])))


@pytest.mark.parametrize("seeds", [(), (1, 2)])
def test_rows_that_cannot_be_shared_are_refused(seeds):
    with pytest.raises(ValueError, match="cannot share 3 rows among"):
        normal((3, 2), Streams(seeds))
    with pytest.raises(ValueError, match="streams for 3 items"):
        each(Streams(seeds), 3)

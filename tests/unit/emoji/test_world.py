import numpy as np
import pytest

from diffrl.emoji import world
from diffrl.emoji.render import render


def test_there_are_45_distinct_animals():
    assert len(set(world.ANIMALS)) == 45


@pytest.mark.parametrize("kind", ["bare", "color", "place", "count", "pair"])
def test_every_caption_parses_back_to_its_scene(kind):
    assert all(world.parse(world.caption(scene)) == scene for scene in world.scenes(kind))


def test_the_four_unseen_prompts_and_a_hundred_others_are_held_out():
    assert world.HELD_OUT[:4] == world.UNSEEN
    assert len(set(world.HELD_OUT)) >= 104
    assert all(world.is_held_out(world.parse(text)) for text in world.HELD_OUT)


def test_a_held_out_pair_is_held_out_in_both_orders():
    assert world.is_held_out(world.parse("a dog and a cat"))


def test_bare_names_are_never_held_out():
    assert not any(world.is_held_out(scene) for scene in world.scenes("bare"))


@pytest.mark.parametrize("text", ["a unicorn", "on the moon", "a cat and a dog and a cow"])
def test_a_caption_outside_the_grammar_is_refused(text):
    with pytest.raises(ValueError, match="emoji world"):
        world.parse(text)


def test_rendering_is_seeded_and_in_range():
    pictures = [render("two foxes in the snow", np.random.default_rng(3)) for _ in range(2)]
    assert pictures[0].shape == (64, 64, 3)
    assert pictures[0].dtype == np.uint8
    assert (pictures[0] == pictures[1]).all()


@pytest.mark.parametrize("text", world.HELD_OUT)
def test_every_held_out_caption_can_be_drawn(text):
    assert render(text, np.random.default_rng(0)).std() > 5

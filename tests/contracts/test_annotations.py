"""The suites rely on annotations being checked while tests run: they are."""

import pytest
import torch
from jaxtyping import TypeCheckError

from diffrl.testing.toy import TEXT, ToyJudge, ToyPolicy
from diffrl.types import Advantages, Minibatch, Path, Prompts, Rollout, last_step


def test_a_value_with_disagreeing_rows_is_refused():
    with pytest.raises(TypeCheckError):
        Prompts(("a",), torch.zeros(2, dtype=torch.long), torch.zeros(3, 8))


def test_a_path_with_too_few_states_is_refused():
    with pytest.raises(TypeCheckError):
        Path(ToyPolicy().ddim(4, 1.0), torch.zeros(3, 4), torch.zeros(3, 4, 2, 2, 2))


def test_a_tensor_of_the_wrong_dtype_is_refused():
    with pytest.raises(TypeCheckError):
        Minibatch(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.long))


def test_a_function_argument_of_the_wrong_rank_is_refused():
    with pytest.raises(TypeCheckError):
        last_step(torch.zeros(3, 2), 4)


def test_something_else_than_a_tensor_is_refused():
    with pytest.raises(TypeCheckError):
        Advantages([[1.0]])


def test_a_method_argument_that_disagrees_with_another_is_refused():
    policy = ToyPolicy()
    with pytest.raises(TypeCheckError):
        policy.predict(torch.zeros(3, 2, 2, 2), torch.zeros(2), policy.prompts(TEXT).cond)


def test_values_that_agree_are_accepted():
    policy = ToyPolicy()
    x0 = policy.normal((4,), torch.Generator())
    rollout = Rollout(policy.prompts(TEXT), policy.timesteps(4), x0)
    assert len(ToyJudge()(x0, rollout.prompts, torch.zeros(4, dtype=torch.long))) == 4

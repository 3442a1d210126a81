"""What holds for every sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from diffrl.rollouts import concat
from diffrl.stages import Sampler
from diffrl.streams import Streams
from diffrl.testing.contracts.component import ComponentContract
from diffrl.testing.contracts.loss import fresh_policy
from diffrl.testing.contracts.same import differences, untouched, weights_of
from diffrl.testing.toy import ToyPolicy
from diffrl.types import Advantages, Minibatch, Rollout, gather


def seeded(seed: int) -> torch.Generator:
    """Return a generator of its own."""
    return torch.Generator().manual_seed(seed)


def changed(component: Sampler, **fields: Any) -> Sampler:
    """Return a sampler with other values; the test is skipped where it does not take them."""
    if missing := sorted(fields.keys() - type(component).model_fields.keys()):
        pytest.skip(f"has no field {', '.join(missing)}")
    if not takes(component, **fields):
        pytest.skip(f"does not take {fields}")
    return type(component).model_validate({**_own(component), **fields})


def takes(component: Sampler, **fields: Any) -> bool:
    """Return whether a sampler's own bounds leave room for other values."""
    try:
        type(component).model_validate({**_own(component), **fields})
    except ValidationError:
        return False
    return True


def _own(component: Sampler) -> dict[str, Any]:
    return {name: getattr(component, name) for name in type(component).model_fields}


class SamplerContract(ComponentContract):
    """Tests of a sampler; the subclass supplies `component`."""

    @pytest.fixture
    def policy(self) -> ToyPolicy:
        """A toy policy whose three sets of weights differ, as they do in a run."""
        return fresh_policy()

    @pytest.fixture
    def rollout(self, component: Sampler, policy: ToyPolicy) -> Rollout:
        """What the sampler draws for four prompts."""
        return component(policy, self.text, seeded(0))

    def test_every_prompt_gets_a_group_of_neighbours(
        self, component: Sampler, rollout: Rollout
    ) -> None:
        """Rows of a group share their text, and groups do not mix."""
        size = component.group
        assert len(rollout) == len(self.text) * size
        assert rollout.prompts.text == tuple(t for t in self.text for _ in range(size))
        numbers = rollout.prompts.group.reshape(len(self.text), size)
        assert (numbers == numbers[:, :1]).all()
        assert len(set(numbers[:, 0].tolist())) == len(self.text)

    def test_a_group_of_two_lies_side_by_side(self, component: Sampler, policy: ToyPolicy) -> None:
        """The algorithm says how large a group is, whatever the sampler's own default."""
        pairs = changed(component, group=2)(policy, self.text, seeded(0))
        assert pairs.prompts.text == tuple(text for text in self.text for _ in range(2))
        group = pairs.prompts.group.reshape(len(self.text), 2)
        assert (group[:, 0] == group[:, 1]).all() and len(group.unique()) == len(self.text)
        assert len(pairs.x0) == 2 * len(self.text)

    def test_shared_noise_is_the_same_within_a_group(
        self, component: Sampler, policy: ToyPolicy
    ) -> None:
        """And without it rows of a group are pictures of their own."""
        for share in (True, False):
            drawing = changed(component, group=2, share_noise=share)
            rollout = drawing(policy, self.text, seeded(0))
            at = rollout.x0 if rollout.path is None else rollout.path.x[:, 0]
            if share and rollout.path is None:
                continue  # nothing tells what it began with
            first, second = at.reshape(len(self.text), 2, -1).unbind(1)
            assert torch.equal(first, second) == share

    def test_a_prompt_that_comes_again_gets_pictures_of_its_own(
        self, component: Sampler, policy: ToyPolicy
    ) -> None:
        """An epoch may draw a prompt twice: its groups are numbered apart, with other noise."""
        rollout, size = component(policy, self.text[:1] * 2, seeded(0)), component.group
        assert rollout.prompts.group[0] != rollout.prompts.group[size]
        if rollout.path is None and not component.live:
            pytest.skip("reads what others drew")
        at = rollout.x0 if rollout.path is None else rollout.path.x[:, 0]
        assert not torch.equal(at[0], at[size])

    def test_evaluations_draw_one_row_for_each_prompt(
        self, component: Sampler, policy: ToyPolicy
    ) -> None:
        """In other numbers of steps, as far as its own bounds go, and with other noise."""
        for steps, eta in ((1, 0.0), (4, 1.0)):
            if not takes(component, steps=steps):
                continue
            rollout = component.for_evaluation(steps, eta)(policy, self.text, seeded(0))
            assert rollout.prompts.text == tuple(self.text)
            assert len(rollout.times) == steps
            assert len(rollout.x0) == len(self.text) and rollout.x0.isfinite().all()

    def test_shapes_agree_with_rows_and_steps(self, component: Sampler, rollout: Rollout) -> None:
        """Every tensor has n rows, and paths have T steps."""
        rows, steps = len(rollout), component.steps
        assert rollout.times.shape == (steps,)
        assert rollout.x0.shape[0] == rows
        assert rollout.x0.isfinite().all()
        if rollout.path:
            assert rollout.path.log_prob.shape == (rows, steps)
            assert rollout.path.x.shape == (rows, steps + 1, *rollout.x0.shape[1:])

    def test_epochs_can_have_lengths_of_their_own(
        self, component: Sampler, policy: ToyPolicy
    ) -> None:
        """Mixed lengths work with every sampler, or are refused by its own bounds."""
        mixed = component.model_copy(update={"lengths": (2, 3)})
        for epoch, steps in enumerate((2, 3, 2), 1):
            try:
                drawing = mixed.for_epoch(epoch)
            except ValidationError:
                pytest.skip(f"takes no {steps} steps")
            rollout = drawing(policy, self.text[:1], seeded(0))
            assert len(rollout.times) == steps

    def test_times_go_from_noisy_to_clean(self, rollout: Rollout) -> None:
        """Step 0 is the noisiest."""
        assert (rollout.times.diff() < 0).all()

    def test_what_it_gives_is_there(self, component: Sampler, rollout: Rollout) -> None:
        """The fit check relies on `gives`."""
        path = rollout.path
        have = {
            "x0": True,
            "path": path is not None,
            "x0_hat": path is not None and path.x0_hat is not None,
            "log_prob": path is not None and bool(path.log_prob.isfinite().all()),
            "labels": rollout.labels is not None,
        }
        assert component.gives <= have.keys(), "a sampler gives these words only"
        missing = sorted(what for what in component.gives if not have[what])
        assert not missing, f"claimed but not given: {', '.join(missing)}"
        told = path is None or "path" in component.gives
        assert told, "keeps a path and does not say so in `gives`, so that no stage may need it"

    def test_same_seed_same_rows(self, component: Sampler, policy: ToyPolicy) -> None:
        """All randomness comes from `rng`."""
        first = component(policy, self.text, seeded(3))
        assert not differences(first, component(policy, self.text, seeded(3)))

    def test_a_prompt_gets_the_same_rows_in_any_batch(
        self, component: Sampler, policy: ToyPolicy
    ) -> None:
        """Noise comes from `policy.normal`, which draws it for each prompt on its own."""
        seeds = [3, 4, 5, 6]
        whole = component(policy, self.text, Streams(seeds))
        for i, text in enumerate(self.text):
            alone = component(policy, [text], Streams(seeds[i : i + 1]))
            rows = slice(i * component.group, (i + 1) * component.group)
            assert torch.allclose(alone.x0, whole.x0[rows], rtol=0, atol=1e-5)

    def test_it_keeps_no_graph(self, rollout: Rollout) -> None:
        """Sampling must not hold activations."""
        path = rollout.path
        tensors = [rollout.x0, *((path.x, path.log_prob, path.x0_hat) if path else ())]
        assert not any(x.requires_grad for x in tensors if x is not None)

    def test_policy_and_global_generator_are_left_alone(
        self, component: Sampler, policy: ToyPolicy
    ) -> None:
        """Sampling changes nothing but `rng`."""
        with untouched(weights=weights_of(policy)):
            component(policy, self.text, seeded(0))

    def test_path_ends_at_x0(self, component: Sampler, rollout: Rollout) -> None:
        """Replay returns the path's end as x0, or its last clean state if the end is noisy."""
        if "path" not in component.gives:
            pytest.skip("keeps no path")
        path = rollout.path
        assert path is not None
        noisy = getattr(path.kernel, "noisy_end", False)
        assert not noisy or path.x0_hat is not None
        end = path.x0_hat[:, -1] if noisy and path.x0_hat is not None else path.x[:, -1]
        assert torch.equal(end, rollout.x0)

    def test_log_prob_is_the_same_at_training_time(
        self, component: Sampler, policy: ToyPolicy, rollout: Rollout
    ) -> None:
        """At unchanged weights the log-ratio is 0 and the ratio 1, or `live` is false."""
        if "log_prob" not in component.gives or not component.live:
            pytest.skip("gives no log_prob of the weights that are trained")
        batch = gather(rollout, _zeros(rollout), _everything(rollout))
        again = policy.log_prob(batch).detach()
        assert batch.log_prob is not None
        assert torch.allclose(again, batch.log_prob, rtol=0, atol=1e-5), (
            "not the log-probs of the weights that are trained; if it draws from others, set "
            "live = False"
        )

    def test_replay_returns_the_stored_x0(
        self, component: Sampler, policy: ToyPolicy, rollout: Rollout
    ) -> None:
        """Replay through the whole path changes no value."""
        if "path" not in component.gives:
            pytest.skip("keeps no path")
        batch = gather(rollout, _zeros(rollout), _everything(rollout))
        assert torch.allclose(policy.replay(batch), batch.x0, atol=1e-5)

    def test_chunks_can_be_joined(self, component: Sampler, policy: ToyPolicy) -> None:
        """The trainer samples in chunks and joins them."""
        rng = seeded(0)
        halves = [component(policy, self.text[i : i + 2], rng) for i in (0, 2)]
        whole = concat(halves)
        assert whole.prompts.text == tuple(t for t in self.text for _ in range(component.group))
        assert len(whole.prompts.group.unique()) == len(self.text)
        assert torch.equal(whole.times, halves[0].times)


def _zeros(rollout: Rollout) -> Advantages:
    return Advantages(torch.zeros(len(rollout), len(rollout.times)))


def _everything(rollout: Rollout) -> Minibatch:
    rows = torch.arange(len(rollout))[:, None]
    return Minibatch(rows, torch.arange(len(rollout.times)).expand(len(rollout), -1))

"""Pairs that people have judged, in place of pictures that the policy draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path as File
from typing import ClassVar

from pydantic import Field

from diffrl.builtin.samplers import Ddim
from diffrl.errors import SettingsError, UnreadableData
from diffrl.hookspecs import hookimpl
from diffrl.preferences import FORMATS, Pair, read
from diffrl.stages import Judge, Policy, RewardPredictor, Sampler
from diffrl.tensors import Float, Generator, Tensor
from diffrl.types import Path, Rewards, Rollout, last_step


class Stored(Sampler):
    """Reads pairs of pictures with a choice, and noises both along the same noise.

        x_{k+1} = sqrt(a') clean + sqrt(1 - a' - sigma²) e_k + sigma z
        e_k = (x_k - sqrt(a) clean) / sqrt(1 - a),  first x = sqrt(a) clean + sqrt(1 - a) z

    This is the process whose reverse DDIM is: at every step the clean state is known instead of
    predicted. Both rows of a pair get the same z, so that they differ in their pictures alone. A
    prompt with several pairs gets one of them at random each time it is drawn. No policy drew these
    paths, hence there is no `log_prob`: losses that compare with the sampling policy do not fit.

    Source: the forward process of Song et al., arXiv:2010.02502, eq. 7. The published D3PO code
    stores the whole path of each picture when it is drawn; a picture of any origin has none.
    """

    name: ClassVar[str] = "stored"
    kept: ClassVar[frozenset[str]] = frozenset()
    live: ClassVar[bool] = False
    file: str = Field(description="`.jsonl` with prompt, images or latents, and choice a line.")
    steps: int = Field(default=20, ge=1, le=1000, description="Denoising steps, T.")
    eta: float = Field(default=1.0, gt=0, le=1, description="Strength of the noise.")
    group: int = Field(default=2, ge=2, le=2, description="Rows of a pair.")

    @property
    def gives(self) -> frozenset[str]:
        """What later stages can read because of this one."""
        return frozenset({"x0", "path", "labels"})

    def prompt_problems(self, prompts: Sequence[str]) -> list[str]:
        """Return what is wrong with the file, or with these prompts for it."""
        try:
            known = {pair.prompt for pair in read(self.file)}
        except SettingsError as error:
            return list(error.problems)
        if missing := [text for text in prompts if text not in known]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return [f"{self.file} has no pair for {missing[0]!r}{more}; set train.prompts to it"]
        return []

    def for_evaluation(self, steps: int, eta: float) -> Sampler:
        """Return a sampler that draws pictures."""
        return Ddim(steps=steps, eta=eta, group=1)

    def __call__(self, policy: Policy, text: Sequence[str], rng: Generator) -> Rollout:
        """Return two rows for each text, a pair that the file has for it."""
        import torch

        from diffrl.streams import each

        own = each(rng, len(text))
        pairs = [self._pick(one, its) for one, its in zip(text, own, strict=True)]
        prompts, times = policy.prompts(text, 2), policy.timesteps(self.steps)
        with torch.no_grad():
            x0 = torch.cat([_latent(policy, file) for pair in pairs for file in pair.files])
            path = self._noised(policy, x0, times, rng)
        labels = torch.tensor([label for pair in pairs for label in pair.labels]).to(x0)
        return Rollout(prompts, times, path.x[:, -1], path, labels)

    def _pick(self, text: str, rng: Generator) -> Pair:
        import torch

        try:
            found = [pair for pair in read(self.file) if pair.prompt == text]
        except SettingsError as error:  # it was whole when the run began
            raise UnreadableData("; ".join(error.problems)) from None
        if not found:
            raise UnreadableData(f"{self.file} has no pair for {text!r} any more")
        return found[int(torch.randint(len(found), (), generator=rng))]

    def _noised(
        self,
        policy: Policy,
        x0: Float[Tensor, "n *latent"],
        times: Float[Tensor, "T"],
        rng: Generator,
    ) -> Path:
        import torch

        kernel = policy.ddim(self.steps, self.eta)
        known = replace(kernel, prediction="sample", clip=None)

        def noise() -> Float[Tensor, "n *latent"]:
            return policy.normal((len(x0) // 2,), rng).repeat_interleave(2, dim=0).to(x0)

        a = kernel.alphas_cumprod.to(x0)[int(times[0])]
        x = [a.sqrt() * x0 + (1 - a).sqrt() * noise()]
        for time in times:
            step = known.transition(x0, time.expand(len(x0)), x[-1])
            x.append(step.mean + step.std * noise())
        nobody = x0.new_full((len(x0), len(times)), torch.nan)
        return Path(kernel, nobody, torch.stack(x, 1))


class Labels(RewardPredictor):
    """The choices of the data as terminal rewards: 1, -1, or 0 for a tie. The judge is not asked.

    Source: D3PO, arXiv:2311.13231, its human-feedback variant.
    """

    name: ClassVar[str] = "labels"
    last_alone: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def queries(self, steps: int) -> int:
        """Return how many pictures per row the judge scores."""
        return 0

    def __call__(self, rollout: Rollout, judge: Judge) -> Rewards:
        """Return rewards of shape `n T`."""
        assert rollout.labels is not None
        return Rewards(last_step(rollout.labels, len(rollout.times)))


def _latent(policy: Policy, file: File) -> Float[Tensor, "1 *latent"]:
    """Return the clean latent that a file holds, or that its picture has.

    Raises:
        UnreadableData: if the file is damaged, or its latent is not of this model.
    """
    import numpy
    import torch
    from PIL import Image, ImageOps

    try:
        if file.suffix == ".npy":
            latent = torch.from_numpy(numpy.load(file, allow_pickle=False)).float()[None]
        else:
            with Image.open(file, formats=FORMATS) as opened:
                upright = ImageOps.exif_transpose(opened).convert("RGB")
            picture = torch.from_numpy(numpy.array(upright)).permute(2, 0, 1)[None]
            return policy.encode(picture.float() / 255)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableData(f"cannot read {file}: {error}") from None
    wanted = policy.normal((1,), torch.Generator())
    if latent.shape != wanted.shape:
        have, want = tuple(latent.shape[1:]), tuple(wanted.shape[1:])
        raise UnreadableData(f"{file} has shape {have}, but this model's latents have {want}")
    return latent.to(wanted)


@hookimpl
def diffrl_samplers() -> list[type[Sampler]]:
    """Return the sampler that reads stored pairs."""
    return [Stored]


@hookimpl
def diffrl_reward_predictors() -> list[type[RewardPredictor]]:
    """Return the reward predictor that takes the data's word."""
    return [Labels]

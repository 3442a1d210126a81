"""What stages are handed: the policy, and the judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from diffrl.tensors import Float, Generator, Int, Tensor
from diffrl.types import Batch, Prompts

if TYPE_CHECKING:
    from diffrl.kernels import Ddim, Lcm

Weights = Literal["live", "old", "base"]


@runtime_checkable
class Policy(Protocol):
    """The diffusion model being trained, as stages see it.

    `weights` names a set of weights: `live` is being trained, `old` follows it at the pace of the
    update scheduler's `behind`, `base` is the model as it was loaded. Gradient reaches `live` only.
    """

    def prompts(self, text: Sequence[str], group: int = 1) -> Prompts:
        """Return every text `group` times, side by side, with its condition."""
        ...

    def normal(self, shape: Sequence[int], rng: Generator) -> Float[Tensor, "..."]:
        """Return standard normal noise of shape `(*shape, *latent)`.

        The first axis is rows, prompt by prompt: as many for each prompt that the sampler was
        handed, whose own randomness draws them. Draw each step's noise in a call of its own.

        Raises:
            ValueError: if the first axis is no multiple of the number of prompts.
        """
        ...

    def timesteps(self, steps: int) -> Float[Tensor, "T"]:
        """Return the training timesteps of a number of denoising steps, noisiest first."""
        ...

    def encode(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b *latent"]:
        """Return the latents of pictures in [0, 1], cropped to a square and resized to fit."""
        ...

    def ddim(self, steps: int, eta: float) -> Ddim:
        """Return the DDIM kernel of this model's noise schedule for a number of steps."""
        ...

    def lcm(self, steps: int) -> Lcm:
        """Return the kernel of a latent consistency model for a number of steps."""
        ...

    def predict(
        self,
        x: Float[Tensor, "*rows c h w"],
        t: Float[Tensor, "*rows"],
        cond: Float[Tensor, "..."],
        weights: Weights = "live",
    ) -> Float[Tensor, "*rows c h w"]:
        """Return the network's output; `cond` broadcasts over trailing axes of `rows`."""
        ...

    def log_prob(self, batch: Batch, weights: Weights = "live") -> Float[Tensor, "m k s"]:
        """Return the log-density of each stored transition, in nats averaged over the latent.

        Only `backward()` carries gradient from it to the weights, not `torch.autograd.grad`.
        """
        ...

    def noise(
        self, x0: Float[Tensor, "m k *latent"], t: Float[Tensor, "m k s"]
    ) -> tuple[Float[Tensor, "m k s *latent"], Float[Tensor, "m k s *latent"]]:
        """Return `x0` noised to `t`, and the network output that would undo it.

        The noise is fresh, and the same for all rows of a tuple.
        """
        ...

    def replay(self, batch: Batch) -> Float[Tensor, "m k *latent"]:
        """Return the stored `x0`, carrying gradient through the batch's final s steps."""
        ...


@runtime_checkable
class Judge(Protocol):
    """The weighted sum of the rewards in use, applied to the decoded latent."""

    def __call__(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b"]:
        """Return a score per row; `step` is the denoising step that predicted `x0`."""
        ...

    def each(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b r"]:
        """Return the weighted score of each reward; their sum is what a call returns."""
        ...

    def grad(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b *latent"]]:
        """Return scores and their gradients; refused where a reward is not differentiable."""
        ...

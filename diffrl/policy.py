"""The diffusion model being trained: prediction, log-densities and its three sets of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from diffrl.errors import PluginError
from diffrl.kernels import Ddim, Lcm, embedded_scale, log_density
from diffrl.speed.compiling import sized_as_in_updates
from diffrl.speed.distinct import distinct
from diffrl.speed.heard import Call, Heard
from diffrl.speed.memory import MOST_PROMPTS
from diffrl.speed.merging import merged
from diffrl.speed.sharding import alike, called_with, copies, regather
from diffrl.stages import Weights
from diffrl.stepwise import one_step_at_a_time
from diffrl.streams import normal
from diffrl.tensors import Float, Generator, Tensor, put
from diffrl.types import Batch, Prompts, at_step

Encode = Callable[[Sequence[str]], Tensor]


class UNetPolicy:
    """A conditional UNet with its noise schedule; implements `diffrl.stages.Policy`.

    Sampling and training call the same prepared module, so that the log-ratio of unchanged
    weights is zero in any precision. `old` and `base` are copies of the trained parameters only.

    Args:
        unet: the bare network; its trained parameters require grad and are in fp32.
        call: the network as the forward pass uses it (prepared for precision and processes).
        encode: prompts to conditions, shape `b tokens width`.
        to_latent: pictures in [0, 1] of any size to latents, shape `b *latent`.
        scheduler: a diffusers scheduler: noise table, spacing of timesteps, prediction type.
        size: side of the pictures divided by the VAE's factor: the latent's height and width.
        guidance: classifier-free guidance scale; 1 or less is off. A network distilled with
            guidance (`time_cond_proj_dim`) is told the scale instead of being called twice.
        seed: of the noise that losses ask for.
        cache_text: whether conditions are kept, so that each prompt is encoded once.
        merge: whether adapters are added to the weights within `sampling`.
        deduplicate: whether neighbouring rows that equal each other are predicted once.
    """

    def __init__(
        self,
        unet: Any,
        call: Callable[..., Any],
        encode: Encode,
        to_latent: Callable[[Tensor], Tensor],
        scheduler: Any,
        size: int,
        guidance: float = 1.0,
        seed: int = 0,
        cache_text: bool = True,
        merge: bool = False,
        deduplicate: bool = False,
    ) -> None:
        self._cache_text, self._merge, self._deduplicate = cache_text, merge, deduplicate
        self._unet, self._call, self._guidance = unet, call, guidance
        self._encode, self._cond = encode, dict[str, Tensor]()
        self._to_latent, self._scheduler = to_latent, scheduler
        first = next(unet.parameters())
        self.device = first.device
        # A network in half precision is called under autocast, which would round conditions anew in
        # every attention.
        self._rounds = first.dtype if first.dtype in (torch.bfloat16, torch.float16) else None
        self._table = scheduler.alphas_cumprod.to(self.device)
        self._latent = (int(unet.config.in_channels), size, size)
        self.noise_rng = torch.Generator().manual_seed(seed)
        self._heard: Heard | None = None
        self.seen: Tensor | None = None
        """The last log-density of the live weights, without gradient."""
        trained = {n: p for n, p in unet.named_parameters() if p.requires_grad}
        self.trained: dict[str, nn.Parameter] = trained
        self._base = copies(trained)
        self._old = self._base
        width = unet.config.time_cond_proj_dim
        self._embedded = None if width is None else embedded_scale(guidance, width).to(self.device)

    def prompts(self, text: Sequence[str], group: int = 1) -> Prompts:
        """Return every text `group` times, side by side, with its condition."""
        return Prompts(
            text=tuple(t for t in text for _ in range(group)),
            group=torch.arange(len(text)).repeat_interleave(group),
            cond=self._conditions(text).repeat_interleave(group, dim=0),
        )

    def _conditions(self, text: Sequence[str]) -> Tensor:
        # One prompt a call: in a batch its rounding would depend on its neighbours, and with them
        # on when the run was last resumed.
        known = self._cond if self._cache_text else {}
        fresh = dict.fromkeys(t for t in text if t not in known)
        for new in fresh:
            known[new] = self._encode([new])[0]
        found = torch.stack([known[t].to(self.device) for t in text])
        if fresh and len(known) > MOST_PROMPTS:
            named = [t for t in known if t]  # the empty one goes with every call that is guided
            for old in named[: max(0, len(named) - MOST_PROMPTS)]:
                del known[old]
        return found

    def sampling(self) -> AbstractContextManager[None]:
        """Return a context for sampling, in which adapters are merged where that is wanted."""
        return merged(self._unet) if self._merge else nullcontext()

    @contextmanager
    def heard_by(self, heard: Heard | None) -> Iterator[None]:
        """Ask `heard` first, but where merged adapters round predictions otherwise."""
        self._heard = None if self._merge else heard
        try:
            yield
        finally:
            self._heard = None

    def normal(self, shape: Sequence[int], rng: Generator) -> Float[Tensor, "..."]:
        """Return standard normal noise of shape `(*shape, *latent)`, the same on every device."""
        return put(normal((*shape, *self._latent), rng), self.device)

    def encode(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b *latent"]:
        """Return the latents of pictures in [0, 1], cropped to a square and resized to fit."""
        return self._to_latent(pictures)

    def timesteps(self, steps: int) -> Float[Tensor, "T"]:
        """Return the training timesteps of a number of denoising steps, noisiest first."""
        self._scheduler.set_timesteps(steps)
        times = self._scheduler.timesteps[:steps]  # of some numbers diffusers gives one too many
        return times.to(self.device, torch.float32)

    def ddim(self, steps: int, eta: float) -> Ddim:
        """Return the DDIM kernel of this model's noise schedule for a number of steps."""
        config = self._scheduler.config
        clip = float(config.clip_sample_range) if config.clip_sample else None
        return Ddim(self._table, steps, eta, config.prediction_type, clip)

    def lcm(self, steps: int) -> Lcm:
        """Return the kernel of a latent consistency model for a number of steps."""
        return Lcm(self._table, steps, self._scheduler.config.prediction_type)

    def predict(
        self,
        x: Float[Tensor, "*rows c h w"],
        t: Float[Tensor, "*rows"],
        cond: Float[Tensor, "..."],
        weights: Weights = "live",
    ) -> Float[Tensor, "*rows c h w"]:
        """Return the network's output; `cond` broadcasts over trailing axes of `rows`."""
        if self._heard is None or torch.is_grad_enabled():
            return self._predict(x, t, cond, weights)
        known = self._heard.find(weights, x, t, cond)
        if known is None:
            known = self._predict(x, t, cond, weights)
            self._heard.keep(Call(weights, x, t, cond, known))
        return known

    def _predict(self, x: Tensor, t: Tensor, cond: Tensor, weights: Weights) -> Tensor:
        given, back = (x.flatten(0, -4), t.flatten(), _spread(cond, x.shape[:-3])), None
        if self._deduplicate:
            given, back = distinct(*given)
        found = self._guided(*given, weights)
        return (found if back is None else found[back]).reshape(x.shape)

    def _guided(self, x: Tensor, t: Tensor, cond: Tensor, weights: Weights) -> Tensor:
        if self._guidance <= 1 or self._embedded is not None:
            return self._forward(x, t, cond, weights)
        blank = self._conditions([""]).expand_as(cond)
        doubled = (torch.cat([x, x]), torch.cat([t, t]), torch.cat([blank, cond]))
        without, with_text = self._forward(*doubled, weights).chunk(2)
        return without + self._guidance * (with_text - without)

    def _forward(self, x: Tensor, t: Tensor, cond: Tensor, weights: Weights) -> Tensor:
        options: dict[str, Any] = {"return_dict": False}
        if self._embedded is not None:
            options["timestep_cond"] = self._embedded.expand(len(x), -1)
        cond = cond if self._rounds is None else cond.to(self._rounds)
        if weights == "live":
            return self._call(x, t, cond, **options)[0].float()
        kept = {"old": self._old, "base": self._base}.get(weights)
        if kept is None:
            raise PluginError(f"weights {weights!r}: expected live, old or base")
        return called_with(self._unet, kept, (x, t, cond), options)[0].float()

    def log_prob(self, batch: Batch, weights: Weights = "live") -> Float[Tensor, "m k s"]:
        """Return the log-density of each stored transition, in nats averaged over the latent.

        Memory does not grow with s, at the price of one more forward pass where s > 1.
        """
        found = self._log_probs(batch, weights)
        if weights == "live":
            self.seen = found.detach()
        return found

    def _log_probs(self, batch: Batch, weights: Weights) -> Float[Tensor, "m k s"]:
        steps = batch.t.shape[2]
        if steps == 1:
            return self._log_prob(batch, weights)

        def evaluate(j: int) -> Tensor:
            return self._log_prob(at_step(batch, j), weights)

        if weights == "live" and torch.is_grad_enabled():
            with sized_as_in_updates():  # its values are those that the backward pass starts from
                return one_step_at_a_time(evaluate, steps, self.device)
        return torch.cat([evaluate(j) for j in range(steps)], dim=2)

    def _log_prob(self, batch: Batch, weights: Weights) -> Float[Tensor, "m k s"]:
        assert batch.kernel is not None and batch.x is not None and batch.x_next is not None
        guard = nullcontext() if weights == "live" else torch.no_grad()
        with guard:
            output = self.predict(batch.x, batch.t, batch.cond, weights)
            return log_density(batch.x_next, batch.kernel.transition(output, batch.t, batch.x))

    def noise(
        self, x0: Float[Tensor, "m k *latent"], t: Float[Tensor, "m k s"]
    ) -> tuple[Float[Tensor, "m k s *latent"], Float[Tensor, "m k s *latent"]]:
        """Return `x0` noised to `t` with fresh noise, and the network output that would undo it.

        Rows of a tuple share their noise, so that a loss on pairs compares them alone.
        Source: Wallace et al., Diffusion-DPO, arXiv:2311.12908.
        """
        m, k, s = t.shape
        fresh = self.normal((m, 1, s), self.noise_rng)
        fresh = fresh.expand(m, k, *fresh.shape[2:])
        a = self._table[t.long()][..., None, None, None]
        x0 = x0[:, :, None].expand_as(fresh)
        noised = a.sqrt() * x0 + (1 - a).sqrt() * fresh
        targets = {
            "epsilon": fresh,
            "sample": x0,
            "v_prediction": a.sqrt() * fresh - (1 - a).sqrt() * x0,
        }
        return noised, targets[self._scheduler.config.prediction_type]

    def replay(self, batch: Batch) -> Float[Tensor, "m k *latent"]:
        """Return the stored `x0`, carrying gradient through the batch's final s steps."""
        assert batch.kernel is not None and batch.x is not None and batch.x_next is not None
        x = batch.x[:, :, 0]
        for j in range(batch.t.shape[2]):
            t = batch.t[:, :, j]
            step = batch.kernel.transition(self.predict(x, t, batch.cond), t, x)
            if j == batch.t.shape[2] - 1 and getattr(batch.kernel, "noisy_end", False):
                return step.x0_hat + (batch.x0 - step.x0_hat).detach()
            x = step.mean + (batch.x_next[:, :, j] - step.mean).detach()
        return x

    def regather(self) -> None:
        """Let the network see weights that were set from outside, where processes split them."""
        regather(self._unet)

    def follow(self, decay: float) -> None:
        """Move `old` towards `live`: `old = decay old + (1 - decay) live`; 0 copies."""
        live = copies(self.trained)
        if decay:
            live = {n: decay * self._old[n] + (1 - decay) * p for n, p in live.items()}
        self._old = live

    def old(self) -> dict[str, Tensor]:
        """Return the `old` weights by parameter name, for a checkpoint."""
        return dict(self._old)

    def set_old(self, weights: dict[str, Tensor]) -> None:
        """Restore the `old` weights of a checkpoint."""
        self._old = {n: alike(weights[n], p) for n, p in self.trained.items()}


def _spread(cond: Tensor, rows: torch.Size) -> Tensor:
    """Return conditions `*lead tokens width` repeated over the rows that `lead` does not name."""
    lead, tail = cond.shape[:-2], cond.shape[-2:]
    inner = [1] * (len(rows) - len(lead))
    return cond.reshape(*lead, *inner, *tail).expand(*rows, *tail).flatten(0, -3)

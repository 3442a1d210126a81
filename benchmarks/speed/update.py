"""The updates of an epoch as the published SDPO code makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from diffrl.tensors import Tensor

if TYPE_CHECKING:
    from benchmarks.speed.published import Published

PAIRS_AT_ONCE = 2
"""The published configuration for the aesthetic reward; the others have 1."""


class Update:
    """AdamW, the shuffles, and the loops over columns and micro-batches.

    Args:
        run: whose network is trained.
    """

    def __init__(self, run: Published) -> None:
        self._run, own = run, run.settings.optimizer
        self.optimizer = torch.optim.AdamW(
            run.trained, lr=own.lr, betas=(own.beta1, own.beta2), eps=own.eps,
            weight_decay=own.weight_decay,
        )  # fmt: skip
        self._half = run.device.type == "cuda"
        self._scaler = torch.amp.GradScaler(run.device.type, enabled=self._half)

    def __call__(self, samples: dict[str, Tensor], steps: int) -> dict[str, float]:
        """Train on an epoch's samples, and return means of what was noted."""
        run, scheduler = self._run, self._run.settings.recipe.update_scheduler
        pairs = len(samples["cond"])
        columns = scheduler.trained(steps)
        samples = self._shuffled(samples, steps, columns)
        micro = min(PAIRS_AT_ONCE, pairs)
        together = (scheduler.per_update or pairs) // micro
        batched = {
            name: value.reshape(-1, micro, *value.shape[1:]) for name, value in samples.items()
        }
        pieces = [{n: v[i] for n, v in batched.items()} for i in range(pairs // micro)]
        noted: list[dict[str, Tensor]] = []
        gaps: list[Tensor] = []
        done, stepped = 0, False
        for column in range(columns):
            for piece in pieces:
                loss, info = self.loss(piece, column, steps)
                self._scaler.scale(loss / together).backward()
                noted.append(info)
                if not stepped:
                    gaps.append(info["log_ratio"])
                done += 1
                if done % together == 0:
                    self._commit()
                    stepped = True
        gap = torch.cat([g.flatten() for g in gaps]).abs().float().cpu()
        means = {name: torch.stack([i[name] for i in noted]).mean() for name in ("loss", "clipped")}
        run.pipeline.unet.zero_grad()
        return {
            **{name: float(value) for name, value in means.items()},
            "log_prob_gap/max": float(gap.max()),
            "log_prob_gap/p99": float(torch.quantile(gap, 0.99)),
        }

    def _shuffled(self, samples: dict[str, Tensor], steps: int, columns: int) -> dict[str, Tensor]:
        """Return samples with pairs permuted, and every pair's steps by a permutation of its own.

        Each tensor is gathered as a whole.
        """
        run, device = self._run, self._run.device
        pairs = len(samples["cond"])
        samples = dict(samples)
        samples["timesteps"] = run.schedule.timesteps.repeat(pairs, 1)
        decay = run.settings.recipe.loss.decay ** torch.arange(steps, device=device).float()
        samples["weight"] = (decay / run.settings.recipe.loss.scale).repeat(pairs, 1)
        order = torch.randperm(pairs, device=device)
        samples = {name: value[order] for name, value in samples.items()}
        left = steps - run.settings.recipe.update_scheduler.skip_last
        chosen = torch.stack([torch.randperm(left, device=device) for _ in range(pairs)])
        rows = torch.arange(pairs, device=device)[:, None]
        for name in samples:
            if name != "cond":
                samples[name] = samples[name][rows, chosen[:, :columns]]
        return samples

    def loss(
        self, piece: dict[str, Tensor], column: int, steps: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one micro-batch at one column: two calls of the network."""
        own, t = self._run.settings.recipe.loss, piece["timesteps"][:, column]
        ratios, near, advantages = [], [], []
        for side in ("1", "2"):
            new = self._log_prob(piece, side, column, t, steps)
            old = piece[f"log_probs{side}"][:, column]
            ratios.append(new - old)
            near.append(torch.clamp(new, old - own.clip, old + own.clip) - old)
            bound = own.advantage_clip
            advantages.append(torch.clamp(piece[f"advantages{side}"][:, column], -bound, bound))
        weight = piece["weight"][:, column]
        gap = advantages[0] - advantages[1]
        plain = (weight * (ratios[0] - ratios[1]) - gap) ** 2
        clipped = (weight * (near[0] - near[1]) - gap) ** 2
        loss = torch.maximum(plain, clipped).mean() if own.clip > 0 else plain.mean()
        beyond = torch.stack(ratios).detach()
        return loss, {
            "loss": loss.detach(),
            "clipped": (beyond.abs() > own.clip).float().mean(),
            "log_ratio": beyond,
        }

    def _log_prob(
        self, piece: dict[str, Any], side: str, column: int, t: Tensor, steps: int
    ) -> Tensor:
        x = piece[f"latents{side}"][:, column]
        with torch.autocast(self._run.device.type, torch.float16, enabled=self._half):
            output = self._run._unet(x, t, piece["cond"], return_dict=False)[0].float()
        return self._run.step(output, t, x, steps, piece[f"next_latents{side}"][:, column])[2]

    def _commit(self) -> None:
        self._scaler.unscale_(self.optimizer)
        bound = self._run.settings.optimizer.max_grad_norm
        torch.nn.utils.clip_grad_norm_(self._run.trained, bound)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()

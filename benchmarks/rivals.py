"""Alternatives for steering a frozen SD3-class transformer by a degraded latent, as baselines. Both run at every sampler step."""

from __future__ import annotations

import inspect

import torch
from diffusers import SD3ControlNetModel
from torch import nn

from mimdit.backbone import DiTBackbone


class ControlNet(nn.Module):
    """diffusers' ``SD3ControlNetModel``: a trained copy of the first blocks, which reads the noisy and the degraded latent and the text.

    Its sizes are the transformer's, as ``from_transformer`` takes them.
    """

    def __init__(self, backbone: DiTBackbone, num_layers: int = 12) -> None:
        super().__init__()
        known = inspect.signature(SD3ControlNetModel.__init__).parameters
        config = {name: value for name, value in backbone.transformer.config.items() if name in known}
        config["num_layers"] = min(num_layers, config["num_layers"])
        self.net = SD3ControlNetModel(**config)

    def velocity(self, backbone: DiTBackbone, latents: torch.Tensor, sigma: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        """Return the transformer's velocity, steered by the copy's residuals."""
        tokens, pooled = backbone.prompts(len(latents))
        prompt = {"encoder_hidden_states": tokens, "pooled_projections": pooled}
        (residuals,) = self.net(latents, controlnet_cond=degraded, timestep=sigma * 1000, **prompt, return_dict=False)
        return backbone.velocity(latents, sigma, residuals)


class TokenConcatenation(nn.Module):
    """Second stream of tokens, from the degraded latent, through every block beside the noisy one: the structure of DiT4SR.

    As published (arXiv 2503.23580 §3, and its code): all attentions are over both streams, the joint ones over the text too; the degraded
    tokens go through the frozen query, key and value layers and then through trained linears of their own (zero at first), and have an
    output linear of their own; both streams share the frozen norms and feed-forwards, where a trained depth-wise 3x3 filter adds the
    degraded tokens' inner units to the noisy ones'. DiT4SR's captions of each image are left out.
    """

    def __init__(self, backbone: DiTBackbone) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SecondStream(block) for block in backbone.transformer.transformer_blocks)

    def velocity(self, backbone: DiTBackbone, latents: torch.Tensor, sigma: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        """Return the transformer's velocity, with twice the image tokens."""
        transformer, patch = backbone.transformer, backbone.token_patch
        tokens, pooled = backbone.prompts(len(latents))
        time, text = transformer.time_text_embed(sigma * 1000, pooled), transformer.context_embedder(tokens)
        image = torch.cat([transformer.pos_embed(latents), transformer.pos_embed(degraded)], dim=1)
        grid = latents.shape[2] // patch, latents.shape[3] // patch
        for block, second in zip(transformer.transformer_blocks, self.blocks):
            image, text = second(block, image, text, time, grid)
        patches = transformer.proj_out(transformer.norm_out(image.chunk(2, dim=1)[0], time))
        # [B, N, p * p * C] -> [B, C, h, w]
        patches = patches.unflatten(1, grid).unflatten(3, (patch, patch, -1)).permute(0, 5, 1, 3, 2, 4)
        return patches.flatten(4, 5).flatten(2, 3)


class SecondStream(nn.Module):
    """Trained layers of one block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        dim, inner = block.attn.to_q.in_features, block.ff.net[2].in_features
        self.attention = SecondAttention(dim)
        self.attention2 = SecondAttention(dim) if block.attn2 is not None else None
        self.filter = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        nn.init.zeros_(self.filter.weight)

    def forward(
        self, block: nn.Module, image: torch.Tensor, text: torch.Tensor, time: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pass image tokens ``[B, 2N, D]`` and text tokens ``[B, T, D]`` through the frozen ``block``; the last block returns no text."""
        normed, gate, shift, scale, gate_ff, *dual = block.norm1(image, emb=time)
        if block.context_pre_only:
            normed_text, of_text = block.norm1_context(text, time), []
        else:
            normed_text, *of_text = block.norm1_context(text, emb=time)
        attended, attended_text = self.attention(block.attn, normed, normed_text)
        image = image + gate[:, None] * attended
        if dual:
            image = image + dual[1][:, None] * self.attention2(block.attn2, dual[0], None)[0]
        inner = block.ff.net[0](block.norm2(image) * (1 + scale[:, None]) + shift[:, None])
        noisy, degraded = inner.chunk(2, dim=1)
        noisy = noisy + self.filter(degraded.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
        image = image + gate_ff[:, None] * block.ff.net[2](torch.cat([noisy, degraded], dim=1))
        if not of_text:
            return image, None
        gate, shift, scale, gate_ff = of_text
        text = text + gate[:, None] * attended_text
        return image, text + gate_ff[:, None] * block.ff_context(block.norm2_context(text) * (1 + scale[:, None]) + shift[:, None])


class SecondAttention(nn.Module):
    """The linears of the degraded tokens in one attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(dim, dim) for _ in range(4))
        for linear in (self.to_q, self.to_k, self.to_v):
            nn.init.zeros_(linear.weight)

    def forward(self, frozen: nn.Module, image: torch.Tensor, text: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend over both streams ``[B, 2N, D]`` and the text ``[B, T, D]``."""
        heads = [self._heads(frozen, name, image, text) for name in ("q", "k", "v")]
        attended = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        noisy, degraded, of_text = attended.tensor_split((image.shape[1] // 2, image.shape[1]), dim=1)
        image = torch.cat([frozen.to_out[0](noisy), self.to_out(degraded)], dim=1)
        return image, None if text is None or frozen.context_pre_only else frozen.to_add_out(of_text)

    def _heads(self, frozen: nn.Module, name: str, image: torch.Tensor, text: torch.Tensor | None) -> torch.Tensor:
        """Return queries, keys or values ``[B, heads, 2N + T, D / heads]``."""
        noisy, degraded = getattr(frozen, f"to_{name}")(image).chunk(2, dim=1)
        parts = [torch.cat([noisy, getattr(self, f"to_{name}")(degraded)], dim=1).unflatten(2, (frozen.heads, -1))]
        if text is not None:
            parts.append(getattr(frozen, f"add_{name}_proj")(text).unflatten(2, (frozen.heads, -1)))
        norms = [getattr(frozen, f"norm_{name}", None), getattr(frozen, f"norm_added_{name}", None)]
        return torch.cat([part if norm is None else norm(part) for part, norm in zip(parts, norms)], dim=1).transpose(1, 2)

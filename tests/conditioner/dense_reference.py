"""Plain versions of the four expert kinds: one image and one sub-expert at a time, all sub-experts computed, then weighed and summed.

Written from the papers with ordinary functional calls, sharing nothing with the package but the parameters.
"""

import torch
import torch.nn.functional as F


def dense_intra_moe(
    kind: str, experts: torch.nn.Module, images: torch.Tensor, weights: torch.Tensor, *, shift: bool = False
) -> torch.Tensor:
    """``sum_e weights[b, e] * expert_e(images[b])`` for ``images [B, C, H, W]`` and ``weights [B, E]`` (zeros where not chosen)."""
    expert = {"spatial": spatial, "channel": channel, "swin": lambda *a: swin(*a, shift=shift), "se": squeeze_excitation}[kind]
    outputs = []
    for image, row in zip(images, weights, strict=True):
        outputs.append(sum(weight * expert(experts, e, image[None])[0] for e, weight in enumerate(row)))
    return torch.stack(outputs)


def sparse_weights(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Softmax over ``[B, E]``, all but the ``top_k`` largest of a row struck out, the rest made to sum to one unless it is one alone."""
    probs = logits.softmax(-1)
    threshold = probs.sort(-1, descending=True).values[:, top_k - 1 : top_k]
    kept = torch.where(probs >= threshold, probs, 0)
    return kept if top_k == 1 else kept / kept.sum(-1, keepdim=True)


def pointwise(stack, index, image):
    return F.conv2d(image, stack.weight_EOI[index][:, :, None, None])


def depthwise(stack, index, image):
    return F.conv2d(image, stack.weight[index], padding=1, groups=image.shape[1])


def tokens(image):
    return image.flatten(2).transpose(1, 2)


def as_image(sequence, like):
    return sequence.transpose(1, 2).unflatten(2, like.shape[2:])


def spatial(experts, index, image):
    height, width = image.shape[2:]
    grid = F.avg_pool2d(image, (height // 8, width // 8))
    key, value = tokens(pointwise(experts.key_value, index, grid)).chunk(2, dim=2)
    attended = F.scaled_dot_product_attention(tokens(pointwise(experts.query, index, image)), key, value)
    return pointwise(experts.out, index, as_image(attended, image))


def channel(experts, index, image):
    query, key, value = depthwise(experts.local, index, pointwise(experts.qkv, index, image)).flatten(2).chunk(3, dim=1)
    scores = F.normalize(query, dim=2) @ F.normalize(key, dim=2).transpose(1, 2)
    attended = (scores * experts.temperature_E[index]).softmax(-1) @ value
    return pointwise(experts.out, index, attended.unflatten(2, image.shape[2:]))


def swin(experts, index, image, *, shift):
    """Attention over the whole image under a mask: windows as plain intervals that begin at ``shift``, with no cyclic roll."""
    size, (height, width) = 8, image.shape[2:]
    rows, columns = torch.arange(height), torch.arange(width)
    offset = 4 if shift else 0
    y, x = rows.repeat_interleave(width), columns.repeat(height)
    together = ((y - offset) // size == ((y - offset) // size)[:, None]) & ((x - offset) // size == ((x - offset) // size)[:, None])
    table = experts.position_bias_EP[index].view(2 * size - 1, 2 * size - 1)
    down, right = y[:, None] - y[None, :], x[:, None] - x[None, :]
    bias = table[(down + size - 1).clamp(0, 2 * size - 2), (right + size - 1).clamp(0, 2 * size - 2)]
    query, key, value = tokens(pointwise(experts.qkv, index, image)).chunk(3, dim=2)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.masked_fill(~together, float("-inf")))
    return pointwise(experts.out, index, as_image(attended, image))


def squeeze_excitation(experts, index, image):
    value, gate = depthwise(experts.local, index, pointwise(experts.into, index, image)).chunk(2, dim=1)
    gated = value * gate
    squeezed = F.relu(F.linear(F.adaptive_avg_pool2d(gated, 1).flatten(1), experts.squeeze_EOI[index]))
    scale = 2 * torch.sigmoid(F.linear(squeezed, experts.excite_EOI[index]))
    return pointwise(experts.out, index, gated * scale[:, :, None, None])

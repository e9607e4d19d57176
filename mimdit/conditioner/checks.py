"""Checks of a conditioner's options."""

from __future__ import annotations

from typing import Any


def check_options(options: dict[str, Any]) -> None:
    """Check that the options of `mimdit.MoEConditioner` are in range and do not exclude each other.

    Raises:
        ValueError: One is out of range, or needs another one.
    """
    for name in ("dim", "patch_size", "token_patch", "num_experts", "inter_top_k"):
        if options[name] < 1:
            raise ValueError(f"{name}={options[name]} must be at least 1")
    if int(options["dim"] * options["expansion"]) < 1:
        raise ValueError("expansion={expansion} leaves no channel of dim={dim}; raise it to 1 / dim or more".format_map(options))
    if options["tone_powers"] and not options["estimate"]:
        raise ValueError("tone_powers={tone_powers} needs estimate: true; switch it on, or use tone_powers: []".format_map(options))
    num_blocks, most = options["num_blocks"], max(1, options["num_layers"] - 1)
    if options["token_patch"] % options["patch_size"]:
        raise ValueError("patch_size={patch_size} does not divide token_patch={token_patch}; choose one that does".format_map(options))
    if not options["groups"]:
        raise ValueError("groups is empty; name at least one kind of expert, such as [spatial, channel, swin, se]")
    if not 1 <= num_blocks <= most:
        raise ValueError(
            f"num_blocks={num_blocks} MiM blocks cannot feed a DiT of {options['num_layers']} blocks (its last block takes no residual); "
            f"use 1..{most}"
        )
    if options["top_k"] < 1 or (options["hidden"] is not None and options["hidden"] < 1):
        raise ValueError(
            "top_k={top_k} and hidden={hidden} must be at least 1; leave hidden at null for the experts' width over top_k".format_map(
                options
            )
        )
    if options["moe_stride"] < 1:
        raise ValueError(f"moe_stride={options['moe_stride']} must be at least 1; at 1 the experts work on every position")
    if options["moe_dim"] is not None and options["moe_dim"] < 1:
        raise ValueError(
            "moe_dim={moe_dim} must be at least 1; leave it at null for the width of the fine grid, dim={dim}".format_map(options)
        )
    if any(width < 1 for width in options["tone_widths"]):
        raise ValueError(f"tone_widths={options['tone_widths']} must be at least 1 each; leave it empty for one layer of 2 dim")
    if options["tone_grid"] < 0:
        raise ValueError(f"tone_grid={options['tone_grid']} is negative; use 0 for one tone curve for the whole image")
    if options["identify_width"] < 1:
        raise ValueError(f"identify_width={options['identify_width']} must be at least 1; 128 is the default")
    if options["identify_statistics"] and not (options["identify"] and options["latent_channels"] == 3):
        raise ValueError(
            "identify_statistics: true reads the pixels' statistics; it needs identify: true and a backbone whose latents are pixels "
            f"(latent_channels=3, not {options['latent_channels']})"
        )
    if options["confidence"] and not (options["identify"] and options["estimate"]):
        raise ValueError("confidence: true scales the estimate by the identification; it needs identify: true and estimate: true")

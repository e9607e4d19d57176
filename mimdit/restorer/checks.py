"""Checks that parts and options of a restorer fit each other."""

from __future__ import annotations

from collections.abc import Mapping

from mimdit.backbone.dit import DiTBackbone
from mimdit.conditioner.moe_conditioner import MoEConditioner
from mimdit.flow import FlowMatching
from mimdit.restorer.caution import check_caution
from mimdit.restorer.sampling import SamplingSettings
from mimdit.training.losses import check_flow_loss

ANCHORS = ("none", "degraded", "estimate")
GATES = ("none", "labels", "identified")


def check_parts(backbone: DiTBackbone, conditioner: MoEConditioner, flow: FlowMatching) -> None:
    """Check that a conditioner was made for a backbone, and that the backbone has the prompts that the flow needs.

    Raises:
        ValueError: A size differs, or the flow's guidance needs an unconditional prompt and there is none.
    """
    wanted = {name: getattr(backbone, name) for name in ("latent_channels", "token_dim", "num_layers", "token_patch")}
    wrong = {name: value for name, value in wanted.items() if conditioner.config[name] != value}
    if wrong:
        found = ", ".join(f"{name}={conditioner.config[name]}" for name in wrong)
        needed = ", ".join(f"{name}={value}" for name, value in wrong.items())
        raise ValueError(f"the conditioner was made for another backbone: it has {found}; this backbone needs {needed}")
    if flow.guidance != 1:
        backbone.require_unconditional(f"flow guidance={flow.guidance}", prompting=backbone.prompts.reads_text)


def tile_of(backbone: DiTBackbone, tile: int | None) -> int:
    """Return the side of the DiT's tiles in latent pixels: ``tile``, or if it is None the largest that the backbone takes.

    Raises:
        ValueError: The backbone cannot take it.
    """
    tile = backbone.max_size if tile is None else tile
    if not 0 < tile <= backbone.max_size or tile % backbone.token_patch:
        limits = f"a multiple of the backbone's patch {backbone.token_patch} and at most {backbone.max_size}, its largest size"
        raise ValueError(f"tile={tile} must be {limits}")
    return tile


def check_losses(flow_loss_on: str, flow_norm: str, estimate_norm: str, sigma_min: float) -> None:
    """Check the names of the losses' forms.

    Raises:
        ValueError: One is unknown, or ``sigma_min`` is outside (0, 1).
    """
    check_flow_loss(flow_loss_on, sigma_min)
    for name, value, allowed in (("flow_norm", flow_norm, ("mse", "rmse", "psnr")), ("estimate_norm", estimate_norm, ("rmse", "psnr"))):
        if value not in allowed:
            raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(allowed)}")


def check_weights(flow_weight: float, estimate_weight: float, identify_weight: float, flow_images: int) -> None:
    """Check that no weight of a loss is negative, and that a loss trains the restorer.

    Raises:
        ValueError: A value is negative, or all weights are 0.
    """
    weights = {"flow_weight": flow_weight, "estimate_weight": estimate_weight, "identify_weight": identify_weight}
    for name, value in (weights | {"flow_images": flow_images}).items():
        if value < 0:
            raise ValueError(f"{name}={value} is negative; use 0 to switch it off")
    if not any(weights.values()):
        raise ValueError("no loss trains the restorer; set flow_weight, estimate_weight or identify_weight above 0")


def check_heads(
    conditioner: MoEConditioner, flow: FlowMatching, flow_weight: float, estimate_weight: float, identify_weight: float, anchor: str
) -> None:
    """Check that the conditioner has the heads that losses, flow and anchor need.

    Raises:
        ValueError: A head is missing, or the anchor is unknown.
    """
    if anchor not in ANCHORS:
        raise ValueError(f"anchor {anchor!r} is unknown; choose one of {', '.join(ANCHORS)}")
    if identify_weight > 0 and conditioner.identification is None:
        raise ValueError("identify_weight > 0 needs conditioner.identify: true; switch it on, or use identify_weight: 0")
    if conditioner.estimate_head is not None:
        return
    if anchor == "estimate":
        raise ValueError("anchor 'estimate' needs a conditioner with estimate: true; switch it on, or use anchor: degraded or none")
    if estimate_weight > 0 or (flow_weight > 0 and flow.source == "estimate"):
        raise ValueError(
            "estimate_weight > 0 and flow source 'estimate' need conditioner.estimate: true; "
            "switch it on, or use estimate_weight: 0 and source: noise"
        )


def check_harm(harm_weight: float, estimate_weight: float) -> None:
    """Check the weight of the penalty on harm.

    Raises:
        ValueError: It is negative, or the estimate, which it limits, is not trained.
    """
    if harm_weight < 0:
        raise ValueError(f"harm_weight={harm_weight} is negative; use 0 for no penalty")
    if harm_weight > 0 and estimate_weight == 0:
        raise ValueError("harm_weight > 0 limits the training of the estimate; set estimate_weight too, or use harm_weight: 0")


def check_gated_estimate(gate: str, estimate_weight: float, caution: float | Mapping[str, float], backbone: DiTBackbone) -> None:
    """Check that the estimate is trained, that latents are pixels, and that there is a caution, as ``gate_estimate`` needs.

    Raises:
        ValueError: The gate is unknown, the estimate is not trained, a latent is not a pixel, or caution is 0 with ``identified``.
    """
    if gate not in GATES:
        raise ValueError(f"gate_estimate {gate!r} is unknown; choose one of {', '.join(GATES)}")
    if gate == "none":
        return
    if estimate_weight == 0:
        raise ValueError("gate_estimate changes the estimate's loss; set estimate_weight too, or use gate_estimate: none")
    if not backbone.codec.pointwise:
        raise ValueError("gate_estimate splits off the tone in pixels, but this backbone's latents are not pixels; use none")
    if gate == "identified" and caution == 0:
        raise ValueError("gate_estimate: identified needs a caution above 0, which says how much of a correction passes; or use labels")


def check_cleaned(share: float, estimate_weight: float, backbone: DiTBackbone) -> None:
    """Check the share of cleaned images, and that there are a trained estimate and one latent a pixel to clean them with.

    Raises:
        ValueError: It is out of range, the estimate is not trained, or a latent is not a pixel.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"cleaned_share={share} is outside 0..1; 0 cleans no image")
    if share and estimate_weight == 0:
        raise ValueError("cleaned_share > 0 cleans images by the estimate; set estimate_weight too, or use cleaned_share: 0")
    if share and not backbone.codec.pointwise:
        raise ValueError("cleaned_share splits off the tone in pixels, but this backbone's latents are not pixels; use 0")


def check_routing_losses(conditioner: MoEConditioner, weights: dict[str, float]) -> None:
    """Check that the routers have the prototypes that some routing losses need.

    Raises:
        ValueError: ``contrast`` or ``guide`` is switched on without ``router: prototype``.
    """
    for name in ("contrast", "guide"):
        if weights[name] and conditioner.config["router"] != "prototype":
            raise ValueError(
                f"the routing loss {name}={weights[name]} needs prototypes, but router: {conditioner.config['router']}; "
                f"set router: prototype of the conditioner, or {name}: 0"
            )


def check_caution_head(caution: float | Mapping[str, float], conditioner: MoEConditioner) -> None:
    """Check that the conditioner has the probabilities that ``caution`` needs.

    Raises:
        ValueError: ``caution`` is out of range, or above 0 without an identification head.
    """
    check_caution(caution)
    if caution and conditioner.identification is None:
        raise ValueError(
            f"caution={caution} needs the probabilities of degradations, but the conditioner has identify: false; use caution: 0, or "
            "weights trained with identify: true, such as the embedded ones"
        )


def check_settings(settings: SamplingSettings, backbone: DiTBackbone, conditioner: MoEConditioner) -> None:
    """Check that backbone and conditioner have what the settings of a restoration need.

    Raises:
        ValueError: There is no estimate to start from, no unconditional prompt for guidance, no identification for ``only``, ``caution`` or
            detected prompts, or no texts by degradation for prompting.
    """
    if settings.start == "estimate" and conditioner.estimate_head is None:
        raise ValueError("start 'estimate' needs a conditioner with estimate: true; use start: degraded or noise")
    if settings.guidance != 1:
        backbone.require_unconditional(f"guidance={settings.guidance}", prompting=settings.prompting != "none")
    if settings.prompting == "detected":
        backbone.prompts.require_atoms("prompting: detected")
        if conditioner.identification is None:
            raise ValueError(
                "prompting: detected reads the identified degradations, but the conditioner has identify: false; switch it on (with "
                "identify_weight above 0), or use prompting: given or none"
            )
    if settings.prompting == "given":
        assert settings.prompt is not None
        if not backbone.prompts.reads_text:
            raise ValueError(
                f"prompt {settings.prompt!r}: this backbone reads no text; name what to remove, such as only=['haze'], or give a backbone "
                "whose prompt file was written by mimdit prompts encode --by_atom=default"
            )
        if settings.steps == 0:
            raise ValueError(f"prompt {settings.prompt!r} needs the DiT, which does not run with steps=0; give steps=1 or more")
        backbone.prompts.nearest(settings.prompt, 1)
    check_caution_head(settings.caution, conditioner)
    if settings.only is not None and conditioner.identification is None:
        raise ValueError(
            f"only {', '.join(settings.only)}: these weights do not identify degradations, as their conditioner has "
            "identify: false; leave only out, or use weights trained with identify: true, such as the embedded ones"
        )

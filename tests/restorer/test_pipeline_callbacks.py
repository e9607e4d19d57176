"""Callbacks of the pipeline against those of a diffusers pipeline."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

import mimdit
from tests.tiny_models import tiny_restorer


class Watch(PipelineCallback):
    """What a callback sees: step, timestep, names and number of axes of the tensors, and the pipeline's number of timesteps."""

    tensor_inputs = ["latents"]

    def __init__(self, stop_after=None):
        super().__init__()
        self.seen, self.stop_after, self.kept = [], stop_after, []

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        self.kept.append(callback_kwargs["latents"])
        axes = {name: tensor.ndim for name, tensor in callback_kwargs.items()}
        self.seen.append((step_index, round(float(timestep), 2), axes, pipeline.num_timesteps, pipeline.interrupt))
        pipeline._interrupt = step_index == self.stop_after
        return callback_kwargs


def of_diffusers(watch, steps):
    """Run a tiny SD3 pipeline without shift of its sigmas, without text encoders."""
    torch.manual_seed(0)
    options = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 16, "caption_projection_dim": 16}
    transformer = SD3Transformer2DModel(sample_size=8, patch_size=2, in_channels=4, out_channels=4, pooled_projection_dim=8, **options)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=2, latent_channels=4, shift_factor=0.0)
    parts = [None] * 6
    pipe = StableDiffusion3Pipeline(transformer, FlowMatchEulerDiscreteScheduler(shift=1.0), vae, *parts)
    pipe.set_progress_bar_config(disable=True)
    embeddings = {"prompt_embeds": torch.zeros(1, 3, 16), "pooled_prompt_embeds": torch.zeros(1, 8)}
    sigmas = [1 - step / steps for step in range(steps)]
    pipe(
        num_inference_steps=steps, sigmas=sigmas, guidance_scale=1.0, height=8, width=8, callback_on_step_end=watch, output_type="latent",
        callback_on_step_end_tensor_inputs=["latents"], **embeddings,
    )  # fmt: skip
    return pipe


def of_ours(watch, steps):
    pipe = mimdit.MiMDiTPipeline(tiny_restorer(flow={"start": "noise"}).eval())
    pipe.set_progress_bar_config(disable=True)
    pipe(torch.full((3, 16, 16), 0.5), steps, callback_on_step_end=watch)
    return pipe


def test_a_callback_sees_the_steps_and_timesteps_of_diffusers():
    expected, watch = Watch(), Watch()
    of_diffusers(expected, 3)
    of_ours(watch, 3)
    assert watch.seen == expected.seen and [entry[1] for entry in watch.seen] == [1000.0, 666.67, 333.33]


def test_an_interruption_ends_both_alike():
    expected, watch = Watch(stop_after=1), Watch(stop_after=1)
    assert of_diffusers(expected, 4).interrupt == of_ours(watch, 4).interrupt
    assert watch.seen == expected.seen and len(watch.seen) == 2


def test_latents_kept_by_a_callback_differ_step_by_step_in_both():
    for run in (of_diffusers, of_ours):
        watch = Watch()
        run(watch, 3)
        assert not torch.equal(watch.kept[0], watch.kept[1]) and not torch.equal(watch.kept[1], watch.kept[2])


def test_several_callbacks_of_diffusers_work_as_one():
    first, second = Watch(), Watch()
    of_ours(MultiPipelineCallbacks([first, second]), 2)
    assert first.seen == second.seen and len(first.seen) == 2

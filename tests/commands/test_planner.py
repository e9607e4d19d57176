"""Training data of a plan: read from the shards' index where they are, guessed from their name where they are not."""

from dataclasses import replace

from mimdit.commands.planner import _training_data
from tests.datamodules.made_shards import SIZES, make_folder
from tests.planning.made_plans import RUN
from tests.tiny_models import restorer_config


def told(run, samples=None, latents=None, **options):
    data = {"class_path": "datamodules.RestorationDataModule", "init_args": {"train": list(run.train), "crop": 8} | options}
    return _training_data({"model": restorer_config(), "data": data}, run, samples, latents)


def test_samples_are_counted_where_the_data_is(tmp_path):
    make_folder(tmp_path / "latents")
    data, because = told(replace(RUN, train=(str(tmp_path / "latents"),)))
    assert data.samples == sum(sum(sizes) for sizes in SIZES.values())
    assert not data.latents and because == "read from the data's index"


def test_only_the_groups_that_training_reads_count(tmp_path):
    make_folder(tmp_path / "shards")
    group = next(iter(SIZES))
    assert told(replace(RUN, train=(str(tmp_path / "shards"),)), groups=[group])[0].samples == sum(SIZES[group])


def test_elsewhere_the_name_tells_and_the_user_decides():
    run = replace(RUN, train=("not/here/latents",))
    data, because = told(run)
    assert data.latents and data.samples is None and "guessed" in because
    assert not told(run, latents=False)[0].latents
    assert told(run, samples=7)[0].samples == 7


def test_a_sample_of_latents_is_two_posteriors_in_half_precision():
    data, _ = told(replace(RUN, crop=64))  # the tiny backbone's latents are its pixels, 3 channels
    assert data.latent_bytes == 2 * (2 * 3) * 64 * 64 * 2

"""``mimdit restore --only`` and ``--prompt``."""

from mimdit.commands import restore as command
from mimdit.restorer.pixels import restore_pixels
from tests.commands.made_restorers import run
from tests.commands.test_restore import put
from tests.datamodules.images.made_images import encoded
from tests.tiny_models import tiny_restorer


def test_only_the_named_degradations_are_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "in", a__png=encoded("PNG"))
    model = tiny_restorer(conditioner={"estimate": True, "identify": True}, flow={"start": "degraded", "sigma_start": 0.5}).eval()
    monkeypatch.setattr(command, "load_restorer", lambda checkpoint: model)
    assert run("in", "out", "--only", "haze, noise", "--tag") == 0
    photo = command.read_photo(tmp_path / "out/a.png")
    source = command.read_photo(tmp_path / "in/a.png").pixels
    assert (photo.pixels == restore_pixels(model, source, only=["haze", "noise"])).all()
    assert (photo.pixels != restore_pixels(model, source)).any()


def test_the_words_of_a_prompt_choose_what_is_removed_where_no_text_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "in", a__png=encoded("PNG"))
    assert run("in", "out", "--prompt", "remove the haze, keep the grain") == 0
    assert "this backbone reads no text: the words of the prompt select --only haze" in capsys.readouterr().err
    assert run("in", "again", "--only", "haze") == 0
    results = [command.read_photo(tmp_path / folder / "a.png").pixels for folder in ("out", "again")]
    assert (results[0] == results[1]).all()

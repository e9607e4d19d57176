"""What degraded the images of public sets, told by the sets' names."""

import re

from datamodules.degradations.groups import atoms_of_group
from datamodules.sources.layouts import is_group

_WORDS = {
    "blur": "gopro hide realblur blur blurry deblur deblurring motion",
    "noise": "noise noisy denoise denoising bsd68 cbsd68 kodak24 urban100 sidd polyu dnd",
    "jpeg": "jpeg compressed",
    "haze": "haze hazy dehaze dehazing sots rtts urhi reside ots",
    "rain": "rain rainy derain deraining rain100l rain100h test100 test1200 test2800 rain13k",
    "raindrop": "raindrop raindrops",
    "lowlight": "low lowlight lol lolv1 lolv2 eval15 dicm lime mef npe vv enhance",
    "snow": "snow snowy snow100k",
    "shadow": "shadowed",
    "inpainting": "uncompleted",
}
_OF_WORD = {word: name for name, words in _WORDS.items() for word in words.split()}


def degradations_of(name: str) -> tuple[str, ...]:
    """The degradations that a set's or a group's name tells, `mimdit.core.batch.ATOMS` and others; nothing where it tells none.

    Examples are ``09Lowlight_Haze``, ``GoPro``, ``motion-blurry``, ``low-light`` and CDD-11's ``low_haze_rain``.
    """
    if is_group(name):
        return atoms_of_group(name)
    words = re.split(r"[^a-z0-9]+", name.lower())
    return tuple(dict.fromkeys(_OF_WORD[word] for word in words if word in _OF_WORD))

"""``mimdit plan``: predict memory, time and bytes of a training run on a cluster, without GPU, weights or data."""

import sys
from importlib import import_module
from json import dumps

from mimdit.planning import cache
from mimdit.planning.text import render


def plan(
    *options: str,
    config: list[str],
    nodes: int = 1,
    gpus: int = 8,
    gpu: str = "h100",
    link: float = 400.0,
    samples: int | None = None,
    latents: bool | None = None,
    measured: str | None = None,
    assume: dict[str, str] | None = None,
    json: bool = False,
    refresh: bool = False,
) -> None:
    """Predict memory, time and bytes of a training run on a cluster.

    The config is parsed as ``mimdit fit`` parses it; its model is built on shapes, and two steps of it are run on shapes, through the
    strategy's own sharding. What is counted there (memory, kernels, collectives) is exact to a few percent; times follow from it by
    assumptions, which are all printed and can be changed. The first plan of a config takes a minute or two, the same one again a moment.

    Args:
        options: Options of ``mimdit fit`` that change the config, after ``--``, such as ``-- --trainer.max_steps=1000``.
        config: Config files, as for ``mimdit fit``.
        nodes: Nodes of the run.
        gpus: GPUs of a node.
        gpu: Kind of GPU: a100-40, a100, h100, h100-pcie, h200, b200, l40s or rtx4090.
        link: Network of a GPU to other nodes, one way, in Gb/s; a node's, divided by its GPUs.
        samples: Samples of a pass over the training data; by default they are counted where the data is here.
        latents: If true, training reads cached latents; by default it is read from the data's index, or guessed from the path.
        measured: JSON file with the step of a run on one GPU (``benchmarks/sd35_step.py --json``), which replaces predicted time and peak.
        assume: Assumptions to change, as ``name=value`` or ``name=best..worst``; the plan lists all.
        json: If true, print the plan as JSON.
        refresh: If true, plan anew instead of reading the cache.

    Raises:
        ValueError: The config cannot be planned, the sizes of a pretrained part are not known, or an argument is out of range.
    """
    arguments = {
        "config": config, "options": options, "nodes": nodes, "gpus": gpus, "gpu": gpu, "link": link, "samples": samples,
        "latents": latents, "measured": measured, "assume": assume or {},
    }  # fmt: skip
    for name, value in (("nodes", nodes), ("gpus", gpus), ("link", link), ("samples", samples)):
        if value is not None and not value > 0:
            raise ValueError(f"--{name} {value} must be above 0")
    key = cache.cache_key(arguments, [*config, *options, *([measured] if measured else [])])
    found = None if refresh else cache.load(key)
    if found is None:
        print("counting two steps on shapes; a minute or two, the same plan again takes a moment", file=sys.stderr, flush=True)
        # Imported here: a plan from the cache does not wait for torch.
        found = import_module("mimdit.commands.planner").make_plan(arguments)
        cache.store(key, found)
    print(dumps(found, indent=2) if json else render(found))

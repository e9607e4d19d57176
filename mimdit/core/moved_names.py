"""Import hook for old module names, so that configs, checkpoints and exported folders of earlier versions stay readable."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "callbacks.expert_maps": "mimdit.plots.expert_maps",
    "callbacks.image_grid": "callbacks.sample_images",
    "callbacks.peak_flops": "mimdit.training.devices",
    "callbacks.pulse": "callbacks.watchdog",
    "callbacks.quality": "callbacks.scores",
    "callbacks.showcase": "callbacks.sample_images",
    "callbacks.span": "callbacks.step_timer",
    "callbacks.spread": "callbacks.sample_picker",
    "callbacks.strips": "mimdit.plots.image_strips",
    "callbacks.tensorboard": "callbacks.loggers",
    "datamodules.benchmarks": "datamodules.test_sets",
    "datamodules.benchmarks.benchmark": "datamodules.test_sets.base",
    "datamodules.benchmarks.cdd11": "datamodules.test_sets.layouts",
    "datamodules.benchmarks.data_module": "datamodules.test_sets.data_module",
    "datamodules.benchmarks.degradations": "datamodules.test_sets.files",
    "datamodules.benchmarks.files": "datamodules.test_sets.files",
    "datamodules.benchmarks.foundir": "datamodules.test_sets.layouts",
    "datamodules.benchmarks.noise": "datamodules.test_sets.files",
    "datamodules.benchmarks.pair_folders": "datamodules.test_sets.layouts",
    "datamodules.benchmarks.polyu": "datamodules.test_sets.layouts",
    "datamodules.benchmarks.shards": "datamodules.test_sets.layouts",
    "datamodules.benchmarks.sidd": "datamodules.test_sets.layouts",
    "datamodules.benchmarks.suites": "datamodules.test_sets.suites",
    "datamodules.benchmarks.unpaired": "datamodules.test_sets.layouts",
    "datamodules.conversion.finalise": "datamodules.conversion.write",  # codespell:ignore finalise
    "datamodules.degradations.light": "mimdit.core.srgb",
    "datamodules.degradations.srgb": "mimdit.core.srgb",
    "datamodules.evaluation": "datamodules.pairs",
    "datamodules.looking": "datamodules.inspection",
    "datamodules.made": "datamodules.synthetic",
    "datamodules.made.crops": "datamodules.synthetic.photographs",
    "datamodules.made.leaves": "datamodules.synthetic.scenes",
    "datamodules.made.photographs": "datamodules.synthetic.photographs",
    "datamodules.made.quickstart": "datamodules.synthetic.quickstart",
    "datamodules.made.scenes": "datamodules.synthetic.scenes",
    "datamodules.made.tone": "datamodules.synthetic.tone",
    "datamodules.seeding": "datamodules.rng",
    "datamodules.shards.pool": "datamodules.shards.process_pool",
    "datamodules.streaming.laps": "datamodules.streaming.partition",
    "datamodules.streaming.line": "datamodules.streaming.order",
    "mimdit.batch": "mimdit.core.batch",
    "mimdit.canvas": "mimdit.core.canvas",
    "mimdit.color": "mimdit.restorer.color",
    "mimdit.diagnosis.folder": "mimdit.diagnosis.node",
    "mimdit.diagnosis.hardware": "mimdit.diagnosis.node",
    "mimdit.distributed.checkpoint_io": "mimdit.distributed.checkpoint_files",
    "mimdit.distributed.plain_loading": "mimdit.distributed.torch_files",
    "mimdit.distributed.plain_saving": "mimdit.distributed.torch_files",
    "mimdit.distributed.preemption": "callbacks.preemption",
    "mimdit.distributed.sharding": "mimdit.distributed.fsdp2",
    "mimdit.distributed.together": "mimdit.core.collectives",
    "mimdit.ema": "mimdit.training.ema",
    "mimdit.files": "mimdit.core.files",
    "mimdit.flops": "mimdit.training.flops",
    "mimdit.gate_chart": "mimdit.plots.gate_chart",
    "mimdit.iqa": "mimdit.evaluation.iqa",
    "mimdit.iqa.adjusting": "mimdit.evaluation.iqa.protocols",
    "mimdit.iqa.metric": "mimdit.evaluation.iqa.metric",
    "mimdit.iqa.scorer": "mimdit.evaluation.iqa.scorer",
    "mimdit.iqa.sets": "mimdit.evaluation.iqa.fid_kid",
    "mimdit.iqa.summary": "mimdit.evaluation.summary",
    "mimdit.iqa.table": "mimdit.evaluation.summary",
    "mimdit.iqa.weights": "mimdit.evaluation.iqa.weights",
    "mimdit.metrics": "mimdit.evaluation.metrics",
    "mimdit.optimization": "mimdit.training.optimization",
    "mimdit.padding": "mimdit.restorer.inference",
    "mimdit.pipeline": "mimdit.restorer.pipeline",
    "mimdit.pixels": "mimdit.restorer.pixels",
    "mimdit.report": "mimdit.evaluation.report",
    "mimdit.report.ablation": "mimdit.evaluation.report.ablation",
    "mimdit.report.published": "mimdit.evaluation.report.published",
    "mimdit.report.rendering": "mimdit.evaluation.report.tables",
    "mimdit.report.scores": "mimdit.evaluation.report.runs",
    "mimdit.report.table": "mimdit.evaluation.report.tables",
    "mimdit.restorer_files": "mimdit.restorer.saving",
    "mimdit.restoring": "mimdit.restorer.inference",
    "mimdit.results": "mimdit.evaluation.results",
    "mimdit.steering": "mimdit.restorer.steering",
    "mimdit.stop_signals": "mimdit.core.stop_signals",
    "mimdit.tiling": "mimdit.restorer.tiling",
    "mimdit.user_errors": "mimdit.core.user_errors",
}
"""Old dotted path of each moved module, mapped to the new one.

``mimdit.restorer.Restorer`` has no entry: the package ``mimdit.restorer`` exports the class.
"""


class MovedModules(MetaPathFinder, Loader):
    """Import finder that turns each old name in `MOVED` into a module with the attributes of the new one.

    It must be first in ``sys.meta_path``. Otherwise a folder left behind with only a ``__pycache__`` would be found as an empty package.
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for a name in `MOVED`, else None."""
        return ModuleSpec(fullname, self, is_package=True) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None: Python creates the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Warn once, naming the new module, and forward attributes to it."""
        new = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} has moved to {new}; use the new name", FutureWarning, stacklevel=2)
        moved = import_module(new)
        module.__getattr__ = lambda name: getattr(moved, name)


def install() -> None:
    """Install the finder in this process; repeated calls have no effect."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())

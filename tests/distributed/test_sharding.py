"""What can be sharded."""

import lightning as L
import pytest

from mimdit.distributed.sharding import shard
from tests.tiny_models import tiny_restorer


def test_a_module_that_names_no_units_is_refused():
    with pytest.raises(ValueError, match="shard_units"):
        shard(L.LightningModule(), None)


def test_units_are_apart_and_leave_the_routers_out():
    restorer = tiny_restorer(conditioner={"num_blocks": 1, "estimate": True})
    names = {parameter: name for name, parameter in restorer.named_parameters()}
    units = [{names[parameter] for part in unit for parameter in part.parameters()} for unit in restorer.shard_units()]
    inside = set().union(*units)
    blocks = [unit for unit in units if any(".transformer_blocks." in name for name in unit)]
    assert not any(".router." in name for name in inside if not name.startswith("ema."))
    assert any(".experts." in name for name in inside) and {name for name in names.values() if name.startswith("ema.")} in units
    assert all(name in inside for name in names.values() if name.startswith("backbone.transformer."))
    assert len(blocks) == restorer.backbone.num_layers + 1  # the last holds what is around them, and them in it

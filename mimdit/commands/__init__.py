"""The verbs of ``mimdit`` and the parts they share: the only place in this package that may use ``datamodules`` and ``callbacks``."""

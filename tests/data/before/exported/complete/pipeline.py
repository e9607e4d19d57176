from mimdit.pipeline import MiMDiTPipeline  # noqa: F401

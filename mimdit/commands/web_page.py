"""Web pages of commands: gradio, its look without the web, and the serving of a page on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio


def import_gradio(verb: str):
    """Return the module gradio, with its statistics off.

    Args:
        verb: The command that needs it, for the message.

    Raises:
        ValueError: gradio is missing or too old.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves this machine
    try:
        import gradio
    except ImportError as error:
        raise ValueError(f"mimdit {verb} needs gradio; install it: pip install '.[demo]'") from error
    if not hasattr(gradio, "ImageSlider"):
        raise ValueError(f"mimdit {verb} needs gradio 6, but {gradio.__version__} is installed: pip install --upgrade '.[demo]'")
    return gradio


def serve(blocks: gradio.Blocks, *, host: str, port: int) -> None:
    """Serve a page, print its address and wait until Ctrl-C.

    Args:
        blocks: The page.
        host: Address to listen on; 0.0.0.0 also accepts other machines.
        port: Port to listen on; 0 for any free one.
    """
    _, address, _ = blocks.launch(
        server_name=host, server_port=port or None, share=False, quiet=True, prevent_thread_lock=True, footer_links=[], theme=_theme()
    )  # fmt: skip
    print(f"open {address} (Ctrl-C to stop)", flush=True)
    blocks.block_thread()


def _theme() -> gradio.themes.Base:
    """Return gradio's theme with the machine's own fonts: the theme's would be fetched from the web."""
    import gradio

    return gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])

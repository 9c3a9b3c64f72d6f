"""The page of a demo. A model's text is shown in text boxes and never as HTML.

Written against Gradio 6.31; only its public names are used.
"""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..display import printable
from ..errors import UserError
from ..hub.loading import holds_model
from ..naming import require_package
from ..serving import check_address, launch
from ..storage.results import check_is_run


if TYPE_CHECKING:
    import gradio

    from .completions import Demo, Shown

TOKEN_VARIABLE = "TRL_NLPO_DEMO_TOKEN"
"""Of the environment: the token that lets people in."""

_LONGEST_PROMPT = 20_000
"""Characters."""


def make_page(demo: Demo, title: str) -> gradio.Blocks:
    """The page: a prompt, and what both models make of it.

    Args:
        demo ([`Demo`])
        title (`str`): above it.

    Raises:
        UserError: Gradio is not installed.
    """
    gr: Any = require_package("gradio", "the page of a demo", "people")

    def complete(prompt: str, references: str, seed: float) -> list[str]:
        try:
            shown, missing = demo.complete(prompt, references, int(seed or 0))
        except UserError as error:
            # In a box that shows HTML.
            raise gr.Error(html.escape(printable(str(error)), quote=False)) from None
        notes = "\n".join([*([demo.unfitted] if demo.unfitted else []), *missing])
        return [text for stage in demo.stages for text in (shown[stage].text, _rewards(shown[stage]))] + [notes]

    with gr.Blocks(title="Before and after", analytics_enabled=False) as page:
        gr.Textbox(title, show_label=False, interactive=False, container=False)
        hint = None if demo.template == "{prompt}" else f"The models read: {demo.template}"
        prompt = gr.Textbox(
            demo.example, label="Prompt", info=hint, lines=4, max_length=_LONGEST_PROMPT, elem_id="prompt"
        )
        references = gr.Textbox(
            "", label="References, one a line, for rewards that compare with some", lines=2,
            max_length=_LONGEST_PROMPT, elem_id="references",
        )  # fmt: skip
        seed = gr.Number(0, label="Seed of the samples", precision=0, minimum=0, maximum=2**31 - 1, elem_id="seed")
        button = gr.Button("Complete", variant="primary", elem_id="complete")
        outputs = []
        with gr.Row():
            for place, stage in enumerate(demo.stages):
                with gr.Column():
                    outputs.append(_text(gr, stage, f"completion-{place}"))
                    outputs.append(_text(gr, f"Rewards, {stage}", f"rewards-{place}"))
        outputs.append(_text(gr, "Notes", "notes"))
        button.click(complete, [prompt, references, seed], outputs, api_name="complete")
    return page


def serve(
    folder: Path, host: str = "127.0.0.1", port: int = 7860, token: str | None = None, waits: bool = True
) -> Any:
    """Serve the page of a run.

    Args:
        folder (`Path`): the run's `output_dir`.
        host (`str`), port (`int`)
        token (`str`, *optional*): what people must know to get in; needed on any address but this machine's own.
        waits (`bool`): return when the page is closed, or at once.

    Returns:
        The page; `local_url` is its address, and `close()` ends it.

    Raises:
        UserError: another address without a token, a port that is taken, no finished run, or Gradio is not installed.
    """
    # A mistake is told before what takes seconds is imported.
    check_address(host, port, token, TOKEN_VARIABLE)
    check_is_run(folder)
    if not holds_model(folder):
        raise UserError(f"{folder} has no reinforced model yet: it is saved when the run's training ends.")
    require_package("gradio", "the page of a demo", "people")
    from .completions import Demo

    demo = Demo(folder)
    page = make_page(demo, f"{demo.recipe.name}: {' and '.join(demo.stages)}")
    launch(page, host, port, token, waits, "Any name of your own, and the token.")
    return page


def _text(gr: Any, label: str, name: str) -> Any:
    return gr.Textbox(label=label, interactive=False, lines=1, max_lines=30, elem_id=name)


def _rewards(shown: Shown) -> str:
    """A line for each function, and one for their weighted sum."""
    return "\n".join(f"{name}: {_number(value)}" for name, value in {**shown.rewards, "score": shown.score}.items())


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"

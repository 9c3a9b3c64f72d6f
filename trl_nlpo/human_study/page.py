"""The page where people judge: a Gradio app, on this machine or as a Space.

Written against Gradio 6.31; only its public names are used. A model's text is shown in text boxes and never as HTML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..naming import require_package
from ..serving import check_address, launch
from .study import TIE, Study


if TYPE_CHECKING:
    import gradio

_KEYS = """
<script>
document.addEventListener("keydown", (event) => {
  const target = event.target;
  const isText = target.tagName === "TEXTAREA" || (target.tagName === "INPUT" && target.type !== "radio");
  if (isText && !target.readOnly && !target.disabled) return;
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const names = {"0": "choose-tie", "u": "undo", "Enter": "submit"};
  const name = /^[1-9]$/.test(event.key) ? "choose-" + event.key : names[event.key];
  const button = name && document.getElementById(name);
  if (button) { event.preventDefault(); button.click(); }
});
</script>
"""
_STYLE = """
.text textarea, #question textarea {
  font-size: 1.05rem; line-height: 1.5; opacity: 1;
  color: var(--body-text-color) !important; -webkit-text-fill-color: var(--body-text-color) !important;
}
#question textarea { font-weight: 600; }
#progress { text-align: right; opacity: 0.7; }
.gradio-container { width: 100% !important; max-width: 860px !important; margin: auto; }
@media (max-width: 600px) { .gradio-container main { padding: 0.5rem !important; } }
footer { display: none !important; }
"""


def make_page(study: Study, has_login: bool = False) -> gradio.Blocks:
    """The page of a study.

    Args:
        study ([`Study`])
        has_login (`bool`): people have given their name when they logged in; otherwise the page asks for it.

    Raises:
        UserError: Gradio is not installed.
    """
    return _Page(require_package("gradio", "the page of a study", "people"), study, has_login).blocks()


class _Page:
    """Components, and what a click does. Every click returns new values for all components."""

    def __init__(self, gr: Any, study: Study, has_login: bool):
        self.gr, self.study, self.has_login = gr, study, has_login
        self.settings = study.settings
        self.is_rating = self.settings.kind == "likert"
        self.size = max(len(item["completions"]) for item in study.items())

    def shown(self, annotator: str) -> list[Any]:
        """What every component shows this person now."""
        update, study = self.gr.update, self.study
        question = study.next_question(annotator) if annotator else None
        answered, total = study.progress(annotator) if annotator else (0, 0)
        texts = () if question is None else question.completions
        there = [place < len(texts) for place in range(self.size)]
        values = [*texts, *[""] * (self.size - len(texts))]
        return [
            annotator,
            "" if question is None else str(question.shown),
            f"{answered} of {max(total, answered)}" if annotator else "",
            update(visible=not annotator),
            update(visible=question is not None),
            update(visible=bool(annotator) and question is None),
            "" if question is None else question.prompt,
            *(update(value=value, visible=is_there) for value, is_there in zip(values, there, strict=True)),
            *(update(visible=is_there) for is_there in ([] if self.is_rating else there)),
            *([None] * len(self.settings.criteria) if self.is_rating else []),
            update(visible=answered > 0),
        ]

    def begin(self, name: str) -> list[Any]:
        """A name was given."""
        name = (name or "").strip()
        if not name:
            raise self.gr.Error("Please give a name; it keeps your place.")
        return self.shown(name)

    def choose(self, place: int) -> Any:
        """What the button of a completion does."""

        def chosen(annotator: str, number: str) -> list[Any]:
            return self._answered(annotator, number, place)

        return chosen

    def rate(self, annotator: str, number: str, *values: int | None) -> list[Any]:
        """The scales were filled in."""
        rated = dict(zip(self.settings.criteria, values, strict=True))
        missing = [name for name, value in rated.items() if value is None]
        if missing:
            raise self.gr.Error(f"Please rate: {', '.join(missing)}.")
        return self._answered(annotator, number, {name: int(value or 0) for name, value in rated.items()})

    def _answered(self, annotator: str, number: str, answer: Any) -> list[Any]:
        """An answer to the question that the browser shows: a second key, pressed too soon, answers none unseen."""
        if number:
            self.study.answer(annotator, int(number), answer)
        return self.shown(annotator)

    def take_back(self, annotator: str) -> list[Any]:
        """The last answer was undone."""
        self.study.undo(annotator)
        return self.shown(annotator)

    def blocks(self) -> gradio.Blocks:
        """The components, in the order of the page."""
        gr = self.gr
        with gr.Blocks(title="What do you think?", analytics_enabled=False) as page:
            annotator = gr.State("")
            number = gr.Textbox("", visible="hidden", elem_id="number")
            with gr.Row():
                gr.Markdown("## What do you think?")
                progress = gr.Markdown("", elem_id="progress")
            with gr.Group(visible=not self.has_login) as login:
                name = gr.Textbox(label="Your name or number", elem_id="name", autofocus=True)
                start = gr.Button("Start", variant="primary", elem_id="start")
            with gr.Column(visible=False) as asking:
                prompt = self._text("Given", "prompt")
                gr.Textbox(
                    self.settings.question, show_label=False, interactive=False, container=False, elem_id="question"
                )
                texts, buttons = [], []
                for place in range(1, self.size + 1):
                    texts.append(self._text("Text" if self.is_rating else str(place), f"text-{place}"))
                    if not self.is_rating:
                        buttons.append(gr.Button(f"Choose {place}", elem_id=f"choose-{place}"))
                scales = self._scales() if self.is_rating else []
                tie = gr.Button(
                    "As good as each other (0)", elem_id="choose-tie", visible=self.settings.kind == "pairwise"
                )
                submit = gr.Button("Next (Enter)", variant="primary", elem_id="submit", visible=self.is_rating)
            with gr.Column(visible=False) as thanks:
                gr.Markdown("**That is all for now. Thank you!**", elem_id="done")
            undo = gr.Button("Undo (u)", size="sm", elem_id="undo", visible=False)
            outputs = [annotator, number, progress, login, asking, thanks, prompt, *texts, *buttons, *scales, undo]
            quiet: dict[str, Any] = {"outputs": outputs, "show_progress": "hidden", "api_visibility": "private"}
            start.click(self.begin, name, **quiet)
            name.submit(self.begin, name, **quiet)
            for place, button in enumerate(buttons):
                button.click(self.choose(place), [annotator, number], **quiet)
            tie.click(self.choose(TIE), [annotator, number], **quiet)
            submit.click(self.rate, [annotator, number, *scales], **quiet)
            undo.click(self.take_back, annotator, **quiet)
            if self.has_login:
                page.load(self._of_login(), None, **quiet)
        return page

    def _text(self, label: str, name: str) -> Any:
        return self.gr.Textbox(
            label=label, interactive=False, lines=1, max_lines=40, elem_id=name, elem_classes="text"
        )  # fmt: skip

    def _scales(self) -> list[Any]:
        words = [(word, number) for number, word in enumerate(self.settings.scale, 1)]
        return [
            self.gr.Radio(words, label=wording, elem_id=f"rate-{position}")
            for position, wording in enumerate(self.settings.criteria.values(), 1)
        ]

    def _of_login(self) -> Any:
        def begin(request: Any) -> list[Any]:
            return self.shown(str(request.username or ""))

        # By this annotation Gradio knows what to hand over.
        begin.__annotations__ = {"request": self.gr.Request}
        return begin


TOKEN_VARIABLE = "TRL_NLPO_STUDY_TOKEN"
"""Of the environment: the token that lets people judge."""


def serve(
    study: Study, host: str = "127.0.0.1", port: int | None = None, token: str | None = None, waits: bool = True
) -> Any:
    """Serve the page.

    Args:
        study ([`Study`]), host (`str`), port (`int`, *optional*): by default the first free one from 7860.
        token (`str`, *optional*): what people must know to get in; needed on any address but this machine's own.
        waits (`bool`): return when the page is closed, or at once.

    Returns:
        The page; `local_url` is its address, and `close()` ends it.

    Raises:
        UserError: another address without a token, a port that is taken, or Gradio is not installed.
    """
    check_address(host, port, token, TOKEN_VARIABLE)
    page = make_page(study, has_login=token is not None)
    welcome = "Any name of your own, which keeps your place, and the token."
    launch(page, host, port, token, waits, welcome, head=_KEYS, css=_STYLE)
    return page

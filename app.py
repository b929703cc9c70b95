"""A page that judges one comment in its thread: `make app` or `python app.py`, then open the address that it prints."""

from __future__ import annotations

import functools
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from moderation import Article, Comment, Moderator

EXAMPLE = (
    "Council votes to close the Old Mill Bridge for two years",
    "The town council voted 9 to 6 to close the bridge. Two of its four piers are cracked. Shopkeepers fear for their trade.",
    "",
    "Half my customers walk over it. Two winters without them and I can shut.",
)


@functools.cache
def moderator() -> Moderator:
    """The default model, loaded when it is first needed."""
    return Moderator.from_pretrained()


def judge(title: str, text: str, parent: str, comment: str) -> tuple[dict[str, float], str, str]:
    """Probabilities by label, the proposed action and the reason, for one comment."""
    [verdict] = moderator().predict([Comment(comment, article=Article(title=title, text=text), parent_text=parent)])
    return dict(verdict.probabilities), verdict.action, verdict.reason


def build() -> gr.Blocks:
    """The page; every text goes through components that show it as plain text."""
    with gr.Blocks(title="Does this comment belong here?") as page:
        gr.Markdown("# Does this comment belong under this article?")
        with gr.Row():
            with gr.Column():
                title = gr.Textbox(EXAMPLE[0], label="Article: title")
                text = gr.Textbox(EXAMPLE[1], label="Article: text", lines=8)
                parent = gr.Textbox(EXAMPLE[2], label="The comment it answers (if any)", lines=2)
                comment = gr.Textbox(EXAMPLE[3], label="Comment", lines=5)
                button = gr.Button("Judge", variant="primary")
            with gr.Column():
                label = gr.Label(label="Label", num_top_classes=4)
                action = gr.Textbox(label="Proposed action", interactive=False)
                reason = gr.Textbox(label="Why", interactive=False, lines=3)
        inputs, outputs = [title, text, parent, comment], [label, action, reason]
        button.click(judge, inputs, outputs, api_visibility="private")
        page.load(judge, inputs, outputs, api_visibility="private")
    return page


if __name__ == "__main__":
    build().launch(server_name="127.0.0.1", share=False, run_history=False, footer_links=[])

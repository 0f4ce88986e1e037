"""The look of the page: the colours and letters of the report, as far as gradio's theme has a place for them."""

from pathlib import Path

import gradio

STYLE = (Path(__file__).parent / "templates" / "page.css").read_text("utf-8")
LETTERS = ("Inter", "ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONOSPACED = ("ui-monospace", "SF Mono", "Cascadia Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
PALETTE = {
    "page": ("#fbfaf8", "#14171a"), "card": ("#ffffff", "#1c2024"), "ink": ("#1d2126", "#e8e8e5"),
    "quiet": ("#646c76", "#9aa2ab"), "line": ("#e4e2dd", "#31373d"), "accent": ("#0f6b6b", "#5fc4bd"),
    "tint": ("#eaf4f2", "#17302f"),
}  # fmt: skip
"""Name -> in light and in dark: those of page.css."""
PLACES = {
    "body_background_fill": "page", "background_fill_primary": "page", "background_fill_secondary": "card",
    "body_text_color": "ink", "body_text_color_subdued": "quiet", "block_background_fill": "page",
    "block_label_text_color": "quiet", "block_title_text_color": "quiet", "block_info_text_color": "quiet",
    "border_color_primary": "line", "border_color_accent": "accent", "color_accent_soft": "tint",
    "input_background_fill": "card", "input_background_fill_focus": "card", "input_border_color": "line",
    "input_border_color_focus": "accent", "input_placeholder_color": "quiet", "link_text_color": "accent",
    "button_primary_background_fill": "accent", "button_primary_background_fill_hover": "accent",
    "button_primary_text_color": "page", "button_secondary_background_fill": "card",
    "button_secondary_background_fill_hover": "tint", "button_secondary_border_color": "line",
    "button_secondary_text_color": "ink", "checkbox_background_color": "card",
    "checkbox_background_color_selected": "accent", "checkbox_border_color": "line",
    "checkbox_border_color_selected": "accent", "checkbox_label_background_fill": "card",
    "checkbox_label_background_fill_selected": "tint", "checkbox_label_border_color": "line",
    "checkbox_label_border_color_selected": "accent", "checkbox_label_text_color_selected": "ink",
    "slider_color": "accent", "accordion_text_color": "quiet",
}  # fmt: skip
"""gradio's name of a place -> the colour there."""


def theme() -> gradio.themes.Base:
    """Letters that are on the machine, and none from elsewhere."""
    plain = gradio.themes.Base(
        primary_hue="teal", neutral_hue="gray", text_size="md", radius_size="lg", font=LETTERS, font_mono=MONOSPACED
    )
    light = {place: PALETTE[name][0] for place, name in PLACES.items()}
    dark = {f"{place}_dark": PALETTE[name][1] for place, name in PLACES.items()}
    shape = {"block_border_width": "0px", "block_padding": "0px", "block_shadow": "none", "input_border_width": "1px"}
    return plain.set(**light, **dark, **shape)

"""Shows segmentation as a page in the browser: drop an image, name classes, look at masks and scores, download them.

    python tools/demo.py
    python tools/demo.py --weights pretrained/ViT-B-16.pt --training-free naclip --port 8000

Prints the address of the page. It needs no network, and its files are deleted at the end. pip install 'gradio>=6'
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_weights_options, exit_code, run

import html
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jseg.data.class_names import SHAPES_NAMES, class_palette
from jseg.data.image_files import read_stored_labels
from jseg.drawing import GREY, overlay
from jseg.errors import UserError
from jseg.files import shipped
from jseg.segmentation import Segmentation
from jseg.segmenter import Segmenter, load_segmenter


def legend(result: Segmentation) -> str:
    """HTML table of colours, names and shares, largest first."""
    colours = dict(zip((*result.names, "none of these"), [*class_palette(result.names).tolist(), GREY], strict=True))
    row = '<tr><td style="width: 2em; background: rgb({},{},{})"><td>{}<td>{:.1f} %'
    shares = sorted(result.shares.items(), key=lambda item: -item[1])
    return "<table>" + "".join(row.format(*colours[name], html.escape(name), 100 * share) for name, share in shares)


def score_map(scores: np.ndarray) -> np.ndarray:
    """Scores (H, W) float32 in 0..1 as an image, 480 pixels wide, uint8 RGB: 0 dark, 1 yellow."""
    small = cv2.resize(scores, (480, max(1, 480 * scores.shape[0] // scores.shape[1])))
    return cv2.applyColorMap((255 * small).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]


def answer(segmenter: Segmenter, image: str | None, names: str, others: str, threshold: float) -> tuple:
    """Legend (or an error), overlay, score maps and files for an upload."""
    path = Path(image or "to segment")
    try:
        result = segmenter(path, names, others=others, threshold=threshold or None, with_scores=True)
        folder, parts = tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]), ("labels", "overlay", "masks", "json")
        drawn = overlay(result.image, result.labels, class_palette(result.names), names=result.names)
        maps = [(score_map(scores), name) for scores, name in zip(result.scores, result.names, strict=True)]
        return legend(result), drawn, maps, [*map(str, result.save(folder, path.stem, parts))]
    except Exception as error:  # the page goes on
        exit_code(error)  # prints it, and keeps the details of an internal one
        line = str(UserError(str(error))).replace(str(path), path.name)
        return f'<b style="color: #c00">error: {html.escape(line)}</b>', None, None, None


def build(segmenter: Segmenter) -> Any:
    """The page: a `gradio.Interface`."""
    import gradio

    scenes = []
    for scene in sorted(shipped("examples").glob("scene_*.jpg")):
        there = np.unique(read_stored_labels(scene.parent / "masks" / f"{scene.stem}.png"))[:-1]  # 255: no class
        scenes.append([str(scene), ", ".join(SHAPES_NAMES[index] for index in there), "", 0.3])
    image = gradio.Image(label="image", type="filepath", sources=["upload", "clipboard"])
    image.preprocess = lambda payload: payload and payload.path  # we say what is wrong with a file
    names = gradio.Textbox(label="classes", placeholder="cat|kitten, dog, grass")
    others = gradio.Textbox(label="others: what they win is none of the classes", placeholder="wall, sky")
    threshold = gradio.Slider(0, 1, 0, step=0.05, label="threshold: pixels that score less are none of the classes")
    buttons = ["download", "fullscreen"]  # none that shares
    drawn = gradio.Image(label="classes", format="png", interactive=False, buttons=buttons)
    maps = gradio.Gallery(label="scores: dark 0, yellow 1", columns=3, object_fit="contain", buttons=buttons)
    files = gradio.File(label="label map, overlay, masks, COCO annotations", file_count="multiple")
    return gradio.Interface(
        lambda *inputs: answer(segmenter, *inputs), [image, names, others, threshold],
        [gradio.HTML(elem_id="legend"), drawn, maps, files], title="jseg", submit_btn="Segment",
        description=html.escape(segmenter.notes[-1]), examples=scenes, cache_examples=False,
        example_labels=[Path(scene[0]).stem for scene in scenes], flagging_mode="never", api_name="segment",
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Serves the page until Ctrl-C."""
    parser = ArgumentParser(__doc__)
    add_weights_options(parser, default="shapes")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in; default: 127.0.0.1")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="jseg_demo_") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
        try:
            import gradio  # noqa: F401  # before Jittor, which switches subnormal numbers off
        except ImportError as error:
            raise UserError("the demo needs gradio: pip install 'gradio>=6'") from error
        segmenter = load_segmenter(options.weights, options.device, options.clip, options.config_file,
                                   options.precision, options.training_free)  # fmt: skip
        segmenter(shipped("examples/scene_1.jpg"), "star", with_scores=True)  # compiles what the first answer needs
        launch = {"share": False, "quiet": True, "prevent_thread_lock": True, "ssr_mode": False, "footer_links": []}
        try:
            _, url, _ = build(segmenter).launch(server_name=options.host, server_port=options.port, **launch)
        except OSError as error:
            place = f"--host {options.host} --port {options.port or '7860 to 7959'}"
            raise UserError(f"{place}: taken, or no address of this machine: choose another") from error
        print(f"open {url} in a browser; Ctrl-C ends the demo", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    run(main)

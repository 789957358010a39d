"""A Space that draws from one published model; `publish.py --space` wrote it, with the pipeline's file beside it.

pip install -r requirements.txt
python app.py
"""

import json
from pathlib import Path

import gradio as gr
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DModel
from huggingface_hub import hf_hub_download
from pipeline_class_conditional import ArgumentError, ClassConditionalPipeline, NonFiniteImages

MODEL = "OWNER/NAME"
REVISION = None
MOST = 32
"""Images of one picture."""
LARGE = 256
"""Pixels to which small images are enlarged."""

PROGRESS = gr.Progress()

device = "cuda" if torch.cuda.is_available() else "cpu"
# From its parts, so that no code of the repository runs: the pipeline is the file beside this one.
unet = UNet2DModel.from_pretrained(MODEL, revision=REVISION, subfolder="unet")
# Ten to twenty steps of this solver are as good as hundreds of DDPM's; log-SNR −10.2 is as noisy as it can start.
scheduler = DPMSolverMultistepScheduler.from_pretrained(
    MODEL, revision=REVISION, subfolder="scheduler", thresholding=True, sample_max_value=1.0, lambda_min_clipped=-5.1
)
index = json.loads(Path(hf_hub_download(MODEL, "model_index.json", revision=REVISION)).read_text(encoding="utf-8"))
pipeline = ClassConditionalPipeline(unet.eval(), scheduler, index.get("id2label")).to(device)
pipeline.set_progress_bar_config(disable=True)
names = list(pipeline.id2label.values())


def draw(chosen, count, guidance_scale, steps, seed, progress=PROGRESS):
    """Images of the chosen classes, each with its caption."""
    labels = [name for name in chosen or names for _ in range(int(count))][:MOST] if names else None
    total = len(labels) if labels else int(count)

    def step(_pipeline, number, _timestep, _tensors):
        progress((number + 1, int(steps)), unit="steps")
        return {}

    try:
        images = pipeline(
            class_labels=labels,
            batch_size=total,
            guidance_scale=float(guidance_scale) if names else 1.0,
            num_inference_steps=int(steps),
            generator=[torch.Generator().manual_seed(int(seed) + i) for i in range(total)],
            callback_on_step_end=step,
        ).images
    except (ArgumentError, NonFiniteImages) as error:
        raise gr.Error(str(error)) from error
    zoom = max(1, LARGE // images[0].width)
    size = images[0].width * zoom, images[0].height * zoom
    captions = labels or [""] * total
    return [
        (image.resize(size, 0), f"{name} seed {int(seed) + i}")
        for i, (image, name) in enumerate(zip(images, captions))
    ]


with gr.Blocks(title=MODEL) as app:
    gr.Markdown(
        f"# {MODEL}\nClass-conditional diffusion with classifier-free guidance. [The model](https://hf.co/{MODEL})"
    )
    with gr.Row():
        with gr.Column(scale=1):
            chosen = gr.Dropdown(names, value=names[:4], multiselect=True, label="Classes", visible=bool(names))
            count = gr.Slider(1, 8, value=2, step=1, label="Images of each class" if names else "Images")
            scale = gr.Slider(0, 8, value=2, step=0.1, label="Guidance scale", visible=bool(names))
            steps = gr.Slider(1, 100, value=20, step=1, label="Steps")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            button = gr.Button("Draw", variant="primary")
        with gr.Column(scale=2):
            gallery = gr.Gallery(label="Images", columns=4, format="png")
    button.click(draw, [chosen, count, scale, steps, seed], gallery, concurrency_limit=1, api_name="draw")

if __name__ == "__main__":
    app.queue(max_size=20).launch()

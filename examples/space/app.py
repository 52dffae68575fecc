# SPDX-License-Identifier: Apache-2.0
"""A Space of the Hugging Face Hub: molecules around a molecule, and better ones near it."""

import io
import os

import gradio as gr
from PIL import Image

from cmim_hf import DEFAULT_CHECKPOINT, MoleculeGenerator
from cmim_hf.chemistry.drawing import draw_grid
from cmim_hf.chemistry.smiles import similarities

EXAMPLES = ["CC(=O)Nc1ccc(O)cc1", "CC(C)Cc1ccc(C(C)C(=O)O)cc1", "COc1ccc2[nH]cc(CCNC(C)=O)c2c1"]
SCORERS = {"drug-likeness (QED)": {"qed": 1}, "ease of synthesis": {"sa_score": -1}}

generator = MoleculeGenerator(os.environ.get("CMIM_CHECKPOINT", DEFAULT_CHECKPOINT), progress=False)


def picture(smiles: list[str | None], legends: list[str]) -> Image.Image:
    """The molecules drawn."""
    return Image.open(io.BytesIO(draw_grid(smiles, legends)))


def around(smiles: str, radius: float, keep: str) -> tuple[Image.Image, str]:
    """The molecule, its reconstruction and molecules around it."""
    try:
        given, *_ = generator.texts([smiles.strip()])
        (back,) = generator.reconstruct([given])
        how = {"keep": keep.strip()} if keep.strip() else {}
        near, info = generator.sample_around(
            given, radius, 10, unique=True, max_draws=30, return_info=True, **how
        )
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error
    legends = [f"similarity {one:.2f}" for one in similarities(given, near)]
    exact = "reconstruction, exact" if back == given else "reconstruction"
    return picture([given, back, *near], ["given", exact, *legends]), str(info)


def better(smiles: str, scorer: str, similarity: float) -> tuple[Image.Image, str]:
    """The best molecules of a search near one."""
    try:
        found = generator.optimize(
            [smiles.strip()], SCORERS[scorer], budget=200, min_similarity=similarity
        )
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error
    best = found.table.dropna(subset="score").nlargest(12, "score")
    legends = [f"{row.score:.2f}, similarity {row.similarity:.2f}" for row in best.itertuples()]
    return picture(best["smiles"].tolist(), legends), str(found)


with gr.Blocks(title="cMIM molecules") as demo:
    gr.Markdown("# Molecules through their codes\nPaste a SMILES and look around it.")
    smiles = gr.Textbox(EXAMPLES[0], label="SMILES", max_length=300)
    gr.Examples(EXAMPLES, smiles)
    with gr.Tab("Around it"):
        radius = gr.Slider(0, 2, 0.7, label="Radius of the noise")
        keep = gr.Textbox(label="Keep this substructure (SMILES or SMARTS)", max_length=200)
        draw = gr.Button("Draw molecules", variant="primary")
    with gr.Tab("Better ones"):
        scorer = gr.Dropdown(list(SCORERS), label="Improve", value=next(iter(SCORERS)))
        similarity = gr.Slider(0, 0.9, 0.3, label="Least similarity")
        search = gr.Button("Search", variant="primary")
    image, told = gr.Image(label="Molecules"), gr.Textbox(label="What happened")
    draw.click(around, [smiles, radius, keep], [image, told], concurrency_id="model")
    search.click(better, [smiles, scorer, similarity], [image, told], concurrency_id="model")

if __name__ == "__main__":
    demo.queue(max_size=20).launch()

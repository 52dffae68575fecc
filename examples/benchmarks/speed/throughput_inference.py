# SPDX-License-Identifier: Apache-2.0
"""Rates of embedding and of decoding, ours and the peers'."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cmim_hf import CMIMConfig, CMIMModel, MoleculeEmbedder
from cmim_hf.cpu_kernels import speed_up
from cmim_hf.data.smiles_files import Row
from cmim_hf.data.token_batches import padded_batches
from cmim_hf.model.decoding_cmim import decode_latents

from ..quality.molecule_tasks import ecfp4
from ..quality.peer_packages import minimol_seconds
from .peers import ENCODERS, encoder, encoder_decoders
from .roofline import clock, decoder_flops, encoder_flops, gemm_rate
from .turns import take_turns

PEER_ROWS = 128  # molecules of a peer's batch, padded to the longest
SLOW_ROWS = 512  # what is timed of peers of fixed size, which take long
TOKENS = 40


def embedding(
    config: CMIMConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    smiles: Sequence[str],
    rounds: int,
    peers: bool,
    packages: str | None = None,
) -> list[dict[str, object]]:
    """Rows of a table: latents and informative embeddings, and what stands beside them.

    MiniMol is among it where `packages` names the folder of its packages.
    """
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        CMIMModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        embedder = MoleculeEmbedder(folder, device=device, canonicalize=False, progress=False)
    parameters = embedder.model.num_parameters()
    rows = []
    for what in ("latent", "informative"):
        flops = embedding_flops(embedder, smiles, what)

        def ours(what: str = what) -> float:
            return len(smiles) / clock(lambda: embedder.embed(smiles, representation=what))

        ways: dict[str, Callable[[], float]] = {what: ours}
        if peers:
            for name in ENCODERS:
                ways[name] = _stock(encoder(name, config).to(device), tokenizer, smiles)
            few = smiles[:SLOW_ROWS]
            ways["ECFP4 of RDKit"] = lambda few=few: len(few) / clock(lambda: ecfp4(few))
            if packages:
                ways["MiniMol"] = lambda few=few: len(few) / minimol_seconds(few, packages)
        for way in ways.values():
            way()

        def limit(flops: float = flops) -> float:
            rate = gemm_rate(config, embedder.batch_tokens, device, embedder.model.dtype)
            return len(smiles) / (flops / rate)

        turns = take_turns(ways, rounds, limit)
        rows += [{"embedding": name, **turns.row(name)} for name in ways]
        rows[-len(ways)]["embedding"] = f"{what}, {parameters:,} parameters"
        rows[-len(ways)]["tokens and batches"] = round(
            reading_seconds(embedder, smiles) * turns.row(what)["molecules/s"] / len(smiles), 3
        )
    return [{"tokens and batches": None, **row} for row in rows]


def embedding_flops(embedder: MoleculeEmbedder, smiles: Sequence[str], what: str) -> float:
    """Operations that the embedder's distinct real tokens need."""
    distinct = list(dict.fromkeys(smiles))
    lengths = embedder.encoder()([Row("", 0, text) for text in distinct]).lengths
    flops = encoder_flops(embedder.model.config, lengths)
    if what == "informative":
        flops += decoder_flops(embedder.model.config, lengths, logits=False)
    return flops


def reading_seconds(embedder: MoleculeEmbedder, smiles: Sequence[str]) -> float:
    """Seconds of checking, tokenising and batching alone."""

    def read() -> None:
        encoded = embedder.encoder()([Row("", number, text) for number, text in enumerate(smiles)])
        rows = np.arange(len(encoded.lengths))
        for _ in padded_batches(encoded, rows, embedder.batch_tokens, 0):
            pass

    return clock(read)


def _rate(number: int, work: Callable[[], object]) -> float:
    return number / clock(work)


def _stock(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, smiles: Sequence[str]
) -> Callable[[], float]:
    """The rate of an encoder in batches as they come, with the mean over tokens."""
    large = model.num_parameters() > 10e6 and model.device.type == "cpu"
    chosen = smiles[:SLOW_ROWS] if large else smiles[: 8 * SLOW_ROWS]

    @torch.inference_mode()
    def embed() -> None:
        for start in range(0, len(chosen), PEER_ROWS):
            batch = tokenizer(
                list(chosen[start : start + PEER_ROWS]), padding=True, return_tensors="pt"
            ).to(model.device)
            states = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            ((states * mask).sum(dim=1) / mask.sum(dim=1)).float().cpu().numpy()

    return lambda: len(chosen) / clock(embed)


@torch.inference_mode()
def decoding(
    config: CMIMConfig, device: torch.device, sizes: Sequence[int], rounds: int, peers: bool
) -> list[dict[str, object]]:
    """Rows of a table: 40 tokens for each code, in batches of some sizes."""
    torch.manual_seed(0)
    never_ends = CMIMConfig.from_dict({**config.to_dict(), "eos_token_id": config.vocab_size})
    model = CMIMModel(never_ends).to(device).eval()
    speed_up(model)
    exact = {"max_new_tokens": TOKENS, "do_sample": False}
    others = encoder_decoders(config, model.num_parameters()) if peers else {}
    built = {name: build().to(device).eval() for name, build in others.items()}
    rows = []
    for size in sizes:
        codes = torch.randn(size, config.num_latents, config.latent_size, device=device)
        ids = torch.randint(5, config.vocab_size, (size, TOKENS), device=device)
        decoders: dict[str, Callable[[], object]] = {
            "decode_latents": partial(decode_latents, model, codes, max_length=TOKENS + 1),
            "generate": partial(model.generate, latents=codes, **exact),
        }
        for name, peer in built.items():
            decoders[f"generate of {name}"] = partial(
                peer.generate, ids, min_new_tokens=TOKENS, **exact
            )
        ways = {name: partial(_rate, size, decode) for name, decode in decoders.items()}
        for way in ways.values():
            way()
        flops = decoder_flops(config, np.full(size, TOKENS))

        def limit(flops: float = flops, size: int = size) -> float:
            return size / (flops / gemm_rate(config, size, device, model.dtype))

        turns = take_turns(ways, rounds, limit)
        rows += [{"codes": size, "decoding": name, **turns.row(name)} for name in ways]
    return rows

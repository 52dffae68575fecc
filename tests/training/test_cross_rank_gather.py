# SPDX-License-Identifier: Apache-2.0
"""Two gloo ranks against one process: gathered rows, losses and gradients."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from cmim_hf.training.cross_rank_gather import gather_rows, leave_process_group
from cmim_hf.training.objectives import Objective

RANKS, BATCH, FEATURES, SIZE = 2, 6, 5, 4
OBJECTIVES = {
    "cmim dense": Objective("cmim", temperature=0.5),
    "infonce": Objective("infonce", temperature=0.5),
    "cmim with properties": Objective("cmim", temperature=0.5, property_weight=0.7),
}


def global_batch(name):
    """Features of all rows (rank 0's first) and one key a molecule; two molecules repeat."""
    views = 2 if name == "infonce" else 1
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(
        RANKS * BATCH * views, FEATURES, generator=generator, dtype=torch.float64
    )
    keys = torch.arange(RANKS * BATCH)
    keys[BATCH] = keys[0]
    keys[-1] = keys[-2]
    return features, keys


def make_encoder():
    torch.manual_seed(3)
    return nn.Linear(FEATURES, 2 * SIZE).double()


def properties_of(mean, features):
    """Two projections of three properties, and labels that some rows lack, in part or all."""
    labels = features[:, :3].clone()
    labels[labels > 0.8] = float("nan")
    labels[labels[:, 0] < 0] = float("nan")
    return torch.stack((mean[:, :3], mean[:, 1:4].square()), dim=1), labels


def mean_loss(objective, encoder, features, keys, gather):
    """Loss of this process's rows, and their latents with gradient retained."""
    mean, log_std = encoder(features).chunk(2, dim=1)
    latents = mean + log_std.exp() * features.mean(1, keepdim=True)
    latents.retain_grad()
    all_latents, offset = gather(latents)
    properties = labels = None
    if objective.property_weight == 0.7:
        properties, labels = properties_of(mean, features)
    output = objective(
        latents=latents,
        nll=mean.square().sum(1),
        mean=mean,
        log_std=log_std,
        all_latents=all_latents,
        offset=offset,
        keys=keys,
        properties=properties,
        property_labels=labels,
    )
    return output.loss.mean(), latents


def train_step(name, rank):
    features, keys = global_batch(name)
    own = features.chunk(RANKS)[rank]
    all_keys, _ = gather_rows(keys.chunk(RANKS)[rank].contiguous())
    encoder = nn.parallel.DistributedDataParallel(make_encoder())
    loss, latents = mean_loss(OBJECTIVES[name], encoder, own, all_keys, gather_rows)
    loss.backward()
    return {
        "features": own,
        "keys": all_keys,
        "loss": loss.detach(),
        "latents": latents.detach(),
        "latents_grad": latents.grad,
        "gradients": [parameter.grad for parameter in encoder.parameters()],
    }


def error_of(gather, rows):
    try:
        gather(rows)
    except ValueError as error:
        return str(error)
    return "no error"


def rank_main(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS
    )
    results = {name: train_step(name, rank) for name in OBJECTIVES}
    rows = torch.full((2, 3, 4), float(rank), requires_grad=True)
    gathered, offset = gather_rows(rows)
    upstream = torch.full_like(gathered, rank + 1.0)
    gathered.backward(upstream)
    results["upstream"] = [upstream.unique().tolist(), rows.grad.unique().tolist()]
    results["places"] = [gathered.mean((1, 2)).tolist(), offset, gather_rows(torch.arange(5))[1]]
    results["errors"] = [
        error_of(gather_rows, torch.zeros(3 + rank, 2)),
        error_of(gather_rows, torch.zeros(3 + rank, dtype=torch.int64)),
    ]
    torch.save(results, f"{folder}/rank{rank}.pt")
    leave_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(rank_main, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(RANKS)]


def one_process(name):
    features, keys = global_batch(name)
    if name == "infonce":  # one process holds first views of all ranks before second views
        order = torch.arange(len(features)).view(RANKS, 2, BATCH).transpose(0, 1).flatten()
        features = features[order]
    encoder = make_encoder()
    loss, latents = mean_loss(OBJECTIVES[name], encoder, features, keys, lambda rows: (None, 0))
    loss.backward()
    return encoder, loss.detach(), latents


def in_rank_order(name, rows):
    if name == "infonce":
        return rows.view(2, RANKS, BATCH, -1).transpose(0, 1).flatten(0, 2)
    return rows


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_take_the_step_of_one_process(ranks, name):
    first, second = (results[name] for results in ranks)
    assert (first["features"] - second["features"]).abs().min() > 1e-6
    encoder, loss, latents = one_process(name)

    for results in (first, second):
        torch.testing.assert_close(results["keys"], global_batch(name)[1])
        for gradient, parameter in zip(results["gradients"], encoder.parameters(), strict=True):
            assert parameter.grad.abs().max() > 1e-3
            torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close((first["loss"] + second["loss"]) / 2, loss, rtol=0, atol=1e-12)
    both = {key: torch.cat((first[key], second[key])) for key in ("latents", "latents_grad")}
    torch.testing.assert_close(both["latents"], in_rank_order(name, latents.detach()))
    # Each rank minimises its own mean, so the gradient of a code is RANKS times the global one.
    expected = in_rank_order(name, latents.grad)
    torch.testing.assert_close(both["latents_grad"] / RANKS, expected, rtol=0, atol=1e-12)


def test_negatives_on_other_ranks_matter(ranks):
    """Without them the loss of a rank is another one, so the test above tests the gather."""
    results = ranks[0]["cmim dense"]
    _, keys = global_batch("cmim dense")
    alone, _ = mean_loss(
        OBJECTIVES["cmim dense"],
        make_encoder(),
        results["features"],
        keys[:BATCH],
        lambda rows: (None, 0),
    )
    assert (alone - results["loss"]).abs() > 1e-3


def test_rows_lie_in_rank_order(ranks):
    assert [results["places"] for results in ranks] == [
        [[0.0, 0.0, 1.0, 1.0], 0, 0],
        [[0.0, 0.0, 1.0, 1.0], 2, 5],
    ]


def test_gradients_of_ranks_are_summed_and_the_incoming_one_is_left_alone(ranks):
    assert [results["upstream"] for results in ranks] == [[[1.0], [3.0]], [[2.0], [3.0]]]


def test_unequal_rows_raise_on_every_rank(ranks):
    for results in ranks:
        for message in results["errors"]:
            assert "[3, 4]" in message and "drop_last" in message


def test_one_process_gathers_nothing():
    rows, keys = torch.randn(3, 2, requires_grad=True), torch.arange(3)
    gathered, offset = gather_rows(rows)
    assert gathered is rows and offset == 0
    assert gather_rows(keys) == (keys, 0)

# SPDX-License-Identifier: Apache-2.0
"""Muon against torch's (in bfloat16) and against singular values; AdamW against torch's."""

import copy

import pytest
import torch
from torch import nn

from cmim_hf.training.muon import MuonAdamW, orthogonalized, parameter_groups


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_singular_values_become_about_one_and_directions_stay(shape):
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(shape[0], 12))
    right, _ = torch.linalg.qr(torch.randn(shape[1], 12))
    values = torch.logspace(0, -1.5, 12)
    matrix = 5 * left @ values.diag() @ right.T
    found, other = orthogonalized(torch.stack((matrix, torch.randn(shape))))
    torch.testing.assert_close(orthogonalized(other[None] * 0 + matrix)[0], found)
    aligned = left.T @ found @ right
    assert ((aligned.diagonal() > 0.6) & (aligned.diagonal() < 1.3)).all(), aligned.diagonal()
    assert (aligned - aligned.diagonal().diag()).abs().max() < 1e-3


def two_layers():
    torch.manual_seed(1)
    model = nn.Module()
    model.embed = nn.Embedding(11, 16)
    model.layers = nn.ModuleList([nn.Linear(16, 48), nn.Linear(48, 16)])
    model.head = nn.Linear(16, 11)
    return model


def make(model, **changes):
    settings = {"lr": 2e-3, "muon_lr": 0.02, "weight_decay": 0.1, **changes}
    decayed = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}
    return MuonAdamW(parameter_groups(model, decayed=decayed, **settings))


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_matrices_of_layers_go_to_muon_and_everything_else_to_adamw():
    model = two_layers()
    groups = make(model).param_groups
    assert [group["muon"] for group in groups] == [False, False, True]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(each)] for each in groups[2]["params"]} == {
        "layers.0.weight", "layers.1.weight",
    }  # fmt: skip
    assert {names[id(each)] for each in groups[0]["params"]} == {"embed.weight", "head.weight"}
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9 on")
def test_both_halves_take_the_steps_of_torch():
    model, other = two_layers(), two_layers()
    ours = make(model)
    matrices = [layer.weight for layer in other.layers]
    known = {id(each) for each in matrices}
    rest = [each for each in other.parameters() if id(each) not in known]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.95)
    adamw = torch.optim.AdamW(
        [
            {"params": [each for each in rest if each.ndim == 2], "weight_decay": 0.1},
            {"params": [each for each in rest if each.ndim == 1], "weight_decay": 0.0},
        ],
        lr=2e-3,
    )
    start = copy.deepcopy(model)
    for step in range(4):
        for each in (model, other):
            gradients(each, step)
        ours.step()
        muon.step()
        adamw.step()
    before = dict(start.named_parameters())
    theirs = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        moved = theirs[name] - before[name]
        difference = (parameter - theirs[name]).norm() / moved.norm()
        assert moved.abs().max() > 1e-3, name
        limit = 0.02 if name in ("layers.0.weight", "layers.1.weight") else 1e-6
        assert difference < limit, (name, difference)


def test_a_saved_state_goes_on_exactly():
    def run(steps, model, optimizer):
        for step in steps:
            gradients(model, step)
            optimizer.step()

    whole, parted = two_layers(), two_layers()
    run(range(6), whole, make(whole))
    optimizer = make(parted)
    run(range(3), parted, optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    fresh = make(parted)
    fresh.load_state_dict(state)
    run(range(3, 6), parted, fresh)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parted.state_dict()[name]), name


def test_what_has_no_gradient_stays_and_muon_refuses_vectors():
    model = two_layers()
    before = copy.deepcopy(model.state_dict())
    make(model).step()
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    with pytest.raises(ValueError, match=r"Muon takes matrices, got a parameter of \(16,\)"):
        MuonAdamW([{"params": [nn.Parameter(torch.zeros(16))], "muon": True}])
